"""Labels saved: the drawn crossing, and the tests that make the claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboards.statistics import Censoring, Labels, crossing_amount, label_efficiency, noninferiority_p
from tests.dashboards.runs import cell

F = [0.01, 0.05, 0.1, 0.25, 0.5, 1]
B = [0.70, 0.76, 0.79, 0.82, 0.84, 0.85]
A = [0.76, 0.82, 0.84, 0.855, 0.865, 0.87]


def test_crossing_of_the_reference_curves():
    found = crossing_amount(F, A, B[-1])
    assert (found.amount, found.censoring) == (pytest.approx(0.1842016, abs=5e-8), Censoring.NONE)
    assert 1 / found.amount == pytest.approx(5.43, abs=0.005)
    assert crossing_amount(F, B, A[-1]).censoring is Censoring.RIGHT
    left = crossing_amount(F, A, 0.75)
    assert (left.amount, left.censoring) == (pytest.approx(0.01), Censoring.LEFT)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(-2, 2))
def test_crossing_is_where_the_running_best_reaches_the_target(seed, target):
    rng = np.random.default_rng(seed)
    n, curve = np.cumsum(rng.uniform(1, 100, 6)), rng.normal(size=6)
    found = crossing_amount(n, curve, target)
    mirrored = crossing_amount(n, -curve, -target, higher_is_better=False)
    assert mirrored == found
    if found.censoring is Censoring.NONE:
        reached = np.interp(np.log(found.amount), np.log(n), np.maximum.accumulate(curve))
        assert reached == pytest.approx(target, abs=1e-9)


def test_missing_points_are_left_out_and_nothing_is_undefined():
    assert crossing_amount([1, 10, 100], [0.5, np.nan, 0.7], 0.6).amount == pytest.approx(10)
    assert crossing_amount([1, 10], [np.nan] * 2, 0.6).censoring is Censoring.UNDEFINED
    assert crossing_amount([1, 10], [0.1, 0.2], np.nan).censoring is Censoring.UNDEFINED
    with pytest.raises(ValueError, match="positive increasing"):
        crossing_amount([10, 1], [0.1, 0.2], 0.15)


LABELS = {f"{f:g}": Labels(images=1000 * f, patients=400 * f, val_images=100, val_patients=40) for f in F}


def curve(means, sd=0.002, rng_seed=0, seeds=5, **options):
    """A ladder of cells with independent noise per seed."""
    rng = np.random.default_rng(rng_seed)
    return {
        f: cell(m + rng.normal(0, sd, seeds), patient_sd=0.01, rng_seed=rng_seed, **options)
        for f, m in zip(LABELS, means, strict=True)
    }


def test_a_clear_saving_is_found_with_its_labels():
    found = label_efficiency(curve(A, rng_seed=1), curve(B, rng_seed=2), LABELS, delta=0.005)
    assert [t.amount for t in found.possible] == ["0.25", "0.5", "1"]
    assert found.saving.amount == "0.25"
    assert (found.left_censored, found.right_censored) == (False, False)
    assert found.share_saved(with_validation=False) == pytest.approx(0.75)
    assert found.share_saved() == pytest.approx(1 - 350 / 1100)
    assert found.share_saved(patients=True) == pytest.approx(1 - 140 / 440)
    assert found.point.amount == pytest.approx(184, rel=0.15)


def test_losses_are_the_mirror_image():
    loss = label_efficiency(
        curve([1 - a for a in A], rng_seed=1),
        curve([1 - b for b in B], rng_seed=2),
        LABELS,
        delta=0.005,
        higher_is_better=False,
    )
    assert loss.saving.amount == "0.25"
    assert [t.amount for t in loss.possible] == ["0.25", "0.5", "1"]


def test_never_reached_is_censored_on_the_right_and_no_number():
    found = label_efficiency(curve(B, rng_seed=1), curve(A, rng_seed=2), LABELS, delta=0.005)
    assert found.right_censored
    assert found.saving is None
    assert np.isnan(found.share_saved())
    assert found.possible == ()
    assert found.point.censoring is Censoring.RIGHT


def test_reached_at_once_is_censored_on_the_left():
    found = label_efficiency(curve([0.9] * 6, rng_seed=1), curve(B, rng_seed=2), LABELS, delta=0.005)
    assert found.left_censored
    assert found.saving.amount == "0.01"


def test_a_plateau_reaches_by_itself_but_saves_nothing():
    """Both curves are flat: few labels do as well as all, for the baseline too, so the source saves none."""
    found = label_efficiency(curve([0.85] * 6, rng_seed=1), curve([0.85] * 6, rng_seed=2), LABELS, delta=0.01)
    assert found.reached.amount == "0.01"
    assert found.saving is None


def test_testing_stops_at_the_first_amount_that_fails():
    """A dip at half of the labels: what lies below it is not claimed, however good."""
    dip = [0.9, 0.9, 0.9, 0.9, 0.80, 0.9]
    found = label_efficiency(curve(dip, rng_seed=1), curve(B, rng_seed=2), LABELS, delta=0.005)
    assert [t.reaches for t in found.tests] == [False] * 5 + [True]
    assert found.saving is None


def test_too_few_patients_claim_nothing_and_exclude_nothing():
    found = label_efficiency(curve(A, n_patients=15), curve(B, rng_seed=2, n_patients=15), LABELS, delta=0.005)
    assert (found.reached, found.saving) == (None, None)
    assert len(found.possible) == 6


def test_a_baseline_with_few_amounts_allows_reaching_but_no_saving():
    found = label_efficiency(curve(A, rng_seed=1), {"1": curve(B, rng_seed=2)["1"]}, LABELS, delta=0.005)
    assert found.reached.amount == "0.25"
    assert found.saving is None
    assert found.tests[0].to_same is None


def test_an_amount_that_lost_its_runs_counts_in_the_family_of_amounts():
    source = {f: runs for f, runs in curve(A, rng_seed=1).items() if f in ("0.5", "1")}
    base = curve(B, rng_seed=2)
    alone = label_efficiency(source, base, LABELS, delta=0.2)
    p = noninferiority_p(alone.tests[0].to_same, 0.0)
    once = {"delta": 0.2, "alpha": 3 * p}  # p alone is below alpha / 2, twice p is not
    assert label_efficiency(source, base, LABELS, **once).saving.amount == "0.5"
    assert label_efficiency({"0.1": {}} | source, base, LABELS, **once).saving is None


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="both sides need an amount"):
        label_efficiency({}, curve(B), LABELS, delta=0.01)
    with pytest.raises(ValueError, match=r"no labels are given for the amounts \['2'\]"):
        label_efficiency({"2": cell([0.5])}, curve(B), LABELS, delta=0.01)
