"""Metrics without patients: Student's t over seeds, said to be no more than that."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dashboards.statistics import (
    Facts,
    classify,
    combined_interval,
    compare_with_best,
    contrast,
    grade,
    reported_influence,
    sign_flip_p,
    what_is_missing,
)
from dashboards.statistics.gates import GateName, Letter, Wording, open_gates
from tests.dashboards.runs import cell

A, B = [0.861, 0.868, 0.859, 0.871, 0.866], [0.851, 0.859, 0.856, 0.858, 0.860]


def reported(values, metric="auc"):
    return {seed: reported_influence(metric, value) for seed, value in enumerate(values)}


def test_a_contrast_is_the_paired_t_test():
    found = contrast(reported(A), reported(B))
    paired = stats.ttest_rel(A, B)
    assert found.p == pytest.approx(paired.pvalue) == pytest.approx(0.0087605, abs=1e-7)
    assert (found.low, found.high) == pytest.approx(paired.confidence_interval(0.95))
    assert found.seeds_only
    assert np.isnan(found.v_case)
    assert found.n_patients == 0
    assert "no patient data: seeds only" in found.notes
    assert not any("too few patients" in note for note in found.notes)


def test_one_run_without_patients_takes_them_from_the_whole_contrast():
    with_patients = cell(A, patient_sd=0.3, metric="auc")
    found = contrast(with_patients, reported(B))
    assert found.seeds_only
    assert found.p == pytest.approx(stats.ttest_rel(A, B).pvalue)


def test_one_seed_gives_no_interval_and_undefined_seeds_are_left_out():
    single = contrast(reported(A[:1]), reported(B[:1]))
    assert np.isnan([single.low, single.high, single.p]).all()
    assert {"no patient data: seeds only", "one seed: conditional on this run"} <= set(single.notes)
    holes = contrast(reported([*A, np.nan]), reported([*B, 0.8]))
    assert holes.n_seeds == 5
    assert any("undefined value" in note for note in holes.notes)
    same = contrast(reported(A), reported(A))
    assert np.isnan(same.p)


def test_a_cell_has_an_interval_inside_its_range():
    found = combined_interval(reported([0.99, 0.995, 0.999]))
    assert 0 < found.low < found.value < found.high < 1
    assert combined_interval(reported([0.4, 0.5], metric="nll")).low > 0


def test_grade_is_c_by_construction_and_the_words_suggest():
    facts = {"shared_patients": 0, "upstream_overlap": "no", "paired": True, "class_set_frozen": True, "near_copies": 0}
    facts |= {"selected_on": "validation", "external": True, "still_rising": 0.0}
    graded = grade(Facts(n_seeds=10, min_patients=0, seeds_only=True, **facts))
    assert (graded.letter, graded.wording) == (Letter.C, Wording.SUGGESTS)
    assert graded.reasons == ("no patient data: seeds only",)
    names = {gate.name for gate in open_gates(Facts(n_seeds=10, min_patients=0, seeds_only=True))}
    assert GateName.SIZE not in names, "nothing is known of the size"


def test_what_is_missing_is_told_in_seeds():
    found = contrast(reported(A), reported(B))
    missing = what_is_missing(found, 0.001)
    assert missing is not None
    assert (missing.n_patients, missing.dominated_by) == (None, "seeds")
    assert missing.n_seeds == int(np.floor(found.v_seed * 5 / (0.001 / 1.959964) ** 2)) + 1
    assert classify(found, found.p, 0.001) == "helps, meaningfully"


def test_the_best_may_be_sought_over_seeds_alone():
    best = compare_with_best({"a": reported(A), "b": reported([v - 0.1 for v in A])}, 0.01)
    assert best.members == ("a",)
    alone = compare_with_best({"a": reported(A[:1]), "b": reported(B[:1])}, 0.01)
    assert alone.left_out == dict.fromkeys(["a", "b"], "no patient data: seeds only, and one seed")


def test_sign_flips():
    differences = np.subtract(A, B)
    assert sign_flip_p(differences) == 0.0625
    assert sign_flip_p(-differences) == 0.0625
    assert sign_flip_p([0.01]) != sign_flip_p([0.01])
    many = np.random.default_rng(0).normal(0.3, 1, 20)
    assert sign_flip_p(many) == sign_flip_p(many)
    assert sign_flip_p(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.03)
