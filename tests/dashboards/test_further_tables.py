"""Tables and answers of harm, probabilities, shift and speed against planted truths, and against nothing planted."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from dashboards import report
from dashboards.answers import Answer
from dashboards.blocks import NO_VALIDATION
from dashboards.cell_tables import view
from dashboards.confidence_answers import confidence_answers
from dashboards.confidence_tables import COOLED, CORRECTED, RAW
from dashboards.evidence_sections import MAX_FIGURES, subgroup_section
from dashboards.exclusions import Why
from dashboards.figures import draw
from dashboards.further_tables import NAMES
from dashboards.harm_answers import harm_answers
from dashboards.harm_plots import value_plots
from dashboards.harm_tables import NO_SHARED_CLASS, decide_harm
from dashboards.histories import History
from dashboards.page_sections import page_sections
from dashboards.reading import task_estimates
from dashboards.report import write_report
from dashboards.speed_answers import speed_answers
from dashboards.speed_tables import NOT_ABOVE, STEPS, chance_of
from dashboards.static import render
from dashboards.statistics import compute_metrics, fit_temperature, logistic_calibration, selective_scores
from dashboards.statistics.families import adjust_p_values
from dashboards.statistics.predictions import check_predictions
from dashboards.statistics.selective import confidence_and_error
from dashboards.tables import build_tables
from dashboards.verdict.ledger import Ledger, read_of
from search_spaces.exceptions import DataError
from tests.dashboards.planted import SOURCES, TOO_LARGE, make_planted, planted


def rows_where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def row_where(table: pd.DataFrame, **values: object) -> pd.Series:
    rows = rows_where(table, **values)
    assert len(rows) == 1, f"{len(rows)} rows match {values}"
    return rows.iloc[0]


def answer_of(answers: list[Answer], **fields: object) -> Answer:
    found = [a for a in answers if all(getattr(a, k) == v for k, v in fields.items())]
    assert len(found) == 1, f"{len(found)} answers match {fields}"
    return found[0]


class TestHarm:
    """``natural`` weakens F and strengthens M."""

    def test_the_harmed_group_is_found_in_domain_and_shifted(self):
        harm = planted()[1].of("harm")
        for set_name in ("test", "elsewhere"):
            row = row_where(
                harm, pretraining_source="natural", data_fraction="1", set=set_name, column="sex", group="F"
            )
            assert row["word"] == "harmed, more than delta"
            assert row["high"] < -0.01
            assert row["source_value"] < row["baseline_value"]
        strengthened = rows_where(harm, pretraining_source="natural", column="sex", group="M")
        assert not set(strengthened["word"]) & {"harmed", "harmed, more than delta"}
        assert not set(rows_where(harm, pretraining_source="same")["word"]) & {"harmed", "harmed, more than delta"}

    def test_intersections_and_blank_attributes_are_groups_and_small_ones_are_listed(self):
        evidence, tables = planted()
        harm = rows_where(tables.of("harm"), pretraining_source="natural", data_fraction="1", set="test")
        assert {"sex", "age_band", "sex & age_band"} == set(harm["column"])
        unknown = row_where(harm, column="age_band", group="unknown")
        assert unknown["word"] == "insufficient data"
        assert unknown["note"].startswith("insufficient data (")
        assert np.isnan(unknown["estimate"])
        answer = answer_of(harm_answers(evidence, tables), pretraining_source="natural", data_fraction="1", set="test")
        assert (answer.question, answer.word, answer.tone) == (5, "harmed, more than delta", "bad")
        assert "age_band = unknown insufficient data" in answer.sentence
        assert answer.numbers["groups_insufficient_data"] == (harm["word"] == "insufficient data").sum()

    def test_the_estimate_is_that_of_the_metric_on_the_images_of_the_group(self):
        evidence, tables = planted()
        row = row_where(
            tables.of("harm"), pretraining_source="natural", data_fraction="1", set="test", column="sex", group="F"
        )
        results = evidence.results
        values = {}
        for source in ("natural", "random"):
            trials = rows_where(results, pretraining_source=source, data_fraction="1")["trial_id"]
            aucs = []
            for trial in trials:
                p = evidence.predictions[trial, "test"]
                inside = p.groups["sex"] == "F"
                aucs.append(compute_metrics(p.kind, p.labels, p.y[inside], p.logits[inside])["auc"])
            values[source] = np.mean(aucs)
        assert row["estimate"] == pytest.approx(values["natural"] - values["random"])
        assert row["baseline_value"] == pytest.approx(values["random"])

    def test_the_gap_of_the_harmed_attribute_is_beyond_chance_and_others_are_not(self):
        gaps = rows_where(planted()[1].of("group_gaps"), data_fraction="1", set="test")
        row = row_where(gaps, pretraining_source="natural", column="sex")
        assert row["gap"] > row["null_quantile"]
        assert row["p_holm"] < 0.01
        assert row["worst_group"] == "F"
        assert row_where(gaps, pretraining_source="random", column="sex")["p_holm"] > 0.05
        values = rows_where(planted()[1].of("group_values"), data_fraction="1", set="test", column="sex")
        female = row_where(values, pretraining_source="natural", group="F")
        assert female["high"] < female["null_low"]

    def test_error_rates_at_the_frozen_threshold_show_who_is_missed(self):
        evidence, tables = planted()
        where = {"pretraining_source": "natural", "data_fraction": "1", "set": "test", "column": "sex"}
        odds = row_where(tables.of("group_odds"), **where)
        assert odds["most_underdiagnosed"] == "F"
        assert odds["equalised_odds"] == max(odds["equal_opportunity_gap"], odds["fpr_gap"]) > 0.2
        rates = rows_where(tables.of("group_rates"), **where)
        trial = rows_where(evidence.results, pretraining_source="natural", data_fraction="1")["trial_id"]
        by_hand = []
        for t in trial:
            val, test = evidence.validation[t], evidence.predictions[t, "test"]
            negatives = np.sort(val.logits[val.y[:, 0] == 0, 0])
            cut = next(c for c in np.sort(val.logits[:, 0]) if (negatives < c).mean() >= 0.9)
            ill = (test.groups["sex"] == "F") & (test.y[:, 0] == 1)
            by_hand.append((test.logits[ill, 0] >= cut).mean())
        assert row_where(rates, group="F")["tpr"] == pytest.approx(np.mean(by_hand))
        cross = rows_where(tables.of("cross_group_auc"), **where)
        inside = row_where(cross, positives_of="F", negatives_of="F")["auc"]
        value = row_where(rows_where(tables.of("group_values"), **where), group="F")["value"]
        assert inside == pytest.approx(value)

    def test_identical_sources_harm_no_group_and_show_no_gap_beyond_the_nominal_rates(self):
        words, p = [], []
        for seed in range(2):
            tables = planted(null=True, seed=seed)[1]
            words += [a.word for a in harm_answers(planted(null=True, seed=seed)[0], tables)]
            p += tables.of("group_gaps")["p"].dropna().tolist()
        assert len(words) == 16
        assert sum(word.startswith("harmed") for word in words) <= 2  # at most 0.4 expected
        assert len(p) == 48
        assert np.mean(np.array(p) < 0.05) <= 0.15  # correlated within a set; 0.05 expected

    def test_claims_of_harm_are_one_family_of_the_study_and_excluded_harm_one_of_the_comparison(self):
        harm = planted()[1].of("harm")
        primary = harm[harm["primary"].astype(bool)]
        assert primary[["task", "set", "pretraining_source", "data_fraction"]].drop_duplicates().shape[0] == 8
        for name in ("p_harmed", "p_beyond"):
            np.testing.assert_allclose(primary[name], adjust_p_values(primary[f"{name}_alone"]))
        one = rows_where(primary, pretraining_source="natural", set="test", data_fraction="1")
        tested = one["p_harmed_alone"].notna()
        within = adjust_p_values(one["p_harmed_alone"])
        assert (one["p_harmed"][tested] >= within[tested] - 1e-12).all()
        assert (one["p_harmed"] > within + 1e-6).any()
        assert one["p_excluded"][tested].le(1).all()

    def test_a_harm_that_the_wider_family_hides_is_not_excluded(self):
        row = {"primary": True, "word": "harmed", "p_harmed": 0.02, "p_beyond": 0.3, "p_excluded": 0.9, "lost": False}
        alone = {"p_harmed_alone": 0.02, "p_beyond_alone": 0.3}
        others = [row | alone | {"p_harmed_alone": 0.6, "p_beyond_alone": 0.8, "word": "harm cannot be excluded"}] * 3
        exploratory = row | alone | {"primary": False}
        decided = decide_harm(pd.DataFrame([row | alone, *others, exploratory]), alpha=0.05)
        assert decided["word"].tolist() == ["harm cannot be excluded"] * 4 + ["harmed"]
        assert decided["p_harmed"].iloc[0] == pytest.approx(0.08)
        assert decide_harm(pd.DataFrame([row | alone]), alpha=0.05)["word"].tolist() == ["harmed"]


def test_groups_below_the_limit_are_not_tested_with_a_metric_over_all_images():
    evidence = make_planted(patients=60, seeds=2)
    tasks = {name: task.model_copy(update={"primary": "accuracy"}) for name, task in evidence.study.tasks.items()}
    study = evidence.study.model_copy(update={"tasks": tasks})
    harm = build_tables(dataclasses.replace(evidence, study=study)).of("harm")
    assert set(harm["metric"]) == {"accuracy"}
    small = harm["note"].str.startswith("insufficient data")
    shown = harm[small & harm["estimate"].notna()]
    assert len(shown)  # 10 to 19 patients of a class: an estimate, and no word
    assert set(shown["word"]) == {"insufficient data"}
    assert shown["p_harmed"].isna().all()


class TestProbabilities:
    """The logits of ``natural`` are three times too large, on validation as well."""

    def test_slope_and_temperature_recover_the_factor(self):
        evidence, tables = planted()
        cells = rows_where(tables.of("probabilities"), data_fraction="1", set="test")
        raw = row_where(cells, pretraining_source="natural", stage=RAW)
        cooled = row_where(cells, pretraining_source="natural", stage=COOLED)
        assert raw["temperature"] == pytest.approx(TOO_LARGE, rel=0.25)
        assert raw["slope"] == pytest.approx(1 / TOO_LARGE, rel=0.25)
        assert cooled["slope"] > 0.85
        assert raw["ece"] > 2 * raw["null_median"]
        assert cooled["ece"] < 2 * cooled["null_median"]
        assert cooled["nll"] < raw["nll"]
        baseline = row_where(cells, pretraining_source="random", stage=RAW)
        assert baseline["slope"] == pytest.approx(1.0, abs=0.2)
        trials = rows_where(evidence.results, pretraining_source="natural", data_fraction="1")["trial_id"]
        temperatures, slopes, brier = [], [], []
        for trial in trials:
            val, test = evidence.validation[trial], evidence.predictions[trial, "test"]
            temperatures.append(fit_temperature(check_predictions(val.kind, val.labels, val.y, val.logits))[0].value)
            slopes.append(logistic_calibration(test.y[:, 0], test.logits[:, 0]).slope)
            brier.append(compute_metrics(test.kind, test.labels, test.y, test.logits)["brier"])
        assert raw["temperature"] == pytest.approx(np.mean(temperatures))
        assert raw["slope"] == pytest.approx(np.mean(slopes), rel=1e-5)
        assert raw["brier"] == pytest.approx(np.mean(brier))
        assert raw["brier_skill"] == pytest.approx(1 - np.mean(brier) / 0.25)

    def test_the_answer_says_worse_and_what_temperature_does(self):
        evidence, tables = planted()
        answers = confidence_answers(evidence, tables)
        answer = answer_of(answers, pretraining_source="natural", data_fraction="1", set="test")
        assert (answer.question, answer.word, answer.tone) == (6, "worse probabilities", "bad")
        assert "(1 is ideal)" in answer.sentence
        assert "from validation NLL" in answer.sentence
        assert "at 90 % coverage the error is" in answer.sentence
        same = answer_of(answers, pretraining_source="same", data_fraction="1", set="test")
        assert (same.word, same.tone, same.grade) == ("undecided", "open", None)

    def test_only_the_primary_differences_are_corrected_by_holm(self):
        contrasts = planted()[1].of("probability_contrasts")
        primary = contrasts[contrasts["primary"].astype(bool)]
        assert set(primary["metric"]) == {"nll"}
        assert set(primary["stage"]) == {RAW}
        assert set(primary["set"]) == {"test"}
        assert set(primary["correction"]) == {"Holm, whole study"}
        assert (primary["p_adjusted"] >= primary["p"]).all()
        assert set(contrasts[contrasts["set"] == "elsewhere"]["stage"]) == {RAW, COOLED, CORRECTED}

    def test_selective_risks_are_those_of_the_runs(self):
        evidence, tables = planted()
        row = row_where(tables.of("selective"), pretraining_source="same", data_fraction="1", set="test")
        found = []
        for trial in rows_where(evidence.results, pretraining_source="same", data_fraction="1")["trial_id"]:
            p = evidence.predictions[trial, "test"]
            found.append(selective_scores(*confidence_and_error(check_predictions(p.kind, p.labels, p.y, p.logits))))
        assert row["risk_at_90"] == pytest.approx(np.mean([s.risk_at[0.9] for s in found]))
        assert row["augrc"] == pytest.approx(np.mean([s.augrc for s in found]))
        assert row["risk_at_90_low"] < row["risk_at_90"] < row["risk_at_90_high"]
        covered = rows_where(tables.of("group_coverage"), pretraining_source="natural", data_fraction="1", set="test")
        female, male = (row_where(covered, column="sex", group=g) for g in ("F", "M"))
        assert female["coverage"] < male["coverage"]
        assert female["risk"] > male["risk"]
        unknown = row_where(covered, column="age_band", group="unknown")
        assert np.isnan(unknown["risk"])
        assert "insufficient data" in unknown["note"]

    @pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
    def test_other_kinds_recover_the_temperature_and_the_harmed_group_too(self, kind):
        tables = planted(kind)[1]
        cells = rows_where(tables.of("probabilities"), data_fraction="1", set="test", stage=RAW)
        assert row_where(cells, pretraining_source="natural")["temperature"] == pytest.approx(TOO_LARGE, rel=0.3)
        harm = rows_where(tables.of("harm"), data_fraction="1", set="test", column="sex", group="F")
        assert row_where(harm, pretraining_source="natural")["word"] == "harmed, more than delta"
        assert tables.exclusions.empty

    @pytest.mark.parametrize("unknown", [0.0, 0.5])
    def test_the_shifted_set_is_corrected_for_its_prevalence(self, unknown):
        """Shares in training are those of the known labels, which alone are learnt from."""
        evidence = make_planted(seeds=2, patients=120, null=True)
        counts = evidence.results.filter(regex=r"^n_(positive|negative)\.").mul(1 - unknown)
        evidence = dataclasses.replace(evidence, results=evidence.results.assign(**counts))
        rarer = {}
        for (trial, name), p in evidence.predictions.items():
            if name == "elsewhere":  # keep all negatives and every fifth positive patient
                number = np.array([int(patient[-4:]) for patient in p.patient])
                keep = (p.y[:, 0] == 0) | (number % 5 == 0)
                p = dataclasses.replace(
                    p,
                    y=p.y[keep],
                    logits=p.logits[keep],
                    patient=p.patient[keep],
                    image=p.image[keep],
                    groups={k: v[keep] for k, v in p.groups.items()},
                )
            rarer[trial, name] = p
        cells = build_tables(dataclasses.replace(evidence, predictions=rarer)).of("probabilities")
        cells = rows_where(cells, pretraining_source="random", data_fraction="1", set="elsewhere")
        raw, corrected = (row_where(cells, stage=stage) for stage in (RAW, CORRECTED))
        assert raw["in_the_large"] > 0.1
        assert abs(corrected["in_the_large"]) < raw["in_the_large"] / 2
        assert corrected["nll"] < raw["nll"]


@pytest.fixture(scope="module")
def unvalidated():
    evidence = make_planted(seeds=2, patients=120, validation=False)
    return evidence, build_tables(evidence)


class TestWithoutValidation:
    """Records of earlier versions have no validation predictions."""

    def test_what_needs_them_is_not_estimable_and_says_so(self, unvalidated):
        evidence, found = unvalidated
        cooled = rows_where(found.of("probabilities"), stage=COOLED)
        assert cooled["nll"].isna().all()
        assert set(cooled["note"]) == {NO_VALIDATION}
        rates = found.of("group_rates")
        assert rates["tpr"].isna().all()
        assert NO_VALIDATION in set(rates["note"])
        assert found.of("group_coverage")["coverage"].isna().all()
        answers = confidence_answers(evidence, found)
        assert all(f"temperature {NO_VALIDATION}" in a.sentence for a in answers)

    def test_what_does_not_need_them_is_there(self, unvalidated):
        _, found = unvalidated
        assert rows_where(found.of("probabilities"), stage=RAW)["ece"].notna().all()
        assert found.of("harm")["estimate"].notna().any()
        assert found.of("selective")["augrc"].notna().all()


class TestShift:
    """``natural`` loses less on the shifted set; confidence falls there."""

    def test_effective_robustness_is_that_of_natural_alone(self):
        rows = planted()[1].of("robustness")
        for fraction in ("0.1", "1"):
            natural = row_where(rows, pretraining_source="natural", data_fraction=fraction)
            assert natural["effective_robustness_low"] > 0
            assert natural["p_adjusted"] < 0.05
            same = row_where(rows, pretraining_source="same", data_fraction=fraction)
            assert same["effective_robustness_low"] < 0 < same["effective_robustness_high"]
        assert rows["line_models"].unique().tolist() == [10]
        assert (rows["nll_growth"] > 1).all()

    def test_confidence_tells_the_sets_apart_as_far_as_the_signal_fell(self):
        rows = rows_where(planted()[1].of("ood_detection"), data_fraction="1")
        random, natural = (row_where(rows, pretraining_source=s) for s in ("random", "natural"))
        assert random["auroc_low"] > 0.5
        assert natural["auroc"] < random["auroc"]
        assert (random["n_in"], random["n_out"]) == (600, 600)


class TestSpeed:
    """``natural`` needs a quarter of the steps."""

    def test_the_ratio_is_bounded_around_a_quarter(self):
        evidence, tables = planted()
        row = row_where(tables.of("speed"), pretraining_source="natural", data_fraction="1", share=0.95, unit=STEPS)
        assert row["ratio_median_low"] <= 0.25 <= row["ratio_median_high"]
        assert row["ratio_coverage"] == pytest.approx(0.9375)
        answer = answer_of(speed_answers(evidence, tables), pretraining_source="natural", data_fraction="1")
        assert (answer.question, answer.word, answer.tone) == (7, "faster", "good")
        same = answer_of(speed_answers(evidence, tables), pretraining_source="same", data_fraction="1")
        assert same.word == "undecided"

    def test_hours_follow_the_seconds_and_the_ranks(self):
        rows = rows_where(planted()[1].of("speed"), pretraining_source="same", data_fraction="1", share=0.9)
        steps, hours = (row_where(rows, unit=unit) for unit in (STEPS, "device_hours"))
        assert hours["time_median_high"] == pytest.approx(steps["time_median_high"] * 0.1 / 3600)
        assert hours["ratio_median_low"] == pytest.approx(steps["ratio_median_low"])

    def test_a_mark_that_is_not_reached_is_censored_not_dropped(self):
        evidence = planted()[0]
        slow = {
            trial: dataclasses.replace(h, values=np.minimum(h.values, 0.7))
            if evidence.results.set_index("trial_id").loc[trial, "pretraining_source"] == "same"
            else h
            for trial, h in evidence.histories.items()
        }
        changed = dataclasses.replace(evidence, histories=slow, predictions={})
        tables = build_tables(changed)
        row = row_where(tables.of("speed"), pretraining_source="same", data_fraction="1", share=0.95, unit=STEPS)
        assert row["time_censored"] == row["time_seeds"] == 5
        assert np.isinf(row["time_median_high"])
        assert row["ratio_low"] > 1
        answer = answer_of(speed_answers(changed, tables), pretraining_source="same", data_fraction="1")
        assert answer.word == "slower"
        assert "more than 1\u202f000 steps" in answer.sentence
        assert answer.numbers["time_high"] is None

    def test_what_cannot_be_estimated_says_why(self):
        evidence = planted()[0]
        flat = {t: dataclasses.replace(h, values=np.full(len(h.values), 0.5)) for t, h in evidence.histories.items()}
        rows = build_tables(dataclasses.replace(evidence, histories=flat, predictions={})).of("speed")
        assert set(rows["note"]) == {NOT_ABOVE}
        none = build_tables(dataclasses.replace(evidence, histories={}, predictions={}))
        answers = speed_answers(evidence, none)
        assert {a.word for a in answers} == {"not estimable"}

        class Damaged(dict[str, History]):
            def __getitem__(self, key: str) -> History:
                raise DataError("history.parquet is not a history")

        broken = build_tables(dataclasses.replace(evidence, histories=Damaged(evidence.histories), predictions={}))
        (row,) = broken.exclusions[broken.exclusions["reason"] == Why.NO_HISTORY].to_dict("records")
        assert row["trials"] == len(evidence.results)
        assert "is not a history" in row["detail"]

    def test_four_seeds_decide_nothing(self):
        evidence = dataclasses.replace(make_planted(seeds=4, patients=20), predictions={})
        assert {a.word for a in speed_answers(evidence, build_tables(evidence))} <= {"undecided"}


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_chance_of_several_labels_is_the_mean_over_labels(metric):
    evidence = planted("multilabel")[0]
    (estimates,) = task_estimates(evidence)
    task = view(evidence, dataclasses.replace(estimates, metric=metric))
    y = next(iter(evidence.validation.values())).y
    share = np.nanmean(y, axis=0)
    by_label = (
        np.maximum(share, 1 - share)
        if metric == "accuracy"
        else -share * np.log(share) - (1 - share) * np.log1p(-share)
    )
    assert chance_of(evidence, task) == pytest.approx(by_label.mean())


class TestTroubles:
    """Bad predictions are named and do not take the rest with them."""

    def test_a_run_without_finite_logits_leaves_the_others(self):
        evidence = make_planted(seeds=2, patients=120)
        trial = evidence.results["trial_id"].iloc[0]
        bad = {
            k: dataclasses.replace(p, logits=np.full_like(p.logits, np.nan)) if k[0] == trial else p
            for k, p in evidence.predictions.items()
        }
        tables = build_tables(dataclasses.replace(evidence, predictions=bad))
        cells = rows_where(tables.of("probabilities"), stage=RAW, set="test", data_fraction="0.1")
        assert row_where(cells, pretraining_source="random")["n_seeds"] == 1
        assert row_where(cells, pretraining_source="same")["n_seeds"] == 2

    def test_one_seed_and_no_groups_give_tables(self):
        evidence = make_planted(seeds=1, patients=60, groups=[])
        tables = build_tables(evidence)
        assert tables.of("harm").empty
        assert len(tables.of("probabilities"))
        assert harm_answers(evidence, tables) == []
        assert all(a.caps or a.word == "undecided" for a in confidence_answers(evidence, tables))

    def test_another_metric_has_a_null_or_says_why_not(self):
        evidence = make_planted(seeds=2, patients=150)
        for metric, note in (("accuracy", ""), ("balanced_accuracy", "no null: the metric is no mean over images")):
            task = evidence.study.tasks["chest"].model_copy(update={"primary": metric})
            study = evidence.study.model_copy(update={"tasks": {"chest": task}})
            gaps = build_tables(dataclasses.replace(evidence, study=study)).of("group_gaps")
            assert set(rows_where(gaps, column="sex")["note"]) == {note}
            assert rows_where(gaps, column="sex")["p"].isna().all() == bool(note)

    def test_groups_that_share_no_class_are_told_from_groups_that_are_small(self):
        evidence = make_planted(kind="multilabel", seeds=2, patients=150)
        first = evidence.predictions[next(iter(evidence.predictions))].labels[0]

        def asked(p):
            of_first, female = np.arange(len(p.labels)) == 0, p.groups["sex"][:, None] == "F"
            return dataclasses.replace(p, y=np.where(of_first == female, p.y, np.nan))

        masked = {key: asked(p) for key, p in evidence.predictions.items()}
        tables = build_tables(dataclasses.replace(evidence, predictions=masked))
        for name in ("group_gaps", "group_values"):
            assert set(rows_where(tables.of(name), column="sex")["note"]) == {NO_SHARED_CLASS}, name
        rates = rows_where(tables.of("group_rates"), column="sex", label=first, set="test")
        none, some = rows_where(rates, group="M"), rows_where(rates, group="F")
        assert set(none["note"]) == {"insufficient data (0+, 0−)"}
        assert (none["positive_patients"] == 0).all()
        assert (some["positive_patients"] > 20).all()
        assert (set(some["note"]), some["tpr"].notna().all()) == ({""}, True)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    evidence = planted("multilabel")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "render", lambda plot: (b"<svg/>", b"png"))
        patch.setattr(report, "build_tables", lambda _: planted("multilabel")[1])
        files = write_report(evidence, tmp_path_factory.mktemp("page") / "report", problems=[], record="x")
    return files, files.index_html.read_text(encoding="utf-8")


class TestPage:
    """Every figure has its twin, its words and its place."""

    def test_sections_and_tables_are_there(self, written):
        files, page = written
        for anchor in ("shift", "subgroups", "confidence", "speed"):
            assert f'<section id="{anchor}">' in page
        names = {path.stem for path in files.tables}
        assert set(NAMES) - {"overlap", "overlap_contrasts"} <= names  # those are tables of studies of masks
        assert "overlap" not in names
        assert {"harm_chest_test_1.svg", "reliability_chest_1.svg", "convergence_chest_1.svg"} <= {
            path.name for path in files.figures
        }
        assert len(page.encode()) < 12e6

    def test_both_backends_draw_every_figure(self):
        evidence, tables = planted("multilabel")
        sections = page_sections(evidence, tables, Ledger(this=read_of(evidence)))
        plots = [plot for section in sections for plot in section.plots]
        kinds = {plot.key.split("_")[0] for plot in plots}
        assert {"harm", "subgroups", "reliability", "risk", "shifted", "convergence"} <= kinds
        chosen = {plot.key.split("_")[0]: plot for plot in plots}
        for plot in chosen.values():
            spec = json.loads(draw(plot).to_json())
            assert spec["data"]
            assert plot.alt
            assert len(plot.table)
        svg, png = render(chosen["harm"])
        assert svg.startswith(b"<?xml")
        assert png.startswith(b"\x89PNG")
        render(chosen["reliability"])
        render(chosen["convergence"])

    def test_figures_of_one_kind_are_capped_and_the_rest_is_said(self):
        evidence, tables = planted()
        harm, values = tables.of("harm"), tables.of("group_values")
        many = pd.concat([harm.assign(task=f"task{k}") for k in range(3)])  # 12 figures
        section = subgroup_section(evidence, dataclasses.replace(tables, further=tables.further | {"harm": many}))
        assert sum(plot.key.startswith("harm") for plot in section.plots) == MAX_FIGURES
        assert "4 further figures are not drawn" in section.intro
        more = pd.concat([values.assign(task=f"task{k}") for k in range(3)])
        both = {"harm": many, "group_values": more}
        section = subgroup_section(evidence, dataclasses.replace(tables, further=tables.further | both))
        left_out = 12 + len(value_plots(more, tables.of("group_gaps"), evidence.baseline)) - len(section.plots)
        assert f"{left_out} further figures are not drawn" in section.intro
        assert left_out > 4


def test_sources_are_those_of_the_planted_study():
    assert set(planted()[0].results["pretraining_source"]) == set(SOURCES)
