"""Subgroups: who is in them, gaps and their null, error rates at one threshold, harm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, equalized_odds_difference, false_positive_rate, true_positive_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from dashboards.statistics import (
    GroupRuns,
    adjust_p_values,
    auc,
    bootstrap_draws,
    check_predictions,
    compute_metrics,
    count_labels,
    cross_group_auc,
    equity_scaled_auc,
    find_subgroups,
    group_gap,
    group_rates,
    harm_by_group,
    index_patients,
    insufficient_data,
    patient_influence,
    rate_gaps,
    worst_case,
)
from dashboards.statistics.fairness import FEW_GROUPS, OTHER_SET, OVERLAPPING, SPREAD_PATIENTS

RNG = np.random.default_rng
Y27 = np.array([1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0])
S27 = np.array([0.9, 0.7, 0.4, 0.5, 0.3, 0.2, 0.1, 0.8, 0.3, 0.6, 0.4, 0.35, 0.2, 0.1])
G27 = np.array(["0"] * 7 + ["1"] * 7)


pytestmark = pytest.mark.usefixtures("little_to_collect")


def cohort(seed=0, n_patients=240, deficit=0.0, groups=("F", "M"), images=2):
    """(y, z, patient, sex): ``deficit`` is taken from the signal of the first group."""
    rng = RNG(seed)
    patient = np.repeat(np.arange(n_patients), images)
    sex = rng.choice(groups, n_patients)[patient]
    y = (rng.random(n_patients) < 0.4)[patient].astype(float)
    signal = 1.5 - deficit * (sex == groups[0])
    z = rng.normal(size=n_patients)[patient] + 0.5 * rng.normal(size=len(y)) + signal * y - 0.5
    return y, z, patient, sex


def gap_of(y, z, patient, sex, seed=0, **options):
    runs = {0: check_predictions("binary", ["d"], y, z)}
    index = index_patients(patient)
    return group_gap("auc", runs, find_subgroups({"sex": sex}), index, RNG(seed), **options)


def test_groups_and_the_intersections_that_occur():
    found = find_subgroups({"sex": ["F", "M", None, "F"], "site": ["A", "A", "B", ""], "age": [1.0, np.nan, 2.0, 1.0]})
    rows = {group.name: group.rows.tolist() for group in found}
    assert rows["sex=F"] == [0, 3]
    assert rows["sex=unknown"] == [2]
    assert rows["age=unknown"] == [1]
    assert rows["sex=F & site=A"] == [0]
    assert rows["sex=F & site=unknown"] == [3]
    assert "sex=M & site=B" not in rows
    assert len(rows) == len(found) == 3 + 3 + 3 + 4 + 3 + 4
    assert [g.name for g in find_subgroups({"sex": ["F", "M"], "site": ["A", "B"]}, max_intersection=1)] == [
        "sex=F",
        "sex=M",
        "site=A",
        "site=B",
    ]
    assert find_subgroups({"sex": []}) == ()
    with pytest.raises(ValueError, match="one value per image"):
        find_subgroups({"sex": ["F"], "site": ["A", "B"]})
    with pytest.raises(ValueError, match="must be 1 or 2"):
        find_subgroups({"sex": ["F"]}, max_intersection=3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["F", "M", None, ""]), st.sampled_from(["A", "B", None])), min_size=1))
def test_groups_of_any_choice_of_attributes_are_a_partition(drawn):
    found = find_subgroups({"sex": [sex for sex, _ in drawn], "site": [site for _, site in drawn]})
    for columns in (("sex",), ("site",), ("sex", "site")):
        rows = np.concatenate([g.rows for g in found if g.columns == columns])
        assert sorted(rows.tolist()) == list(range(len(drawn)))


def test_too_small_says_how_small():
    counts = count_labels("binary", ["d"], [1, 1, 0, np.nan], ["a", "a", "b", "c"])[0]
    assert insufficient_data(counts, 1) == ""
    assert insufficient_data(counts) == "insufficient data (1+, 1−)"


def test_golden_groups():
    groups = find_subgroups({"group": G27})
    cross = cross_group_auc(Y27, S27, groups)
    np.testing.assert_allclose(cross, [[0.9166667, 0.9], [0.8125, 0.70]], atol=5e-8)
    assert auc(Y27, S27) == pytest.approx(0.8444444, abs=5e-8)
    assert equity_scaled_auc(auc(Y27, S27), np.diag(cross)) == pytest.approx(0.694064, abs=5e-7)
    gap = group_gap(
        "auc",
        {0: check_predictions("binary", ["d"], Y27, S27)},
        groups,
        index_patients(np.arange(14)),
        RNG(0),
        min_shown=1,
        min_tested=1,
    )
    assert (gap.gap, gap.worst) == (pytest.approx(0.2166667, abs=5e-8), "group=1")
    assert [v.gap_to_overall for v in gap.values] == pytest.approx([0.8444444 - 0.9166667, 0.8444444 - 0.7], abs=5e-7)
    rates = group_rates("d", Y27, S27, 0.5, groups, index_patients(np.arange(14)), RNG(0), min_patients=1)
    assert [r.true_positive_rate for r in rates] == pytest.approx([2 / 3, 0.5])
    assert [r.false_positive_rate for r in rates] == pytest.approx([0.25, 0.2])
    assert [r.underdiagnosis(label_means_healthy=False) for r in rates] == pytest.approx([1 / 3, 0.5])
    assert [r.underdiagnosis(label_means_healthy=True) for r in rates] == pytest.approx([0.25, 0.2])


def test_rates_and_auc_agree_with_fairlearn():
    y, z, patient, sex = cohort(groups=("F", "M", "X"))
    called = z >= 0.3
    frame = MetricFrame(
        metrics={"tpr": true_positive_rate, "fpr": false_positive_rate},
        y_true=y,
        y_pred=called,
        sensitive_features=sex,
    )
    rates = group_rates("d", y, z, 0.3, find_subgroups({"sex": sex}), index_patients(patient), RNG(0))
    assert [r.true_positive_rate for r in rates] == pytest.approx(frame.by_group["tpr"].tolist())
    assert [r.false_positive_rate for r in rates] == pytest.approx(frame.by_group["fpr"].tolist())
    found = rate_gaps(rates)
    assert found.equalised_odds == pytest.approx(equalized_odds_difference(y, called, sensitive_features=sex))
    assert found.equal_opportunity == pytest.approx(frame.difference()["tpr"])
    by_group = MetricFrame(metrics=roc_auc_score, y_true=y, y_pred=z, sensitive_features=sex).by_group
    gap = gap_of(y, z, patient, sex, permutations=0)
    assert [v.value for v in gap.values] == pytest.approx(by_group.tolist())
    assert gap.gap == pytest.approx(by_group.max() - by_group.min())


def test_missing_attributes_are_a_group_where_fairlearn_raises():
    y, z, patient, sex = cohort()
    blank = np.where(patient < 80, None, sex.astype(object))
    with pytest.raises(ValueError, match="missing"):
        MetricFrame(metrics=roc_auc_score, y_true=y, y_pred=z, sensitive_features=blank)
    assert [v.group for v in gap_of(y, z, patient, blank).values] == ["sex=F", "sex=M", "sex=unknown"]


def test_calibration_within_groups_sees_a_shift_of_one_of_them():
    _, _, patient, sex = cohort(n_patients=600, images=1)
    calibrated = RNG(0).normal(size=600)
    y = (RNG(1).random(600) < expit(calibrated)).astype(float)
    shifted = calibrated + 1.0 * (sex == "F")
    female, male = group_rates("d", y, shifted, 0.0, find_subgroups({"sex": sex}), index_patients(patient), RNG(0))
    assert female.calibration.in_the_large > 0.1 > abs(male.calibration.in_the_large)
    assert female.errors.p_value < 0.01 < male.errors.p_value


def test_equal_groups_keep_the_nominal_level():
    """40 cohorts without a difference: the p-values of the gap are those of chance."""
    p = np.array(
        [gap_of(*cohort(seed, n_patients=300, groups=("A", "B", "C")), permutations=99).p_value for seed in range(40)]
    )
    assert np.isfinite(p).all()
    assert (p <= 0.05).sum() <= 6
    assert 0.35 < p.mean() < 0.65


def test_a_planted_deficit_is_found_and_named():
    found = gap_of(*cohort(deficit=1.2))
    assert found.worst == "sex=F"
    assert found.p_value < 0.01
    assert found.gap > found.null_quantile
    assert (found.permutations, found.note) == (1000, "")


def test_small_groups_are_listed_with_their_numbers_and_change_nothing_else():
    y, z, patient, sex = cohort()
    before = gap_of(y, z, patient, sex)
    with_small = np.where(patient == 0, "X", sex)
    few = gap_of(y[patient > 0], z[patient > 0], patient[patient > 0], sex[patient > 0])
    after = gap_of(y, z, patient, with_small)
    assert after.gap == few.gap
    assert after.values[2].note.startswith("insufficient data (")
    assert np.isnan(after.values[2].value)
    assert before.values[0].note == ""


def test_metrics_where_less_is_better_and_several_labels():
    y, z, patient, sex = cohort(deficit=1.2, n_patients=300)
    index, groups = index_patients(patient), find_subgroups({"sex": sex})
    runs = {s: check_predictions("multilabel", ["a", "b"], np.c_[y, 1 - y], np.c_[z + s, -z]) for s in (0.0, 0.1)}
    for metric in ("nll", "auc_macro", "ap.a", "brier", "balanced_accuracy"):
        found = group_gap(metric, runs, groups, index, RNG(0), permutations=50)
        assert found.worst == "sex=F"
        assert found.gap == pytest.approx(abs(found.values[0].value - found.values[1].value))
        assert found.runs == 2
        assert found.values[0].gap_to_overall > 0 > found.values[1].gap_to_overall
    classes = {0: check_predictions("multiclass", ["a", "b"], y.astype(int), np.c_[-z, z])}
    assert group_gap("accuracy", classes, groups, index, RNG(0), permutations=50).worst == "sex=F"


@pytest.mark.parametrize("kind", ["multilabel", "ordinal"])
def test_a_group_as_weights_has_the_value_of_the_group_itself(kind):
    """The null weighs patients; the observed values cut them out. Both must be one number for every metric."""
    rng = RNG(0)
    patient = np.repeat(np.arange(150), 2)
    inside = rng.random(150) < 0.5
    y = rng.integers(0, 3, 300) if kind == "ordinal" else (rng.random((300, 3)) < 0.4).astype(float)
    z = np.round(rng.normal(size=(300, 3)), 1)
    rows, index = np.flatnonzero(inside[patient]), index_patients(patient)
    own = compute_metrics(kind, list("abc"), y[rows], z[rows])
    for metric, value in own.items():
        weighted = bootstrap_draws(metric, kind, list("abc"), y, z, index, inside[None].astype(float))
        assert weighted[0] == pytest.approx(value, abs=1e-12)


def test_a_null_is_refused_where_patients_cannot_exchange_groups():
    y, z, patient, _ = cohort()
    view = np.tile(["frontal", "lateral"], len(y) // 2)
    found = gap_of(y, z, patient, view)
    assert (found.note, found.permutations) == (SPREAD_PATIENTS, 0)
    assert np.isfinite(found.gap)
    assert np.isnan([found.p_value, found.null_quantile]).all()
    runs = {0: check_predictions("binary", ["d"], y, z)}
    everyone = find_subgroups({"a": ["x"] * len(y), "b": ["y"] * len(y)}, max_intersection=1)
    assert group_gap("auc", runs, everyone, index_patients(patient), RNG(0)).note == OVERLAPPING


def test_one_group_or_none_has_no_gap():
    y, z, patient, _ = cohort()
    found = gap_of(y, z, patient, ["F"] * len(y))
    assert (found.note, found.worst) == (FEW_GROUPS, "")
    assert np.isnan([found.gap, found.p_value]).all()
    assert found.values[0].value == pytest.approx(found.overall)
    small = find_subgroups({"g": list("aabb")})
    none = rate_gaps(group_rates("d", y[:4], z[:4], 0.0, small, index_patients([0, 1, 2, 3]), RNG(0)))
    assert np.isnan(none.equalised_odds)
    assert none.groups == ()
    assert all("insufficient data" in text for text in none.left_out)


def test_runs_of_another_set_or_without_finite_logits_are_left_out_by_name():
    y, z, patient, sex = cohort()
    broken = z.copy()
    broken[0] = np.inf
    runs = {
        0: check_predictions("binary", ["d"], y, z),
        1: check_predictions("binary", ["d"], 1 - y, z),
        2: check_predictions("binary", ["d"], y, broken),
    }
    found = group_gap("auc", runs, find_subgroups({"sex": sex}), index_patients(patient), RNG(0), permutations=20)
    assert found.runs == 1
    assert found.left_out[1] == OTHER_SET
    assert "undefined" in found.left_out[2]
    nothing = group_gap("auc", {2: runs[2]}, find_subgroups({"sex": sex}), index_patients(patient), RNG(0))
    assert (nothing.runs, nothing.note) == (0, FEW_GROUPS)
    assert np.isnan([nothing.overall, nothing.gap, *(v.value for v in nothing.values)]).all()
    with pytest.raises(ValueError, match="at least one run"):
        group_gap("auc", {}, find_subgroups({"sex": sex}), index_patients(patient), RNG(0))
    with pytest.raises(ValueError, match="the patient index"):
        group_gap("auc", runs, find_subgroups({"sex": sex}), index_patients([1, 2]), RNG(0))


def test_cross_group_auc_sees_a_shift_that_within_group_auc_does_not():
    y, z, _, sex = cohort(n_patients=400)
    groups = find_subgroups({"sex": sex})
    before, after = cross_group_auc(y, z, groups), cross_group_auc(y, z + 2.0 * (sex == "F"), groups)
    np.testing.assert_allclose(np.diag(after), np.diag(before))
    assert after[0, 1] > before[0, 1] + 0.05
    assert after[1, 0] < before[1, 0] - 0.2
    empty = cross_group_auc([1, 1], [0.1, 0.2], find_subgroups({"g": ["a", "b"]}))
    assert np.isnan(empty).all()
    assert np.isnan(equity_scaled_auc(0.8, []))
    assert np.isnan(equity_scaled_auc(0.8, [0.7, np.nan]))


def group_runs(rows, y, scores, patient):
    """Seed -> AUC in a group, of each side's scores."""
    return {s: patient_influence("auc", "binary", ["d"], y[rows], z[rows], patient[rows]) for s, z in enumerate(scores)}


