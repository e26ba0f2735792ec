"""Contributions of patients: exact derivatives, bootstrap agreement, and how they combine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboards.statistics import (
    bootstrap_draws,
    compute_metrics,
    index_patients,
    metric_names,
    patient_influence,
    patient_sums,
    patient_variance,
    patient_weights,
    percentile_interval,
)

LABELS = ("a", "b", "c")


def task(kind, seed=0, n_patients=60, images=(1, 4)):
    """Images of patients that share an offset, with ties, masked labels and unequal numbers of images."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), rng.integers(*images, n_patients))
    offset = rng.normal(size=(n_patients, 3))[patient]
    if kind in ("multiclass", "ordinal"):
        y = rng.integers(0, 3, n_patients)[patient]
        truth = y[:, None] == np.arange(3)
        y = np.where(rng.random(len(y)) < 0.1, -1, y)
    else:
        truth = (rng.random((n_patients, 3)) < 0.4)[patient]
        y = np.where(rng.random(truth.shape) < 0.1, np.nan, truth)
    z = np.round(offset + rng.normal(size=truth.shape) + 1.5 * truth, 1)
    if kind == "binary":
        y, z = y[:, :1], z[:, :1]
    return {"kind": kind, "labels": LABELS[: z.shape[1]], "y": y, "logits": z, "patient": patient}


ALL = [
    (kind, metric)
    for kind in ("binary", "multilabel", "multiclass", "ordinal")
    for metric in metric_names(kind, LABELS[:1] if kind == "binary" else LABELS)
]


@pytest.mark.parametrize(("kind", "metric"), ALL)
def test_value_is_the_logged_metric(kind, metric):
    given_task = task(kind)
    patient = given_task.pop("patient")
    expected = compute_metrics(**given_task)[metric]
    assert patient_influence(metric, **given_task, patient=patient).value == expected
    n = len(np.unique(patient))
    ones = bootstrap_draws(metric, **given_task, patient=patient, weights=np.ones((1, n)))
    assert ones[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("kind", "metric"), ALL)
def test_contributions_are_derivatives_of_the_weighted_metric(kind, metric):
    """To first order a metric moves by psi_p when patient p weighs a little more (Hampel's influence function)."""
    given_task, step = task(kind), 1e-5
    found = patient_influence(metric, **given_task)
    up, down = (bootstrap_draws(metric, **given_task, weights=1.0 + sign * step * np.eye(60)) for sign in (1, -1))
    derivative = (up - down) / (2 * step)
    np.testing.assert_allclose(found.psi, derivative[found.patients], atol=1e-8)
    np.testing.assert_allclose(np.delete(derivative, found.patients), 0.0, atol=1e-8)
    assert found.psi.sum() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("kind", "metric"), [c for c in ALL if "." not in c[1] and c[1] != "ece"])
def test_standard_error_agrees_with_the_cluster_bootstrap(kind, metric):
    given_task = task(kind, seed=3, n_patients=200)
    closed = np.sqrt(patient_variance([(1.0, patient_influence(metric, **given_task))]).variance)
    draws = bootstrap_draws(metric, **given_task, weights=patient_weights(200, 4000, np.random.default_rng(0)))
    assert percentile_interval(draws).se == pytest.approx(closed, rel=0.05)


def test_paired_difference_agrees_with_the_paired_bootstrap():
    a = task("multilabel", seed=5, n_patients=200)
    b = a | {"logits": a["logits"] + np.random.default_rng(1).normal(scale=0.7, size=a["logits"].shape)}
    terms = [(1.0, patient_influence("auc_macro", **a)), (-1.0, patient_influence("auc_macro", **b))]
    weights = patient_weights(200, 4000, np.random.default_rng(0))
    draws = bootstrap_draws("auc_macro", **a, weights=weights) - bootstrap_draws("auc_macro", **b, weights=weights)
    paired = patient_variance(terms).variance
    assert percentile_interval(draws).se == pytest.approx(np.sqrt(paired), rel=0.05)
    assert paired < 0.5 * sum(patient_variance([term]).variance for term in terms)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 12))
