"""Facts of the gates: what a source has seen, which sets are of another site, and how they cap a verdict."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from dashboards.cell_tables import _cell_facts
from dashboards.evidence import target_results
from dashboards.gate_facts import _both, declared_contents, is_external, upstream_overlap
from dashboards.statistics import Comparison, chance_run, verdicts_at_chance
from dashboards.tables import build_tables
from search_spaces.study import Study
from tests.dashboards.synthetic import evidence_of, failure, make_study, make_synthetic, whole_study, whole_tables

SOURCES = {
    "photos": {"file": "/w.pth", "contents": ["imagenet1k", "CheXpert"]},
    "silent": {"file": "/w.pth"},
    "downloaded": {"timm": "default", "contents": ["ImageNet-21k"]},
    "by_scale": {"by_scale": {"small": {"file": "/w.pth", "contents": ["skin"]}}},
    "upstream": {"trial": {"task": "brain", "pretraining_source": "photos"}},
    "drawn": {"transform": "mean_var", "of": "photos"},
    "gabor": {"transform": "gabor"},
}


def study_with(manifest: str, **evaluate) -> Study:
    tasks = {
        "skin": {"manifest": manifest, "primary": "auc", "evaluate": evaluate},
        "brain": {"manifest": "brain", "primary": "auc"},
    }
    axes = {"model_scale": ["small"], "pretraining_source": ["random"], "data_fraction": [1.0], "task": ["skin"]}
    return make_study(axes=axes, tasks=tasks, sources=SOURCES, scales={"small": {"factory": "nets:net"}})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("random", frozenset()),
        ("photos", {"imagenet1k", "CheXpert"}),
        ("silent", None),
        ("downloaded", {"ImageNet-21k"}),
        ("by_scale", {"skin"}),
        ("upstream", {"imagenet1k", "CheXpert"}),
        ("drawn", {"imagenet1k", "CheXpert"}),
        ("gabor", frozenset()),
        ("nosuch", None),
    ],
)
def test_what_weights_have_seen_is_what_the_study_declares(source, expected):
    assert declared_contents(study_with("skin"), source, "small") == expected


def test_weights_of_a_scale_that_is_not_there_are_unknown():
    assert declared_contents(study_with("skin"), "by_scale", "large") is None


@pytest.mark.parametrize(
    ("manifest", "source", "expected"),
    [
        ("ham10000", "photos", "no"),
        ("chexpert_small", "photos", "possible"),
        ("CheXpert", "photos", "possible"),
        ("imagenet", "photos", "possible"),
        ("che", "photos", "no"),
        ("ham10000", "random", "no"),
        ("ham10000", "silent", None),
    ],
)
def test_overlap_is_read_off_the_names_of_data_sets(manifest, source, expected):
    assert upstream_overlap(study_with(manifest), source, "small", "skin") == expected


def test_a_shifted_set_that_a_source_has_seen_counts_too():
    study = study_with("ham10000", elsewhere={"manifest": "chexpert"})
    assert upstream_overlap(study, "photos", "small", "skin") == "possible"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"manifest": "other"}, True),
        ({"where": {"site": ["B"]}, "held_out": True}, True),
        ({"split": ["external"]}, True),
        ({"where": {"localization": ["face"]}, "held_out": True}, False),
        ({"manifest": "skin", "split": ["val"]}, False),
    ],
)
def test_which_sets_are_of_another_site(spec, expected):
    assert is_external(study_with("skin", there=spec), "skin", "there") is expected


def test_without_a_study_nothing_is_known():
    assert upstream_overlap(None, "random", "small", "skin") is None
    assert not is_external(None, "skin", "there")
    assert not is_external(study_with("skin"), "skin", "test")


@pytest.fixture(scope="module")
def five_seeds():
    return make_synthetic(seeds=5, patients=100)


def graded(synthetic, **changes):
    """The grade of the planted help on skin at the smallest amount, of that task and scale alone."""
    given = {"results": target_results(synthetic.results)} | changes
    rows = given["results"]
    one = (rows["task"] == "skin") & (rows["model_scale"] == "small") & (rows["data_fraction"] == "0.05")
    contrasts = build_tables(evidence_of(synthetic, **(given | {"results": rows[one]}))).contrasts
    return contrasts[(contrasts["set"] == "test") & (contrasts["pretraining_source"] == "natural")].iloc[0]


def with_shared(study, name, patients, same_ids=True):
    return {
        key: dataclasses.replace(p, shared_patients=patients, same_ids=same_ids) if key[1] == name else p
        for key, p in study.predictions.items()
    }


def test_a_sound_study_of_five_seeds_with_another_site_states(five_seeds):
    row = graded(five_seeds)
    assert (row["grade"], row["wording"], row["words"], row["cap"]) == ("A", "states", row["verdict"], "")
    assert row["verdict"] == "helps, meaningfully"


@pytest.mark.parametrize(
    ("patients", "same_ids", "grade", "words"),
    [
        (2, True, "F", "no verdict"),
        (None, True, "C", "suggests: helps, meaningfully"),
        (3, False, "C", "suggests: helps, meaningfully"),
        (0, False, "A", "helps, meaningfully"),
    ],
)
def test_patients_in_training_and_evaluation_cap_the_verdict(five_seeds, patients, same_ids, grade, words):
    row = graded(five_seeds, predictions=with_shared(five_seeds, "test", patients, same_ids))
    assert (row["grade"], row["words"]) == (grade, words)


def test_a_source_that_declares_the_tasks_data_only_suggests(five_seeds):
    sources = {
        "natural": {"by_scale": {name: {"file": "/w.pth", "contents": ["skin"]} for name in ("small", "large")}},
        "natural_meanvar": {"transform": "mean_var", "of": "natural"},
    }
    row = graded(five_seeds, study=make_study(seeds=5, sources=sources))
    assert (row["grade"], row["cap"]) == ("C", "the source may have seen patients of the evaluation set")


def noted(study, column, notes):
    """Results whose trials of ``natural`` all have a note about the in-domain set."""
    rows = study.results.copy()
    rows[column] = [
        {"test": notes} if source == "natural" else {"test": "no" if column == "upstream_overlap" else 0}
        for source in rows["pretraining_source"]
    ]
    return target_results(rows)


@pytest.mark.parametrize(
    ("column", "note", "grade", "words"),
    [
        ("upstream_overlap", "no", "A", "helps, meaningfully"),
        ("upstream_overlap", "possible", "C", "suggests: helps, meaningfully"),
        ("upstream_overlap", None, "A", "helps, meaningfully"),  # the study declares contents of another name
        ("near_copies", 2, "C", "suggests: helps, meaningfully"),
        ("near_copies", 0, "A", "helps, meaningfully"),
        ("near_copies", None, "B", "helps, meaningfully"),
    ],
)
def test_what_the_plan_noted_caps_the_verdict(five_seeds, column, note, grade, words):
    row = graded(five_seeds, results=noted(five_seeds, column, note))
    assert (row["grade"], row["words"]) == (grade, words)


def test_a_noted_overlap_goes_before_the_names_in_the_study_file(five_seeds):
    sources = {
        "natural": {"by_scale": {name: {"file": "/w.pth", "contents": ["skin"]} for name in ("small", "large")}},
        "natural_meanvar": {"transform": "mean_var", "of": "natural"},
    }
    row = graded(
        five_seeds, study=make_study(seeds=5, sources=sources), results=noted(five_seeds, "upstream_overlap", "no")
    )
    assert row["grade"] == "A"


def test_without_another_site_the_grade_is_b_and_the_wording_stays(five_seeds):
    kept = {key: p for key, p in five_seeds.predictions.items() if key[1] == "test"}
    row = graded(five_seeds, predictions=kept)
    assert (row["grade"], row["wording"], row["reasons"]) == ("B", "states", "no patients of another site")


def test_seeds_added_after_a_look_only_suggest(five_seeds):
    row = graded(five_seeds, seeds_added=True)
    assert (row["grade"], row["cap"]) == ("C", "seeds were added after test results had been read")


def test_unknown_subsets_are_no_proof_of_pairs(five_seeds):
    row = graded(five_seeds, results=target_results(five_seeds.results.drop(columns=["subset_hash", "order_hash"])))
    assert row["grade"] == "C"
    assert "whether seeds are pairs is not known" in row["cap"]


def test_lost_trials_at_chance_are_those_of_the_statistics(five_seeds):
    """The whole primary family with a lost trial, against ``verdicts_at_chance`` of runs gathered by hand."""
    results = five_seeds.results
    one = (results["task"] == "skin") & (results["model_scale"] == "small")
    results = results[one & results["data_fraction"].isin(["0.05", "1"])]
    lost = results[(results["pretraining_source"] == "natural") & (results["data_fraction"] == "0.05")].iloc[4]
    kept = results[results["trial_id"] != lost["trial_id"]]
    evidence = evidence_of(five_seeds, results=target_results(kept))
    primary = build_tables(evidence).contrasts.query("primary").reset_index(drop=True)

    from dashboards.cell_tables import view
    from dashboards.reading import task_estimates

    (estimates,) = task_estimates(evidence)
    task = view(evidence, estimates)
    p = five_seeds.predictions[lost["trial_id"], "test"]
    chance = chance_run("auc_macro", p.kind, p.labels, p.y, p.patient)
    family = []
    for row in primary.to_dict("records"):
        cell = (row["model_scale"], row["pretraining_source"], row["data_fraction"])
        runs = task.runs(cell, "test")
        missing = [s for s in task.cells["small", "random", "0.05"] if s not in runs]
        base = task.runs(("small", "random", row["data_fraction"]), "test")
        family.append(Comparison(runs_a=runs, runs_b=base, lost_a=missing, lost_b=[], chance=chance))
    expected = verdicts_at_chance(family, evidence.delta)
    direction = {"helps, meaningfully": "helps"}
    held = [direction.get(a, a) == direction.get(b, b) for a, b in zip(primary["verdict"], expected, strict=True)]
    assert list(primary["holds_at_chance"]) == held
    assert primary["lost_trials"].sum() == 1


def test_a_family_of_several_metrics_has_one_direction_each():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        verdicts_at_chance([], 0.01, higher_is_better=[True])


def test_gates_are_counted_by_source_and_set():
    gates = whole_tables().gates
    seeds = gates[gates["gate"] == "seeds"]
    assert (seeds["passed"] == 0).all()
    assert set(seeds["reasons"]) == {"fewer than 5 seeds"}
    assert set(seeds["cap"]) == {"B"}
    rest = gates[gates["gate"] != "seeds"]
    assert (rest["passed"] == rest["contrasts"]).all()


def test_failures_without_a_plan_are_lost_trials_too():
    import pandas as pd

    from dashboards.planned import Plan, planned_seeds

    planned = planned_seeds(Plan(), pd.DataFrame([failure(seed="3"), failure(seed="s1i2")]))
    assert [seed.label for seed in planned["skin", "small", "natural", "0.05"]] == ["3", "s1i2"]
    assert planned_seeds(Plan(), pd.DataFrame()) == {}
    assert set(planned_seeds(evidence_of(whole_study()).plan, pd.DataFrame())) == set(
        evidence_of(whole_study()).plan.trials
    )


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [([True, True], True), ([None, True], None), ([None, None], None), ([False, None], False), ([False, True], False)],
)
def test_patients_are_known_only_where_every_trial_says_so(recorded, expected):
    rows = whole_study().results
    cell = rows[(rows["task"] == "skin") & (rows["model_scale"] == "small") & (rows["data_fraction"] == "0.05")]
    cell = target_results(cell[cell["pretraining_source"] == "natural"].head(2))
    cell["patients_known"] = pd.Series(recorded, dtype=object)
    assert _cell_facts(cell)["patients_known"] is expected


@pytest.mark.parametrize(("sides", "expected"), [([True, None], None), ([False, None], False), ([True, True], True)])
def test_both_sides_must_know_their_patients(sides, expected):
    assert _both(sides) is expected


def test_a_metric_over_all_images_is_gated_by_the_rarest_class():
    study = make_synthetic(seeds=2, patients=36)
    rows = target_results(study.results[study.results["task"] == "brain"]).assign(primary="accuracy")
    contrasts = build_tables(evidence_of(study, results=rows, study=None)).contrasts
    assert set(contrasts["metric"]) == {"accuracy"}
    assert set(contrasts["n_patients"]) == {36}
    assert contrasts["cap"].str.contains("18 patients of the rarest class, a test needs 20").all()
    assert set(contrasts["wording"]) == {"no verdict"}
