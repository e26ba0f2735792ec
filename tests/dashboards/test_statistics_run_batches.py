"""Many runs at once give what one by one gives: influences, selective risks, calibration, the null of gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from dashboards.statistics import (
    assess_calibration,
    cross_group_auc,
    group_gap,
    index_patients,
    logistic_calibration,
    null_errors,
    patient_influence,
    patient_sums,
    patient_weights,
    risk_at_coverage_interval,
    selective_scores,
)
from dashboards.statistics.batch_calibration import batch_calibration, batch_slopes
from dashboards.statistics.group_null import largest_gaps, null_of_auc, null_of_mean, permute_groups
from dashboards.statistics.predictions import check_predictions
from dashboards.statistics.run_batches import (
    auc_influences,
    batch_brier,
    batch_correct,
    batch_nll,
    make_batch,
    mean_influences,
)
from dashboards.statistics.selective_influence import selective_influence
from dashboards.statistics.subgroups import find_subgroups

LABELS = ("a", "b", "c")


def made(kind, runs=3, patients=60, seed=0, ties=False, masked=0.1):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    n, labels = len(who), LABELS if kind != "binary" else LABELS[:1]
    if kind in ("binary", "multilabel"):
        y = (rng.random((n, len(labels))) < 0.4).astype(float)
        truth = y
        y = np.where(rng.random(y.shape) < masked, np.nan, y)
    else:
        y = rng.integers(0, len(labels), n)
        truth = np.eye(len(labels))[y]
        y = np.where(rng.random(n) < masked, -1, y)
    logits = [truth * 1.5 + rng.normal(size=truth.shape) for _ in range(runs)]
    return labels, y, [np.round(z) if ties else z for z in logits], index_patients(who)


def assert_same(found, wanted):
    assert (found.metric, found.classes, found.undefined) == (wanted.metric, wanted.classes, wanted.undefined)
    assert found.min_patients == wanted.min_patients
    assert np.array_equal(found.patients, wanted.patients)
    assert found.value == pytest.approx(wanted.value, abs=1e-12, nan_ok=True)
    np.testing.assert_allclose(found.psi, wanted.psi, atol=1e-12)
    assert (found.sides is None) == (wanted.sides is None)
    if found.sides:
        np.testing.assert_allclose(found.sides.positive, wanted.sides.positive, atol=1e-12)
        np.testing.assert_allclose(found.sides.negative, wanted.sides.negative, atol=1e-12)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass", "ordinal"])
@pytest.mark.parametrize("ties", [False, True])
def test_influences_of_a_batch_are_those_of_its_runs(kind, ties):
    labels, y, logits, index = made(kind, ties=ties)
    batch = make_batch(kind, labels, y, logits, index)
    auc = "auc" if kind == "binary" else "auc_macro"
    found = {
        auc: auc_influences(auc, batch, labels),
        "nll": mean_influences("nll", batch_nll(batch), index),
        "brier": mean_influences("brier", batch_brier(batch), index),
        "accuracy": mean_influences("accuracy", batch_correct(batch), index),
    }
    for metric, influences in found.items():
        for z, influence in zip(logits, influences, strict=True):
            wanted = patient_influence(metric, kind, labels, y, z, index)
            if metric != auc:  # a mean over images is named by the caller
                influence = type(influence)(
                    **{f: getattr(influence, f) for f in ("metric", "value", "patients", "psi", "min_patients")}
                    | {"classes": wanted.classes}
                )
            assert_same(influence, wanted)


def test_a_subgroup_of_a_batch_is_the_subgroup_of_its_runs():
    labels, y, logits, index = made("multilabel")
    rows = np.flatnonzero(np.arange(len(y)) % 3 > 0)
    own = index_patients(index.codes[rows])
    batch = make_batch("multilabel", labels, y, logits, index)
    for z, influence in zip(logits, auc_influences("auc_macro", batch, ("a", "b"), rows, own), strict=True):
        assert_same(influence, patient_influence("auc_macro", "multilabel", labels, y[rows], z[rows], own, ("a", "b")))


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass"])
@pytest.mark.parametrize("ties", [False, True])
def test_positives_of_a_group_against_negatives_of_another_are_those_of_each_run(kind, ties):
    labels, y, logits, index = made(kind, ties=ties)
    batch = make_batch(kind, labels, y, logits, index)
    values = np.array(["p", "q", "r", None], dtype=object)[index.codes % 4]
    values[np.flatnonzero(batch.truth[:, -1] == 1)[0]] = "only one image"
    groups = [group for group in find_subgroups({"g": values}) if group.values != ("r",)]  # its images are in none
    codes = np.full(len(batch.truth), -1)
    for number, group in enumerate(groups):
        codes[group.rows] = number
    for k in range(len(labels)):
        ranked = batch.ranked(k)
        found = ranked.crossed(codes[ranked.rows], len(groups))
        wanted = [cross_group_auc(batch.truth[:, k], scores, groups) for scores in batch.scores[:, :, k]]
        assert np.array_equal(found, wanted, equal_nan=True)  # pairs are counted: the bits are the same
    assert np.isnan(found).any()
    assert np.isfinite(found).any()


def test_runs_without_finite_logits_are_nan_and_leave_the_others_alone():
    labels, y, logits, index = made("binary", masked=0.0)
    broken = [logits[0].copy(), logits[1]]
    broken[0][3] = np.inf
    batch = make_batch("binary", labels, y, broken, index)
    for metric, found in (
        ("auc", auc_influences("auc", batch, labels)),
        ("nll", mean_influences("nll", batch_nll(batch), index)),
        ("accuracy", mean_influences("accuracy", batch_correct(batch), index)),
    ):
        assert np.isnan(found[0].value)
        assert np.isnan(found[0].psi).all()
        assert found[1].value == pytest.approx(patient_influence(metric, "binary", labels, y, logits[1], index).value)


def test_labels_that_are_not_defined_are_left_out_and_named():
    labels, y, logits, index = made("multilabel", masked=0.0)
    y[:, 1] = 0.0
    batch = make_batch("multilabel", labels, y, logits, index)
    found = auc_influences("auc_macro", batch, labels)[0]
    assert (found.classes, found.undefined) == (("a", "c"), ("b",))
    none = auc_influences("auc_macro", batch, ("b",))[0]
    assert np.isnan(none.value)
    y[:, 1] = np.nan
    values = batch_nll(make_batch("multilabel", labels, y, logits, index))
    kept = mean_influences("nll", values, index, labels)[0]
    assert (kept.classes, kept.undefined) == (("a", "c"), ("b",))
    assert np.isnan(mean_influences("nll", values[:, :, 1:2], index)[0].value)


def test_a_batch_needs_runs_that_fit():
    labels, y, logits, index = made("binary")
    with pytest.raises(ValueError, match="at least one run"):
        make_batch("binary", labels, y, [], index)
    with pytest.raises(ValueError, match="one row per image"):
        make_batch("binary", labels, y, logits, index_patients([1, 2]))


class TestSelectiveInfluence:
    """Values are those of ``selective``, standard errors those of the cluster bootstrap."""

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 10_000), st.booleans())
    def test_values_are_those_of_the_curve(self, seed, ties):
        rng = np.random.default_rng(seed)
        kappa = rng.normal(size=40)
        kappa = np.round(kappa) if ties else kappa
        error = np.where(rng.random(40) < 0.1, np.nan, rng.random(40) < 0.3)
        found, wanted = selective_influence(kappa, error), selective_scores(kappa, error)
        assert found.values["aurc"] == pytest.approx(wanted.aurc)
        assert found.values["augrc"] == pytest.approx(wanted.augrc)
        for coverage, name in ((0.8, "risk_at_80"), (0.9, "risk_at_90"), (0.95, "risk_at_95")):
            assert found.values[name] == pytest.approx(wanted.risk_at[coverage])
        assert all(abs(psi.sum()) < 1e-9 for psi in found.image.values())

    def test_standard_errors_are_those_of_the_bootstrap(self):
        rng = np.random.default_rng(1)
        n = 1200
        index = index_patients(np.repeat(np.arange(n // 2), 2))
        margin = rng.normal(1.0, 1.0, n) + np.repeat(rng.normal(0, 0.5, n // 2), 2)
        kappa, error = np.abs(margin), (margin < 0).astype(float)
        found = selective_influence(kappa, error)

        def closed(name):
            sums = patient_sums(found.image[name][:, None], index)[:, 0] / n
            return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums @ sums)))

        for coverage in (0.8, 0.9, 0.95):
            se = risk_at_coverage_interval(kappa, error, index, coverage, np.random.default_rng(2)).se
            assert closed(f"risk_at_{100 * coverage:g}") == pytest.approx(se, rel=0.12)
        weights = patient_weights(n // 2, 400, np.random.default_rng(3))
        draws = {"aurc": [], "augrc": []}
        for w in weights:
            rows = np.repeat(np.arange(n), np.repeat(w, 2).astype(int))
            scores = selective_scores(kappa[rows] + 1e-9 * np.arange(len(rows)), error[rows])
            draws["aurc"].append(scores.aurc)
            draws["augrc"].append(scores.augrc)
        for name, values in draws.items():
            assert closed(name) == pytest.approx(np.std(values), rel=0.12)

    def test_undefined_confidence_is_nan(self):
        found = selective_influence([1.0, np.nan, 2.0], [0, 1, 0])
        assert all(np.isnan(v) for v in found.values.values())
        assert np.isnan(selective_influence([1.0], [0.0]).values["aurc"])


class TestBatchCalibration:
    """Against the functions of one run."""

    def pairs(self, n=700, runs=4, seed=0):
        rng = np.random.default_rng(seed)
        z = rng.normal(-0.5, 1.5, (runs, n)) * np.array([[0.5], [1.0], [2.0], [4.0]])[:runs]
        y = (rng.random((runs, n)) < expit(z / np.array([[0.5], [1.0], [2.0], [4.0]])[:runs] * 1.2 + 0.3)).astype(float)
        return y, z

    def test_errors_slopes_and_intercepts(self):
        y, z = self.pairs()
        found = batch_calibration(y, z, np.random.default_rng(0))
        for r in range(4):
            wanted = assess_calibration(y[r], expit(z[r]), np.random.default_rng(1))
            assert found.ece[r] == pytest.approx(wanted.ece)
            assert found.ace[r] == pytest.approx(wanted.ace)
            assert found.squared_l2[r] == pytest.approx(wanted.squared_l2)
            null = np.median(null_errors(expit(z[r]), np.random.default_rng(2), n_draws=2000))
            assert found.null_median[r] == pytest.approx(null, rel=0.08)
            line = logistic_calibration(y[r], z[r])
            assert found.slope[r] == pytest.approx(line.slope, rel=1e-6)
            assert found.intercept[r] == pytest.approx(line.intercept, abs=1e-6)
            assert found.in_the_large[r] == pytest.approx(line.in_the_large)

    def test_temperature_scales_the_slope(self):
        y, z = self.pairs(runs=2)
        slope, intercept = batch_slopes(y, z)
        cooled, same = batch_slopes(y, z / 1.7)
        assert cooled == pytest.approx(1.7 * slope)
        assert same == pytest.approx(intercept)

    @pytest.mark.parametrize("n", [7, 40, 900])
    def test_a_known_order_and_line_change_nothing(self, n):
        y, z = self.pairs(n=n)
        z = np.round(z, 1)  # ties
        whole = batch_calibration(y, z, np.random.default_rng(0))
        order = np.argsort(z, axis=1, kind="stable")
        again = batch_calibration(y, z, np.random.default_rng(0), order=order, line=(whole.slope, whole.intercept))
        for name in ("ece", "null_median", "ace", "squared_l2", "in_the_large", "slope", "intercept"):
            np.testing.assert_allclose(getattr(again, name), getattr(whole, name), atol=1e-12)

    def test_runs_are_the_same_whatever_the_others(self):
        y, z = self.pairs(n=12_000)
        whole = batch_calibration(y, z, None)
        for r in range(4):
            alone = batch_calibration(y[r : r + 1], z[r : r + 1], None)
            assert (alone.ece[0], alone.ace[0], alone.slope[0]) == (whole.ece[r], whole.ace[r], whole.slope[r])

    def test_what_cannot_be_estimated_is_nan(self):
        y = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 1]], dtype=float)
        z = np.array([[-2, -1, 1, 2], [-2, -1, 1, 2], [1, 1, 1, 1], [1, np.nan, 1, 2]], dtype=float)
        slope, intercept = batch_slopes(y, np.nan_to_num(z))
        assert np.isnan(slope[:3]).all()
        assert np.isnan(intercept[:3]).all()
        found = batch_calibration(y, z, np.random.default_rng(0))
        assert np.isnan(found.ece[3])
        assert np.isfinite(found.ece[:3]).all()
        assert np.isnan(batch_calibration(np.empty((2, 0)), np.empty((2, 0)), np.random.default_rng(0)).ece).all()


class TestGroupNull:
    """The first-order null against the null that recomputes the metric."""

    def setting(self, patients=240, seed=3):
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(patients), 2)
        y = (rng.permutation(patients) % 3 == 0)[who].astype(float)[:, None]
        logits = [y * 1.2 + rng.normal(size=y.shape) for _ in range(2)]
        groups = find_subgroups({"site": rng.permutation(patients)[who] % 3})
        return y, logits, groups, index_patients(who)

    @pytest.mark.parametrize("metric", ["auc", "accuracy"])
    def test_quantile_and_spread_are_those_of_the_exact_null(self, metric):
        y, logits, groups, index = self.setting()
        runs = {k: check_predictions("binary", ["a"], y, z) for k, z in enumerate(logits)}
        exact = group_gap(metric, runs, groups, index, np.random.default_rng(0), permutations=800)
        batch = make_batch("binary", ["a"], y, logits, index)
        permuted = permute_groups(batch.truth, groups, index, np.random.default_rng(1), 2000)
        auc = metric == "auc"
        cells = [[0, 1], [0]]
        values = (
            null_of_auc(batch, ["a"], permuted, cells) if auc else null_of_mean(batch_correct(batch), permuted, cells)
        )
        assert values.shape == (2, 3, 2000, 1)
        null = largest_gaps(values)[0]
        overall = exact.overall
        assert values[0].mean() == pytest.approx(overall, abs=0.01)
        assert np.quantile(null, 0.95) == pytest.approx(exact.null_quantile, rel=0.08)
        p = (1 + (null >= exact.gap).sum()) / 2001
        assert p == pytest.approx(exact.p_value, abs=0.05)