def test_single_auc_variance_is_never_below_the_contribution_form(seed, n_patients):
    """So it is never negative, however few the patients: Obuchowski's factors are at least I/(I-1)."""
    found = patient_influence("auc", **task("binary", seed, n_patients))
    if found.min_patients < 2:
        assert np.isnan(patient_variance([(1.0, found)]).variance)
        return
    variance = patient_variance([(1.0, found)])
    floor = found.n_patients / (found.n_patients - 1) * found.psi @ found.psi
    assert variance.variance >= floor - 1e-15
    assert patient_variance([(1.0, found), (-1.0, found)]).variance == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_patient_names_and_row_order_change_nothing(seed):
    given_task = task("ordinal", seed % 11)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(given_task["y"]))
    renamed = rng.permutation(60)[given_task["patient"]]
    shuffled = given_task | {
        "y": given_task["y"][order],
        "logits": given_task["logits"][order],
        "patient": [f"patient {p}" for p in renamed[order]],
    }
    for metric in ("auc_macro", "kappa", "nll"):
        one, other = (patient_variance([(1.0, patient_influence(metric, **t))]) for t in (given_task, shuffled))
        assert one.variance == pytest.approx(other.variance, rel=1e-9)
        assert one.n_patients == other.n_patients


def test_a_prepared_index_gives_the_same():
    given_task = task("multiclass")
    given_task["y"] = np.abs(given_task["y"])
    index = index_patients(given_task["patient"])
    direct, prepared = (patient_influence("auc_macro", **(given_task | change)) for change in ({}, {"patient": index}))
    np.testing.assert_array_equal(direct.psi, prepared.psi)
    assert prepared.patients is index.ids


def test_disjoint_evaluation_sets_add():
    inside, outside = task("binary", 1, 80), task("binary", 2, 50)
    outside["patient"] = outside["patient"] + 1000
    terms = [(1.0, patient_influence("auc", **inside)), (-1.0, patient_influence("auc", **outside))]
    together = patient_variance(terms)
    apart = [patient_variance([term]) for term in terms]
    assert together.variance == pytest.approx(sum(one.variance for one in apart))
    assert together.df_terms == tuple(one.df_terms[0] for one in apart)
    assert together.n_patients == sum(one.n_patients for one in apart)


@pytest.mark.parametrize("metric", ["auc", "nll"])
def test_shared_patients_of_two_evaluation_sets_covary(metric):
    whole = task("binary", 4, 200)
    rows = whole["patient"] < 120
    part = whole | {key: whole[key][rows] for key in ("y", "logits", "patient")}
    found = patient_variance([(1.0, patient_influence(metric, **whole)), (-1.0, patient_influence(metric, **part))])
    weights = patient_weights(200, 4000, np.random.default_rng(0))
    draws = bootstrap_draws(metric, **whole, weights=weights) - bootstrap_draws(
        metric, **part, weights=weights[:, :120]
    )
    assert found.n_patients == len(np.unique(whole["patient"][~np.isnan(whole["y"][:, 0])]))
    assert percentile_interval(draws).se == pytest.approx(np.sqrt(found.variance), rel=0.06)


def test_patients_without_a_label_are_not_counted():
    given_task = task("binary", 0, 40)
    given_task["y"] = np.where(given_task["patient"][:, None] < 10, np.nan, given_task["y"])
    found = patient_influence("auc", **given_task)
    labelled = np.unique(given_task["patient"][~np.isnan(given_task["y"][:, 0])])
    np.testing.assert_array_equal(found.patients, labelled)
    assert found.n_patients == len(found.psi) == len(labelled) <= 30


def test_smallest_group_of_each_metric():
    y, patient = np.array([0, 0, 1, 1, 1, 2, 2]), list("aabbcde")
    z = np.random.default_rng(0).normal(size=(7, 3))
    args = {"kind": "ordinal", "labels": LABELS, "y": y, "logits": z, "patient": patient}
    smallest = {
        m: patient_influence(m, **args).min_patients for m in ("auc.c", "auc_macro", "balanced_accuracy", "nll")
    }
    assert smallest == {"auc.c": 2, "auc_macro": 1, "balanced_accuracy": 1, "nll": 5}
    assert patient_influence("auc_macro", **args, class_set=["b", "c"]).min_patients == 2