def sides(harm, seed=0, n_patients=400, noise=0.3):
    """Groups F and M; the source takes ``harm`` of the signal of F."""
    y, base, patient, sex = cohort(seed, n_patients)
    rng = RNG(seed + 1000)
    source = [base + noise * rng.normal(size=len(y)) - harm * y * (sex == "F") for _ in range(5)]
    baseline = [base + noise * rng.normal(size=len(y)) for _ in range(5)]
    return {
        g: GroupRuns(
            source=group_runs(sex == g, y, source, patient), baseline=group_runs(sex == g, y, baseline, patient)
        )
        for g in ("F", "M")
    }


def test_harm_is_found_where_it_was_planted():
    found = {h.group: h for h in harm_by_group("auc", sides(harm=0.8))}
    assert found["F"].word == "harmed, more than delta"
    assert found["M"].word in ("no harm beyond delta", "harm cannot be excluded")
    assert worst_case(tuple(found.values())) == "harmed, more than delta"


def test_the_words_in_their_order():
    groups = sides(harm=0.8)
    estimate = {h.group: h.estimate for h in harm_by_group("auc", groups)}["F"]
    for delta, word in ((0.0, "harmed, more than delta"), (-estimate.value, "harmed"), (0.9, "harmed")):
        assert harm_by_group("auc", groups, delta=delta)[0].word == word
    none = sides(harm=0.0)
    assert {h.word for h in harm_by_group("auc", none, delta=0.2)} == {"no harm beyond delta"}
    assert {h.word for h in harm_by_group("auc", none, delta=1e-4)} == {"harm cannot be excluded"}
    with pytest.raises(ValueError, match="at least 0"):
        harm_by_group("auc", none, delta=-0.1)


