"""Hsu's comparison with the best: critical values against Dunnett's, the set, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_t
from scipy.stats import t as student_t

from dashboards.statistics import compare_with_best, contrast, joint_estimate, linear_contrast
from dashboards.statistics.best_set import max_t_quantile
from tests.dashboards.runs import cell


@pytest.mark.parametrize(("k", "df", "expected"), [(2, 10, 2.151), (4, 20, 2.304), (3, np.inf, 2.062)])
def test_critical_values_are_dunnetts_one_sided(k, df, expected):
    """Dunnett 1955, table 1a (joint 95 %, correlation 1/2)."""
    correlation = np.full((k, k), 0.5) + 0.5 * np.eye(k)
    assert max_t_quantile(correlation, df, 0.95) == pytest.approx(expected, abs=0.04)


def test_critical_value_gives_the_level_under_scipys_multivariate_t():
    correlation = np.array([[1.0, 0.3, 0.6], [0.3, 1.0, 0.2], [0.6, 0.2, 1.0]])
    q = max_t_quantile(correlation, 7.5, 0.9)
    level = multivariate_t(shape=correlation, df=7.5).cdf(np.full(3, q), random_state=np.random.default_rng(0))
    assert level == pytest.approx(0.9, abs=0.006)


def test_one_other_cell_makes_it_the_one_sided_t():
    assert max_t_quantile(np.ones((1, 1)), 8, 0.95) == pytest.approx(student_t.ppf(0.95, 8), abs=0.04)


def noisy(mean, rng_seed, seeds=6, patient_sd=0.05):
    noise = np.random.default_rng(rng_seed).normal(0, 0.005, seeds)
    return cell(mean + noise, patient_sd=patient_sd, rng_seed=rng_seed)


def test_joint_estimate_has_the_variances_of_contrasts():
    cells = [noisy(m, n) for n, m in enumerate((0.8, 0.82, 0.85))]
    joint = joint_estimate(cells)
    assert joint.means == pytest.approx([np.mean([r.value for r in c.values()]) for c in cells])
    assert joint.covariance[1, 1] == pytest.approx(linear_contrast([(1.0, cells[1])]).se ** 2)
    assert joint.se_of_differences[0, 2] == pytest.approx(contrast(cells[0], cells[2]).se)
    with pytest.raises(ValueError, match="no seed is common"):
        joint_estimate([cell([0.8]), cell({7: 0.8})])


def test_of_two_cells_it_is_the_one_sided_contrast():
    a, b = noisy(0.82, 1), noisy(0.80, 2)
    found, pair = compare_with_best({"a": a, "b": b}, 0.0), contrast(a, b)
    q = student_t.ppf(0.95, pair.df)
    first, second = found.compared
    assert first.high == pytest.approx(pair.value + q * pair.se, rel=0.03)
    assert second.low == pytest.approx(-(pair.value + q * pair.se), rel=0.03)
    assert (first.difference, second.difference) == pytest.approx((pair.value, -pair.value))


@pytest.mark.parametrize(("metric", "widest"), [("auc.mel", 1.0), ("kappa", 2.0), ("nll", np.inf)])
def test_no_end_lies_beyond_what_two_values_can_differ_by(metric, widest):
    """Two seeds that disagree: Student's t with one degree of freedom reaches far."""
    cells = {
        name: cell([m - 0.3, m + 0.3], rng_seed=n, metric=metric)
        for n, (name, m) in enumerate([("a", 0.6), ("b", 0.5)])
    }
    cells["b"] = cell([0.8, 0.2], rng_seed=1, metric=metric)
    found = compare_with_best(cells, 0.01)
    assert min(of.low for of in found.compared) == pytest.approx(-widest) or widest == np.inf
    assert max(of.high for of in found.compared) == pytest.approx(widest) or widest == np.inf
    if widest == np.inf:
        assert min(of.low for of in found.compared) < -2.0
    assert not any(of.within_delta for of in found.compared)


def test_clearly_worse_cells_are_out_and_the_cheapest_of_the_rest_is_named():
    cells = {"large": noisy(0.85, 1), "middle": noisy(0.849, 2), "small": noisy(0.70, 3)}
    found = compare_with_best(cells, 0.005, cost={"large": 90.0, "middle": 20.0, "small": 1.0})
    assert set(found.members) == {"large", "middle"}
    assert found.cheapest == "middle"
    assert found.compared[2].high == 0.0
    assert found.compared[2].low < -0.1


def test_within_delta_counts_although_worse():
    steady = {"best": cell([0.85, 0.851, 0.852, 0.853, 0.854]), "next": cell([0.845, 0.847, 0.846, 0.848, 0.85])}
    assert compare_with_best(steady, 0.0).members == ("best",)
    assert compare_with_best(steady, 0.02).members == ("best", "next")


def test_of_losses_the_smallest_is_best():
    cells = {"good": noisy(0.3, 1), "bad": noisy(0.6, 2)}
    found = compare_with_best(cells, 0.0, higher_is_better=False)
    assert found.members == ("good",)
    assert found.compared[0].difference == pytest.approx(0.3, abs=0.02)


def test_equal_cells_are_all_best_and_have_no_noise():
    same = noisy(0.8, 1)
    found = compare_with_best({"a": same, "b": same, "c": same}, 0.0)
    assert found.members == ("a", "b", "c")


def test_what_cannot_be_compared_is_named():
    few = cell([0.8, 0.9], n_patients=10)
    found = compare_with_best({"a": noisy(0.8, 1), "b": noisy(0.7, 2), "few": few, "none": {}}, 0.01)
    assert found.left_out == {"few": "10 patients of a class, fewer than 20", "none": "no finished run"}
    assert [c.name for c in found.compared] == ["a", "b"]
    apart = compare_with_best({"a": cell([0.8]), "b": cell({9: 0.8})}, 0.01)
    assert (apart.compared, set(apart.left_out)) == ((), {"a", "b"})
    assert compare_with_best({"a": noisy(0.8, 1)}, 0.01, cost={"a": 1.0}).cheapest is None


def test_bad_input_is_refused():
    cells = {"a": noisy(0.8, 1), "b": noisy(0.8, 2)}
    with pytest.raises(ValueError, match="delta is at least 0"):
        compare_with_best(cells, -0.1)
    with pytest.raises(ValueError, match=r"no cost is given for \['b'\]"):
        compare_with_best(cells, 0.1, cost={"a": 1.0})


def test_the_true_best_is_kept_at_the_nominal_rate():
    """Three equal cells and a slightly better one; benchmarks.coverage does this with 2,000 studies."""
    rng, lost = np.random.default_rng(3), 0
    for study in range(80):
        cells = {
            n: cell(0.8 + 0.002 * (n == 0) + rng.normal(0, 0.01, 5), patient_sd=0.1, rng_seed=1000 * study + n)
            for n in range(4)
        }
        lost += 0 not in compare_with_best(cells, 0.0).members
    assert lost / 80 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 80)
