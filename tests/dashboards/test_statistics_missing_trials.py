"""Lost trials at chance: what chance is, and whether verdicts survive it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from dashboards.statistics import (
    Comparison,
    chance_run,
    contrast,
    patient_influence,
    verdict_holds,
    verdicts_at_chance,
)

PATIENT = np.arange(200)
Y = (PATIENT % 4 == 0).astype(float)


def test_chance_of_a_binary_task():
    found = {
        m: chance_run(m, "binary", ["d"], Y, PATIENT).value for m in ("auc", "accuracy", "nll", "balanced_accuracy")
    }
    assert found == pytest.approx(
        {"auc": 0.5, "accuracy": 0.75, "nll": entropy([0.25, 0.75]), "balanced_accuracy": 0.5}
    )
    auc = chance_run("auc", "binary", ["d"], Y, PATIENT)
    assert not auc.psi.any()


def test_chance_of_classes_and_of_masked_labels():
    y = np.repeat([0, 1, 2, -1], [100, 60, 40, 10])
    args = ("multiclass", list("abc"), y, np.arange(210))
    assert chance_run("nll", *args).value == pytest.approx(entropy([0.5, 0.3, 0.2]))
    assert chance_run("auc_macro", *args).value == 0.5
    labels = np.c_[Y, np.where(PATIENT < 100, Y, np.nan), np.zeros(200)]
    found = chance_run("auc_macro", "multilabel", list("abc"), labels, PATIENT)
    assert (found.value, found.undefined) == (0.5, ("c",))


def cell(strength, seeds, noise_seed):
    rng = np.random.default_rng(noise_seed)
    return {
        s: patient_influence("auc", "binary", ["d"], Y, strength * Y + rng.normal(size=200), PATIENT) for s in seeds
    }


CHANCE = chance_run("auc", "binary", ["d"], Y, PATIENT)


def comparison(a, b, lost_a=(), lost_b=()):
    return Comparison(runs_a=a, runs_b=b, lost_a=lost_a, lost_b=lost_b, chance=CHANCE)


def test_without_lost_trials_nothing_changes():
    a, b = cell(3.0, range(6), 1), cell(0.5, range(6), 2)
    (verdict,) = verdicts_at_chance([comparison(a, b)], 0.01)
    assert verdict == "helps, meaningfully"
    assert contrast(*comparison(a, b).at_chance()) == contrast(a, b)


def test_a_lost_trial_of_the_source_takes_the_verdict_back():
    a, b = cell(1.5, range(4), 1), cell(0.5, range(6), 2)
    assert verdicts_at_chance([comparison(a, b)], 0.01) == ("helps, meaningfully",)
    (verdict,) = verdicts_at_chance([comparison(a, b, lost_a=[4, 5])], 0.01)
    assert verdict == "undecided"
    assert not verdict_holds("helps", verdict)


def test_lost_trials_of_a_poor_baseline_do_not():
    a, b = cell(3.0, range(6), 1), cell(0.2, range(4), 2)
    (verdict,) = verdicts_at_chance([comparison(a, b, lost_b=[4, 5])], 0.01)
    assert verdict_holds("helps, meaningfully", verdict)
    assert contrast(*comparison(a, b, lost_b=[4, 5]).at_chance()).n_seeds == 6


def test_the_family_is_corrected_anew():
    a, b = cell(1.0, range(6), 1), cell(0.55, range(6), 2)
    alone = verdicts_at_chance([comparison(a, b)], 0.01)[0]
    family = [comparison(a, b), *[comparison(cell(0.5, range(6), s), cell(0.5, range(6), s + 50)) for s in range(80)]]
    assert (alone != "undecided", verdicts_at_chance(family, 0.01)[0]) == (True, "undecided")


def test_a_seed_that_finished_is_not_lost():
    with pytest.raises(ValueError, match=r"seeds \[0\] are both finished and lost"):
        comparison(cell(1.0, [0], 1), cell(1.0, [0], 2), lost_a=[0]).at_chance()


def test_how_meaningful_a_help_is_may_change():
    assert verdict_holds("helps, meaningfully", "helps")
    assert not verdict_holds("hurts", "helps")