def test_a_metric_where_less_is_better_turns_the_direction():
    groups = sides(harm=0.8)
    flipped = {g: GroupRuns(source=r.baseline, baseline=r.source) for g, r in groups.items()}
    as_loss = {h.group: h.word for h in harm_by_group("nll", flipped)}
    assert as_loss == {h.group: h.word for h in harm_by_group("auc", groups)}


def test_holm_over_the_eligible_groups_only():
    groups = sides(harm=0.35)
    small = {"tiny": GroupRuns(source=_tiny(groups["F"].source), baseline=_tiny(groups["F"].baseline))}
    without, with_small = harm_by_group("auc", groups), harm_by_group("auc", groups | small)
    assert [h.p_harmed for h in with_small[:2]] == [h.p_harmed for h in without]
    assert with_small[2].word == "insufficient data"
    assert "too few patients" in with_small[2].note
    alone = [harm_by_group("auc", {g: r})[0].p_harmed for g, r in groups.items()]
    assert [h.p_harmed for h in without] == pytest.approx(adjust_p_values(alone).tolist())


def _tiny(runs):
    return {s: replace(i, min_patients=5) for s, i in runs.items()}


def test_without_common_seeds_nothing_is_claimed():
    groups = sides(harm=0.8)
    moved = {s + 10: i for s, i in groups["F"].baseline.items()}
    (found,) = harm_by_group("auc", {"F": GroupRuns(source=groups["F"].source, baseline=moved)})
    assert found.word == "insufficient data"
    assert "no seed is common" in found.note
    assert worst_case([found]) == "insufficient data"
    assert harm_by_group("auc", {}) == ()


