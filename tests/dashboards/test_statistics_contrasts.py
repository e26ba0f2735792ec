"""Estimates over seeds and patients, families of tests, and words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t

from dashboards.statistics import (
    SeedDesign,
    adjust_p_values,
    classify,
    combined_interval,
    contrast,
    equivalence_p,
    linear_contrast,
    patient_influence,
    patient_variance,
    seed_spread,
    slope_coefficients,
    what_is_missing,
)
from dashboards.statistics.contrasts import (
    CONDITIONAL_ON_RUN,
    FEW_PATIENTS,
    FEW_PATIENTS_CELL,
    FEW_SEEDS,
    NO_COMMON_SEEDS,
    NO_VARIANCE,
    NOT_ESTIMABLE,
    PERFECT,
)
from search_spaces.amounts import Seed

PATIENTS = np.repeat(np.arange(120), 2)
TRUTH = np.repeat((np.arange(120) % 3 == 0).astype(float), 2)


def runs(strength, seeds=5, noise=1.0, metric="auc", first_patient=0):
    """Runs of one cell; the same seed gives the same noise in every cell, as paired training does."""
    keys = range(seeds) if isinstance(seeds, int) else seeds
    out = {}
    for key in keys:
        rng = np.random.default_rng(key)
        z = strength * TRUTH + noise * rng.normal(size=len(TRUTH)) + np.random.default_rng(9).normal(size=120)[PATIENTS]
        out[key] = patient_influence(metric, "binary", ["disease"], TRUTH, z, PATIENTS + first_patient)
    return out


def as_tuple(estimate, *names):
    return tuple(getattr(estimate, name) for name in names)


def test_combined_formula_by_hand():
    a, b = runs(2.0), runs(1.0)
    found = contrast(a, b)
    deltas = np.array([a[s].value - b[s].value for s in range(5)])
    patients = patient_variance([(c / 5, r[s]) for c, r in ((1, a), (-1, b)) for s in range(5)])
    v_case, v_seed = patients.variance, deltas.var(ddof=1) / 5
    ((_, df_case),) = patients.df_terms
    case, seed = v_case * (df_case + 2) / df_case, v_seed * 6 / 4
    df = (case + seed) ** 2 / (case**2 / df_case + seed**2 / 4)
    half = student_t.ppf(0.975, df) * np.sqrt(v_case + v_seed)
    assert as_tuple(found, "value", "v_case", "v_seed", "df", "low", "high") == pytest.approx(
        (deltas.mean(), v_case, v_seed, df, deltas.mean() - half, deltas.mean() + half)
    )
    assert found.p == pytest.approx(2 * student_t.sf(deltas.mean() / found.se, df))
    assert as_tuple(found, "n_seeds", "n_patients", "min_patients", "notes") == (5, 120, 40, ())


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 3), st.floats(0, 3))
def test_swapping_the_sides_flips_the_sign(strength_a, strength_b):
    a, b = runs(strength_a, seeds=3), runs(strength_b, seeds=3)
    forth, back = contrast(a, b), contrast(b, a)
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low), nan_ok=True)
    assert (forth.se, forth.df, forth.p) == pytest.approx((back.se, back.df, back.p), nan_ok=True)


def test_difference_of_differences_is_one_linear_contrast():
    cells = [runs(s, seeds=4) for s in (2.0, 1.0, 1.5, 1.2)]
    found = linear_contrast(list(zip([1, -1, -1, 1], cells, strict=True)))
    first, second = contrast(cells[0], cells[1]), contrast(cells[2], cells[3])
    assert found.value == pytest.approx(first.value - second.value)
    assert found.v_case < first.v_case + second.v_case


def test_slope_over_scales_matches_least_squares():
    x = np.log10([1e5, 1e6, 3e7])
    cells = [runs(s, seeds=3) for s in (0.5, 1.0, 2.0)]
    found = linear_contrast(list(zip(slope_coefficients(x), cells, strict=True)))
    means = [np.mean([run.value for run in cell.values()]) for cell in cells]
    assert found.value == pytest.approx(np.polyfit(x, means, 1)[0])
    with pytest.raises(ValueError, match="at least two different x"):
        slope_coefficients([3.0, 3.0])


def test_only_common_seeds_count_and_the_others_are_named():
    found = contrast(runs(2.0, seeds=[0, 1, 2, 7]), runs(1.0, seeds=[0, 1, 2, 8]))
    assert found.n_seeds == 3
    assert found.notes == ("seeds not in every cell, left out: 7, 8", FEW_SEEDS)
    alone = contrast(runs(2.0, seeds=3), runs(1.0, seeds=3))
    assert as_tuple(found, "value", "se", "df") == pytest.approx(as_tuple(alone, "value", "se", "df"))


def test_an_undefined_run_is_left_out_and_named():
    a = runs(2.0)
    a[3] = dataclasses.replace(a[3], value=float("nan"), psi=np.full(120, np.nan))
    found = contrast(a, runs(1.0))
    assert (found.n_seeds, found.notes[0]) == (4, "seeds with an undefined value, left out: 3")
    assert np.isfinite(found.se)


@pytest.mark.parametrize("other", [{}, {9: 1.0}])
def test_without_common_seeds_all_is_nan(other):
    b = dict(zip(other, runs(1.0).values(), strict=False))
    found = contrast(runs(2.0), b)
    assert np.isnan(as_tuple(found, "value", "low", "high", "se", "p")).all()
    assert found.n_seeds == 0
    assert NO_COMMON_SEEDS in found.notes
    assert classify(found, found.p, 0.01) == "undecided"


def test_one_seed_is_conditional_on_its_run():
    found = contrast(runs(2.0, seeds=1), runs(1.0, seeds=1))
    assert found.notes == (CONDITIONAL_ON_RUN,)
    assert np.isnan(found.v_seed)
    assert found.se == pytest.approx(np.sqrt(found.v_case))
    assert 40 - 2 < found.df <= 119


def test_in_domain_against_another_site_adds_patients_and_pairs_seeds():
    inside, outside = runs(2.0), runs(1.5, first_patient=5000)
    found = contrast(inside, outside)
    assert found.n_patients == 240
    assert found.v_case == pytest.approx(combined_interval(inside).v_case + combined_interval(outside).v_case)
    assert found.v_seed == pytest.approx(np.var([inside[s].value - outside[s].value for s in range(5)], ddof=1) / 5)


def test_interval_of_a_cell_stays_inside_its_range():
    high = combined_interval(runs(5.0, seeds=2))
    assert 0 < high.low < high.value < high.high < 1
    assert high.value - high.low > high.high - high.value
    nll = combined_interval(runs(1.0, seeds=2, metric="nll"))
    assert 0 < nll.low < nll.value < nll.high
    assert nll.interval(0.5)[0] > nll.low
    assert np.isnan(high.p)


def test_perfect_separation_is_never_certain():
    found = combined_interval(runs(50.0, noise=0.1))
    assert found.value == 1.0
    assert (found.low, found.high) == pytest.approx((0.05 ** (1 / 40), 1.0))
    assert PERFECT in found.notes
    wrong = combined_interval(runs(-50.0, noise=0.1))
    assert (wrong.low, wrong.high) == pytest.approx((0.0, 1 - 0.05 ** (1 / 40)))


def test_two_perfect_models_are_not_shown_to_be_equal():
    found = contrast(runs(50.0, noise=0.1), runs(60.0, noise=0.1))
    assert found.value == 0.0
    assert np.isnan(as_tuple(found, "low", "high", "p")).all()
    assert NO_VARIANCE in found.notes
    assert classify(found, found.p, 0.01) == "undecided"
    assert np.isnan(equivalence_p(found, 0.01))


def test_below_twenty_patients_of_a_class_there_is_an_interval_but_no_test():
    few = PATIENTS < 57  # 19 of 57 patients are positive
    cells = []
    for strength in (2.0, 1.0):
        z = strength * TRUTH + np.random.default_rng(3).normal(size=len(TRUTH))
        cells.append({0: patient_influence("auc", "binary", ["d"], TRUTH[few], z[few], PATIENTS[few])})
    found = contrast(*cells)
    assert found.min_patients == 19
    assert np.isnan(found.p)
    assert np.isfinite([found.low, found.high]).all()
    assert FEW_PATIENTS in found.notes
    assert np.isfinite(contrast(*cells, min_test_patients=19).p)
    assert FEW_PATIENTS_CELL in combined_interval(cells[0]).notes


def test_one_positive_patient_gives_no_interval():
    y = np.r_[1.0, np.zeros(9)]
    cell = {s: patient_influence("auc", "binary", ["d"], y, np.arange(10.0) % 7 + s, range(10)) for s in range(5)}
    found = combined_interval(cell)
    assert NOT_ESTIMABLE in found.notes
    assert np.isnan([found.low, found.high, found.v_case]).all()


def test_classes_left_out_are_named():
    y = np.c_[TRUTH, np.zeros_like(TRUTH)]
    z = np.random.default_rng(0).normal(size=y.shape) + y
    cell = {s: patient_influence("auc_macro", "multilabel", ["a", "b"], y, z + s, PATIENTS) for s in range(2)}
    assert "classes left out, undefined on the evaluation set: b" in combined_interval(cell).notes
    assert any("different classes" in note for note in contrast(cell, runs(1.0, seeds=2)).notes)


@pytest.mark.parametrize("method", ["holm", "fdr_bh"])
def test_untested_members_do_not_count_in_a_family(method):
    with_gap = adjust_p_values([0.01, np.nan, 0.04], method)
    assert with_gap[[0, 2]] == pytest.approx(adjust_p_values([0.01, 0.04], method))
    assert np.isnan(with_gap[1])
    assert np.isnan(adjust_p_values([np.nan, np.nan], method)).all()
    assert len(adjust_p_values([], method)) == 0


def base_estimate(value, se, df=50.0):
    found = contrast(runs(2.0), runs(1.0))
    wide = dataclasses.replace(found, value=value, se=se, df=df, v_case=se**2 / 2, v_seed=se**2 / 2)
    low, high = wide.interval(0.95)
    p = 2 * student_t.sf(abs(value) / se, df)
    return dataclasses.replace(wide, low=low, high=high, p=p)


@pytest.mark.parametrize(
    ("value", "se", "word"),
    [
        (0.05, 0.01, "helps, meaningfully"),
        (0.02, 0.008, "helps"),
        (0.001, 0.002, "no meaningful difference"),
        (0.005, 0.001, "no meaningful difference"),
        (-0.005, 0.001, "no meaningful difference"),
        (-0.03, 0.005, "hurts"),
        (0.02, 0.02, "undecided"),
        (0.0, 0.01, "undecided"),
    ],
)
def test_words(value, se, word):
    estimate = base_estimate(value, se)
    assert classify(estimate, estimate.p, delta=0.01) == word
    mirrored = base_estimate(-value, se)
    assert classify(mirrored, mirrored.p, delta=0.01, higher_is_better=False) == word


def test_the_adjusted_p_decides_not_the_raw_one():
    estimate = base_estimate(0.02, 0.008)
    assert classify(estimate, 0.06, delta=0.01) == "undecided"
    assert classify(estimate, float("nan"), delta=0.01) == "undecided"


@pytest.mark.parametrize("value", [-0.012, -0.002, 0.004, 0.0099])
@pytest.mark.parametrize("se", [0.001, 0.003, 0.006])
def test_equivalence_p_and_ninety_percent_interval_agree(value, se):
    estimate = base_estimate(value, se)
    low, high = estimate.interval(0.90)
    assert (equivalence_p(estimate, 0.01) < 0.05) == (low > -0.01 and high < 0.01)


def test_what_is_missing_decides():
    estimate = base_estimate(0.0, 0.02)
    estimate = dataclasses.replace(estimate, v_case=0.00002, v_seed=0.0001, n_seeds=5, n_patients=100)
    missing = what_is_missing(estimate, 0.02)
    assert missing.dominated_by == "seeds"
    z = 1.959963985
    enough = z * np.sqrt(0.00002 + 0.0001 * 5 / missing.n_seeds)
    one_less = z * np.sqrt(0.00002 + 0.0001 * 5 / (missing.n_seeds - 1))
    assert enough < 0.02 <= one_less
    assert what_is_missing(estimate, 0.005).n_seeds is None
    assert what_is_missing(dataclasses.replace(estimate, v_seed=float("nan"), n_seeds=1), 0.02).n_seeds is None


def test_a_missing_seed_shows_in_the_degrees_of_freedom():
    all_five = seed_spread({s: float(s) for s in range(5)})
    four = seed_spread({s: float(s) for s in range(4)})
    assert (all_five.df, four.df) == (4, 3)


@pytest.mark.parametrize(
    ("keys", "design"),
    [
        ([3], SeedDesign.SINGLE),
        ([0, 1, 2], SeedDesign.CONFOUNDED),
        ([Seed.model_validate(0), Seed.model_validate(4)], SeedDesign.CONFOUNDED),
        ([(0, 0), (1, 0)], SeedDesign.SUBSET),
        ([(0, 0), (0, 1)], SeedDesign.OPTIMISATION),
        ([Seed(subset=s, init=i) for s in (0, 1) for i in (0, 1, 2)], SeedDesign.CROSSED),
        ([(0, 0), (0, 1), (1, 0)], SeedDesign.INCOMPLETE),
    ],
)
def test_designs(keys, design):
    spread = seed_spread({key: float(n) for n, key in enumerate(keys)})
    assert spread.design is design
    assert sum(spread.weights.values()) == pytest.approx(1.0)
    assert (spread.subset_variance is not None) == (design is SeedDesign.CROSSED)


def test_equal_results_have_no_spread():
    for keys in ([0, 1, 2], [(s, i) for s in (0, 1) for i in (0, 1)], [(0, 0), (0, 1), (1, 0)]):
        spread = seed_spread(dict.fromkeys(keys, 0.1 + 0.2))
        assert spread.variance == 0.0
        assert spread.df >= 1


def test_crossed_seeds_recover_their_variances_and_the_variance_of_the_mean():
    """5 subsets x 4 inits: averaged over draws, estimated variances are the planted ones."""
    rng = np.random.default_rng(0)
    subset_sd, init_sd, rest_sd = 0.02, 0.01, 0.005
    found, means = [], []
    for _ in range(2000):
        s, i = rng.normal(0, subset_sd, 5), rng.normal(0, init_sd, 4)
        rest = rng.normal(0, rest_sd, (5, 4))
        spread = seed_spread({(a, b): s[a] + i[b] + rest[a, b] for a in range(5) for b in range(4)})
        found.append([spread.subset_variance, spread.optimisation_variance, spread.residual_variance, spread.variance])
        means.append(spread.mean)
    estimated = np.mean(found, axis=0)
    assert estimated[:3] == pytest.approx([subset_sd**2, init_sd**2, rest_sd**2], rel=0.08)
    assert estimated[3] == pytest.approx(np.var(means), rel=0.1)


def test_crossed_seeds_are_not_counted_as_independent():
    """Ten inits on the same two subsets are no twenty seeds when subsets make the difference."""
    rng = np.random.default_rng(0)
    values = {(s, i): 0.05 * s + rng.normal(0, 0.001) for s in (0, 1) for i in range(10)}
    spread = seed_spread(values)
    naive = np.var(list(values.values()), ddof=1) / 20
    assert spread.variance > 8 * naive
    assert spread.df < 2
