"""Measures of each class, of grades and at the frozen threshold, against the functions of one run and scikit-learn."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, cohen_kappa_score, confusion_matrix, roc_auc_score

from dashboards.blocks import NO_THRESHOLD, NO_VALIDATION
from dashboards.exclusions import Why
from dashboards.page_sections import page_sections
from dashboards.statistics import (
    check_predictions,
    choose_threshold,
    grade_auc,
    index_patients,
    patient_influence,
    top_k_accuracy,
)
from dashboards.statistics.precision_recall import average_precision, average_precision_derivative
from dashboards.statistics.ranked_precision import ap_influences, ranked_precision
from dashboards.statistics.ranked_runs import rank_runs
from dashboards.statistics.run_batches import mean_influences, share_influences
from dashboards.tables import build_tables
from dashboards.verdict.ledger import Ledger, read_of
from tests.dashboards.planted import make_planted, planted

WHERE = {"pretraining_source": "natural", "data_fraction": "1", "set": "test"}


def chosen(measures: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, value in (WHERE | values).items():
        measures = measures[measures[column] == value]
    return measures


def value_of(measures: pd.DataFrame, measure: str, label: str = "") -> float:
    return float(chosen(measures, measure=measure, label=label)["value"].item())


def sets_of(evidence, source="natural", fraction="1"):
    rows = evidence.results
    trials = rows[(rows["pretraining_source"] == source) & (rows["data_fraction"] == fraction)]["trial_id"]
    return [(evidence.predictions[t, "test"], evidence.validation.get(t)) for t in trials]


def test_of_one_label_at_the_threshold_of_validation():
    evidence, tables = planted()
    measures = tables.of("measures")
    assert set(measures["set"]) == {"test", "elsewhere"}
    auc, ap, rates = [], [], []
    for test, val in sets_of(evidence):
        y, z = test.y[:, 0], test.logits[:, 0]
        auc.append(roc_auc_score(y, z))
        ap.append(average_precision_score(y, z))
        cut = choose_threshold(val.y[:, 0], val.logits[:, 0], "specificity", 0.9).value
        (tn, fp), (fn, tp) = confusion_matrix(y, z >= cut)
        rates.append([tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn)])
    found = [value_of(measures, name, "tumour") for name in ("auc", "ap", "sensitivity", "specificity", "ppv", "npv")]
    assert found == pytest.approx([np.mean(auc), np.mean(ap), *np.mean(rates, axis=0)])
    rows = chosen(measures)
    assert (rows["low"] < rows["value"]).all()
    assert (rows["value"] < rows["high"]).all()
    assert set(rows["n_seeds"]) == {5}
    assert set(rows["prevalence"]) == {0.5}
    assert not rows["note"].any()


def test_grades_have_kappa_and_the_auc_of_this_grade_or_worse():
    evidence = make_planted(kind="multiclass", seeds=2, patients=90)
    graded = {k: dataclasses.replace(p, kind="ordinal") for k, p in evidence.predictions.items()}
    val = {k: dataclasses.replace(p, kind="ordinal") for k, p in evidence.validation.items()}
    measures = build_tables(dataclasses.replace(evidence, predictions=graded, validation=val)).of("measures")
    kappa, worse, top = [], [], []
    for test, _ in sets_of(evidence):
        kappa.append(cohen_kappa_score(test.y, test.logits.argmax(axis=1), weights="quadratic"))
        of_run = check_predictions("ordinal", test.labels, test.y, test.logits)
        worse.append([grade_auc(of_run, grade) for grade in test.labels[1:]])
        top.append(top_k_accuracy(of_run, 2))
    middle, worst = test.labels[1:]
    assert value_of(measures, "kappa") == pytest.approx(np.mean(kappa))
    assert value_of(measures, "top_2_accuracy") == pytest.approx(np.mean(top))
    found = [value_of(measures, "auc", f"{middle} or worse"), value_of(measures, "auc", worst)]
    assert found == pytest.approx(np.mean(worse, axis=0))
    assert chosen(measures, measure="top_5_accuracy").empty
    assert "kappa" not in set(planted("multiclass")[1].of("measures")["measure"])


def test_what_cannot_be_estimated_says_why():
    evidence = make_planted(seeds=2, patients=60)
    without = build_tables(dataclasses.replace(evidence, validation={})).of("measures")
    assert set(chosen(without, measure="ppv")["note"]) == {NO_VALIDATION}
    assert set(chosen(without, measure="auc")["note"]) == {""}
    healthy = {t: dataclasses.replace(p, y=np.zeros_like(p.y)) for t, p in evidence.validation.items()}
    one_class = build_tables(dataclasses.replace(evidence, validation=healthy))
    for name, column in (("measures", "value"), ("group_rates", "tpr")):
        rows = one_class.of(name)
        shown = (rows["positive_patients"] >= 10) & (rows["negative_patients"] >= 10)
        rows = rows[shown & (rows["measure"] == "sensitivity") if name == "measures" else shown]
        assert len(rows)
        assert rows[column].isna().all()
        assert set(rows["note"]) == {NO_THRESHOLD}
    few = {
        k: dataclasses.replace(p, y=np.where(np.arange(len(p.y))[:, None] < 6, 1.0, 0.0).astype(np.float32))
        for k, p in evidence.predictions.items()
    }
    rare = chosen(build_tables(dataclasses.replace(evidence, predictions=few)).of("measures"), measure="auc")
    assert rare["value"].isna().all()
    assert set(rare["note"]) == {"insufficient data (3+, 57−)"}


def test_a_set_without_a_label_has_no_calibration():
    """All of its images are masked, as of an external set that was never read for the finding."""
    evidence = make_planted(seeds=2, patients=60)
    masked = {k: dataclasses.replace(p, y=np.full_like(p.y, np.nan)) for k, p in evidence.predictions.items()}
    rows = build_tables(dataclasses.replace(evidence, predictions=masked)).of("probabilities")
    assert len(rows)
    assert rows[["ece", "slope", "intercept"]].isna().all(axis=None)


def test_a_run_that_diverged_leaves_the_means_of_its_cell_to_the_others():
    """Of every table on probabilities, subgroups and thresholds: fewer seeds, and the trial by name."""
    evidence = make_planted(seeds=3, patients=120)
    trial = evidence.results.query("pretraining_source == 'natural' and data_fraction == '1'")["trial_id"].iloc[0]
    logits = evidence.predictions[trial, "test"].logits.copy()
    logits[7] = np.inf
    predictions = dict(evidence.predictions)
    predictions[trial, "test"] = dataclasses.replace(predictions[trial, "test"], logits=logits)
    tables = build_tables(dataclasses.replace(evidence, predictions=predictions))
    less = evidence.results[evidence.results["trial_id"] != trial].reset_index(drop=True)
    expected = build_tables(dataclasses.replace(evidence, results=less))
    for name in ("measures", "group_gaps", "group_rates", "cross_group_auc", "selective", "probabilities", "harm"):
        found, wanted = chosen(tables.of(name)), chosen(expected.of(name))
        numbers = [c for c in found.select_dtypes("number") if not c.startswith(("null_", "p_")) and c != "p"]
        pd.testing.assert_frame_equal(
            found[numbers].reset_index(drop=True), wanted[numbers].reset_index(drop=True), check_dtype=False
        )
    (row,) = tables.exclusions.to_dict("records")
    assert (row["reason"], row["set"], row["trial_ids"]) == (Why.NOT_FINITE, "test", trial)


def test_the_page_shows_them():
    evidence, tables = planted("multiclass")
    shown = page_sections(evidence, tables, Ledger(this=read_of(evidence)))
    sections = {section.anchor: section for section in shown}
    titles = dict(sections["measures"].folded)
    assert set(titles) == {"By class", "Of the whole task"}
    assert set(titles["Of the whole task"]["measure"]) == {"balanced_accuracy", "top_2_accuracy"}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_average_precision_of_many_runs_is_that_of_each(seed, ties):
    rng = np.random.default_rng(seed)
    y = rng.choice([0.0, 1.0, np.nan], 40)
    z = rng.normal(size=(3, 40)).round(0 if ties else 12)
    z[2, 3] = np.nan
    known = ~np.isnan(y)
    values, derivative = ranked_precision(rank_runs(y, z))
    for r in range(2):
        assert values[r] == pytest.approx(average_precision(y, z[r]), nan_ok=True)
        if np.isfinite(values[r]):
            expected = average_precision_derivative(y[known] == 1, z[r, known])
            np.testing.assert_allclose(derivative[r], expected, atol=1e-12)
    if known[3]:
        assert np.isnan(values[2])
        assert np.isnan(derivative[2]).all()


def test_contributions_of_patients_are_those_of_one_run():
    rng = np.random.default_rng(0)
    y, z, patient = rng.choice([0.0, 1.0, np.nan], 60), rng.normal(size=(2, 60)).round(1), np.repeat(np.arange(30), 2)
    index = index_patients(patient)
    found = ap_influences("ap", rank_runs(y, z), index, "d")
    for r in range(2):
        expected = patient_influence("ap", "binary", ["d"], y, z[r], index)
        assert found[r].value == pytest.approx(expected.value)
        np.testing.assert_allclose(found[r].psi, expected.psi, atol=1e-14)
        np.testing.assert_array_equal(found[r].patients, expected.patients)
        assert (found[r].min_patients, found[r].classes) == (expected.min_patients, expected.classes)
    one_class = ap_influences("ap", rank_runs(np.ones(60), z), index, "d")
    assert np.isnan(one_class[0].value)
    assert one_class[0].undefined == ("d",)


def test_shares_of_what_counts_in_each_run():
    rng = np.random.default_rng(1)
    hits, index = (rng.random((2, 40)) < 0.6).astype(float), index_patients(np.repeat(np.arange(20), 2))
    counted = rng.random(40) < 0.4
    found = share_influences(np.where(counted, hits, np.nan), index)
    expected = mean_influences("accuracy", hits[..., None], index, counted=counted[:, None])
    for mine, other in zip(found, expected, strict=True):
        assert mine.value == pytest.approx(other.value)
        np.testing.assert_array_equal(mine.patients, other.patients)
        assert len(mine.patients) < 20  # the others say nothing, and lend no degrees of freedom
        np.testing.assert_allclose(mine.psi, other.psi, atol=1e-14)
        assert mine.min_patients == other.min_patients
    nothing = share_influences(np.full((1, 40), np.nan), index)[0]
    assert np.isnan(nothing.value)
    assert nothing.min_patients == 0
    of_one = share_influences(np.where([[True], [False]] & counted, hits, np.nan), index)
    assert of_one[0].value == pytest.approx(found[0].value)
    assert np.isnan(of_one[1].psi).all()