def test_identical_sources_do_no_harm_beyond_nominal_rates():
    """60 null cohorts of two groups: false claims of harm in at most 5 % of families, simulation error allowed."""
    words = [worst_case(harm_by_group("auc", sides(harm=0.0, seed=s, n_patients=120, noise=0.8))) for s in range(60)]
    assert sum(word.startswith("harmed") for word in words) <= 6


def test_a_noninferior_group_is_claimed_only_with_its_interval():
    """ "no harm beyond delta" means that the Holm-adjusted one-sided interval excludes -delta."""
    for harm in harm_by_group("auc", sides(harm=0.0), delta=0.05):
        low, _ = harm.estimate.interval(0.95)
        if harm.word == "no harm beyond delta":
            assert low > -0.05


def test_groups_that_may_not_be_tested_have_an_estimate_and_no_word():
    groups = sides(harm=0.8)
    (name, *rest) = groups
    everything = {h.group: h for h in harm_by_group("auc", groups)}
    found = {h.group: h for h in harm_by_group("auc", groups, tested=rest)}
    assert found[name].word == "insufficient data"
    assert np.isnan(found[name].p_harmed)
    assert found[name].estimate == everything[name].estimate
    alone = {h.group: h for h in harm_by_group("auc", {g: groups[g] for g in rest})}
    assert all(found[g].p_harmed == alone[g].p_harmed for g in rest)


def test_an_eligible_group_that_lost_its_runs_counts_in_the_family():
    groups = sides(harm=0.35)
    gone = {"gone": GroupRuns(source={}, baseline=groups["F"].baseline)}
    (alone,) = harm_by_group("auc", {"F": groups["F"]})
    first, lost = harm_by_group("auc", {"F": groups["F"]} | gone)
    assert first.p_harmed == pytest.approx(min(1.0, 2 * alone.p_harmed))
    assert np.isnan(lost.p_harmed)
    assert lost.word == "insufficient data"
    unasked, _ = harm_by_group("auc", {"F": groups["F"]} | gone, tested=["F"])
    assert unasked.p_harmed == alone.p_harmed
