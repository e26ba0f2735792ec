"""Simulations in small: intervals cover, nothing is found where nothing is (in full: ``benchmarks.coverage``)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import null_studies, null_verdicts
from benchmarks.coverage import CASE_DOMINATED, NULLS, POOL, SEED_DOMINATED, SETTINGS, cover
from benchmarks.simulated_studies import Binormal, difference


def test_combined_interval_covers_where_seeds_alone_fail():
    found = cover(difference(CASE_DOMINATED, 5), 300, seed=1)
    assert found.coverage >= 0.93
    assert found.seeds_only < 0.6
    assert found.width_ratio < 1.2


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_setting_is_simulated_around_its_truth(name):
    """The closed-form truth is where the estimates lie: half of the error of one study over forty is much."""
    found = cover(SETTINGS[name], 40, seed=2)
    assert abs(found.bias) < 0.6
    assert found.coverage >= 0.8


def test_truth_in_closed_form_is_that_of_a_large_simulation():
    rng = np.random.default_rng(0)
    design = Binormal(n_patients=3000, seed_sd=0.3, source_sd=0.5)
    values = [
        run.value
        for _ in range(15)
        for run in design.evaluation_set(rng).cell(dict(enumerate(rng.normal(1.2, 0.3, 10))), rng).values()
    ]
    assert np.mean(values) == pytest.approx(design.auc(1.2), abs=4 * np.std(values) / np.sqrt(len(values)))


def test_the_pool_has_no_subset_variance_at_full_data():
    rng = np.random.default_rng(0)
    study = POOL.difference(CASE_DOMINATED, 5, {1.0: 1.0})
    full, tenth = (
        np.mean([s(rng).estimate.v_seed for _ in range(10)])
        for s in (study, POOL.difference(CASE_DOMINATED, 5, {0.1: 1.0}))
    )
    assert full < 0.5 * tenth


@pytest.mark.parametrize("name", [name for name, (kind, _) in NULLS.items() if kind != "power"])
def test_nothing_is_claimed_where_there_is_nothing(name):
    _, null = NULLS[name]
    rng = np.random.default_rng(5)
    assert sum(null(rng) for _ in range(30)) <= 5  # a share of 0.05 gives more in one run of 300


def test_a_true_saving_is_found_more_often_than_a_false_one():
    rng = np.random.default_rng(6)
    found = sum(null_studies.saving_source(5)(rng) for _ in range(30))
    assert found >= 8


@pytest.mark.slow
def test_coverage_with_two_thousand_replications():
    """Coverage at least 0.93; the width stays near that of an oracle who knows the true standard error."""
    found = cover(difference(SEED_DOMINATED, 5), 2000, seed=3)
    assert found.coverage >= 0.93
    assert found.width_ratio < 1.6


def test_the_whole_verdict_claims_nothing_where_there_is_nothing():
    found = null_verdicts.shares(5, 2)
    assert set(found) == set(null_verdicts.KINDS)
    assert all(np.isfinite(share) for share in found.values()), "every kind could have been claimed"
    assert max(found.values()) <= 1 / 2  # claims of one kind in one study of two are chance


def test_the_claims_that_are_counted_would_be_seen(monkeypatch):
    """The counter sees what a source that helps is said to do, so that zero false claims mean something."""
    fractions = {"0.1": (90, 2.4), "0.3": (270, 2.4), "1": (900, 2.4)}
    rng = np.random.default_rng(4)
    evidence = null_verdicts.null_evidence(5, rng)
    monkeypatch.setattr(null_verdicts, "FRACTIONS", fractions)
    helped = null_verdicts.null_evidence(5, np.random.default_rng(4))
    predictions = {
        key: helped.predictions[key] if "natural" in key[0] else p for key, p in evidence.predictions.items()
    }
    histories = {
        trial: replace(h, values=h.values * 0.9) if "natural" in trial else h for trial, h in evidence.histories.items()
    }
    monkeypatch.setattr(
        null_verdicts,
        "null_evidence",
        lambda seeds, rng: replace(evidence, predictions=predictions, histories=histories),
    )
    found = null_verdicts.false_claims(5, rng)
    seen = {name for name, (false, families) in found.items() if false}
    assert seen >= {
        "help or harm in the primary family",
        "help or harm at other amounts",
        "amounts at which a source helps or hurts",
        "a best cell is not among the best",
        "labels saved",
        "a tenth of the labels does as well as all",
        "better or worse probabilities",
        "faster or slower",
    }
    assert found["labels saved"] == (4, 8)  # one source of two, on two tasks at two scales
    assert found["a best cell is not among the best"] == (4, 4)


def test_shares_count_families_and_their_error_is_that_over_studies():
    share, se = null_verdicts.share_of([(1, 4), (0, 4), (0, 4), (3, 4)])
    assert share == 0.25
    by_study = np.array([0.25, 0, 0, 0.75])
    assert se == pytest.approx(by_study.std(ddof=1) / np.sqrt(4))


def test_a_simulation_that_was_broken_off_goes_on_from_its_log(monkeypatch, tmp_path):
    made = []

    def claims_of(seeds, number):
        made.append(number)
        return dict.fromkeys(null_verdicts.KINDS, (int(number == 1), 1))

    monkeypatch.setattr(null_verdicts, "claims_of", claims_of)
    log = tmp_path / "claims.jsonl"
    first = null_verdicts.simulate(5, range(2), log)
    with log.open("a", encoding="utf-8") as stream:
        stream.write('{"seeds": 5, "study": 2, "counts": {"labels saved": [0, 8]}}\n')  # from before a kind was counted
        stream.write('{"seeds": 5, "stu')  # killed while it wrote
    assert null_verdicts.simulate(5, range(3), log) == {**first, 2: dict.fromkeys(null_verdicts.KINDS, (0, 1))}
    assert made == [0, 1, 2]
    assert set(null_verdicts.simulate(3, range(1), log)) == {0}
    assert made == [0, 1, 2, 0], "studies of other seeds are others"