@pytest.mark.parametrize(("kind", "metric"), ALL)
def test_undefined_is_nan_and_silent(kind, metric):
    given_task = task(kind)
    given_task["logits"] = np.full_like(given_task["logits"], np.nan)
    found = patient_influence(metric, **given_task)
    assert np.isnan(found.value)
    assert np.isnan(patient_variance([(1.0, found)]).variance)
    given_task["y"] = np.full_like(given_task["y"], -1)
    found = patient_influence(metric, **given_task)
    assert np.isnan(found.value)
    assert np.isnan(patient_variance([(1.0, found)]).variance)


@pytest.mark.parametrize("patient", [["a", None, "b"], [1.0, np.nan, 2.0]])
def test_a_missing_patient_is_refused(patient):
    with pytest.raises(ValueError, match=r"rows \[1\] have no patient id"):
        index_patients(patient)


def test_a_metric_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"unknown metric 'auc' in a multiclass task.*auc\.a"):
        patient_influence("auc", **task("multiclass"))
    with pytest.raises(ValueError, match="patient has 2 rows"):
        patient_influence("auc_macro", **(task("multiclass") | {"patient": [1, 2]}))


def test_sums_over_patients_carry_any_sum_over_images():
    given_task = task("multilabel", 0, 40)
    index = index_patients(given_task["patient"])
    weights = patient_weights(40, 20, np.random.default_rng(0))
    np.testing.assert_allclose(
        weights @ patient_sums(given_task["logits"], index), weights[:, index.codes] @ given_task["logits"]
    )
    with pytest.raises(ValueError, match="values has 3 rows"):
        patient_sums(np.zeros((3, 1)), index)


def test_weights_draw_every_patient_equally_often():
    weights = patient_weights(50, 4000, np.random.default_rng(0))
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=5 * np.sqrt(0.98 / 4000))
    assert weights.var(axis=0) == pytest.approx(np.full(50, 0.98), abs=0.15)


def test_bootstrap_depends_on_its_generator_alone():
    given_task = task("binary", 0, 40)
    np.random.seed(1)  # noqa: NPY002 - global state must not matter
    first = bootstrap_draws("auc", **given_task, weights=patient_weights(40, 50, np.random.default_rng(7)))
    np.random.seed(2)  # noqa: NPY002
    second = bootstrap_draws("auc", **given_task, weights=patient_weights(40, 50, np.random.default_rng(7)))
    np.testing.assert_array_equal(first, second)


def test_copies_of_images_leave_the_bootstrap_as_it_is():
    given_task = task("binary", 0, 40)
    copied = given_task | {key: np.repeat(given_task[key], 4, axis=0) for key in ("y", "logits", "patient")}
    weights = patient_weights(40, 200, np.random.default_rng(0))
    np.testing.assert_allclose(
        bootstrap_draws("auc", **given_task, weights=weights), bootstrap_draws("auc", **copied, weights=weights)
    )


def test_undefined_draws_are_counted_and_too_many_refuse_an_interval():
    y, z = np.r_[np.ones(2), np.zeros(38)], np.arange(40.0)
    weights = patient_weights(40, 2000, np.random.default_rng(0))
    draws = bootstrap_draws("auc", "binary", ["d"], y, z, range(40), weights)
    found = percentile_interval(draws)
    assert found.undefined_share == pytest.approx((38 / 40) ** 40, abs=0.03)
    assert np.isnan([found.low, found.high, found.se]).all()
    assert found.flagged
    few = percentile_interval(np.r_[np.linspace(0, 1, 97), [np.nan] * 3])
    assert (few.low, few.high, few.flagged) == (pytest.approx(0.025), pytest.approx(0.975), True)


def test_draws_that_are_all_equal_give_no_interval_of_width_0():
    y, z = np.r_[np.ones(2), np.zeros(38)], np.arange(40.0)
    draws = bootstrap_draws("accuracy", "binary", ["d"], y, z, np.zeros(40, int), np.ones((50, 1)))
    found = percentile_interval(draws)
    assert np.isnan([found.low, found.high]).all()
    assert (found.se, found.undefined_share) == (0.0, 0.0)
