"""Every mistake is found by the plan, with one clear message, before anything is trained."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator.plan import make_plan, stores_needed
from orchestrator.sweep import app
from search_spaces.home import scalecurves_home
from search_spaces.hyperrule import MEDIUM, SMALL
from search_spaces.names import Role
from search_spaces.trial import Workspace
from tests.orchestrator.small_runs import plan_of
from tests.orchestrator.small_study import raw_study, rewrite_study, write_study
from trainables.importers import ImportOptions, import_csv, import_npz
from trainables.library import TaskLibrary
from trainables.scale_cards import model_card


@pytest.fixture
def folder(tmp_path):
    write_study(tmp_path)
    return tmp_path


def refused(folder, command="plan", **changes):
    """Output of a command on a changed study, which must end with exit code 1."""
    file = rewrite_study(folder, **changes)
    ran = CliRunner().invoke(app, [command, str(file)])
    assert ran.exit_code == 1, ran.output
    assert "Traceback" not in ran.output
    return " ".join(ran.output.split())


def axes(**changes):
    return raw_study()["axes"] | changes


def test_a_plan_counts_targets_stages_and_images(folder):
    plan = plan_of(rewrite_study(folder))
    assert (len(plan.cells), len(plan.targets), len(plan.trials)) == (4, 8, 10)
    assert [len(stage) for stage in plan.stages()] == [6, 4]
    assert not plan.problems
    assert plan.images["spots"]["site_b"] == 30
    upstream = {t.trial_id for t in plan.trials if t.trial.role is Role.UPSTREAM}
    assert {t.upstream_id for t in plan.trials} == upstream | {None}


def test_a_plan_says_what_is_unknown_and_times_it_when_asked(folder):
    file = rewrite_study(folder)
    unknown = CliRunner().invoke(app, ["plan", str(file)]).output
    assert "10 trials to train; how long they take is known once some have ended, or with --calibrate" in unknown
    ran = CliRunner().invoke(app, ["plan", str(file), "--calibrate", "--slots", "2", "--price", "3", "--json"])
    made = json.loads(ran.output)["estimate"]
    assert made["basis"] == {"narrow": "calibration"}
    assert 0 < made["wall_s"] < made["busy_s"] <= 2 * made["wall_s"] + 1e-9
    assert made["gpu_hours_basis"] == {"narrow": "operations"}, "seconds of a CPU say nothing of a GPU"
    assert made["price"] == pytest.approx(3 * made["gpu_hours"])
    assert made["price"] > 0
    assert made["record_silent"] == ""
    assert made["weights_bytes"] > 0
    assert made["store_bytes"] > 0
    refusal = CliRunner().invoke(app, ["plan", str(file), "--slots", "0"])
    assert refusal.exit_code == 1
    assert "--slots is the number of trials at a time, at least 1, got 0" in refusal.output


def test_a_plan_for_gpus_follows_from_operations_before_anything_was_trained(folder):
    file = rewrite_study(folder)
    plan = plan_of(file, load_weights=False)
    card = model_card(raw_study()["scales"]["narrow"]["factory"], raw_study()["scales"]["narrow"]["arguments"], 16)
    ghost = plan.resolver.protocol_of(plan.trials[0].trial).ghost_batch_size
    slow = sum(3 * card.gflops * 1e9 * t.images / 1e6 for t in plan.trials) / 3600
    least = sum(t.images / ghost * 0.01 for t in plan.trials) / 3600
    asked = ["plan", str(file), "--nodes", "1x(4,1,H100)", "--price", "2", "--json"]

    def planned(*more):
        return json.loads(CliRunner().invoke(app, [*asked, *more]).output)["estimate"]

    by_type, by_user, tiny = planned(), planned("--tflops", "1e9"), planned("--tflops", "1e-6")
    assert by_type["basis"] == by_type["gpu_hours_basis"] == {"narrow": "operations"}
    assert by_type["assumed"] == ["33.5 TFLOPS, 50% of the float32 peak of one H100"]
    assert by_user["assumed"] == ["1e+09 TFLOPS per GPU, as given"]
    assert by_user["gpu_hours"] == pytest.approx(least), "no ghost batch below 10 ms"
    assert tiny["gpu_hours"] == pytest.approx(slow), "3 forward passes per image at 1e6 operations per second"
    assert tiny["price"] == pytest.approx(2 * slow)
    assert tiny["wall_s"] == pytest.approx(3600 * slow), "one GPU, one trial after another"
    text = " ".join(CliRunner().invoke(app, asked[:-1]).output.split())
    assert "an assumption for narrow, not a measurement: 3 forward passes per trained image" in text
    assert "at 33.5 TFLOPS, 50% of the float32 peak of one H100 (--tflops says another)" in text
    other = CliRunner().invoke(app, ["plan", str(file), "--nodes", "1x(4,1,Z9)"]).output
    assert "or with --tflops, as the speed of Z9 is not listed here" in " ".join(other.split())
    refusal = CliRunner().invoke(app, ["plan", str(file), "--tflops", "0"])
    assert refusal.exit_code == 1
    assert "--tflops is what one GPU sustains" in refusal.output


def test_a_plan_is_made_although_the_record_does_not_answer(folder):
    file = rewrite_study(folder)
    ran = CliRunner().invoke(app, ["plan", str(file), "--tracking-uri", "http://127.0.0.1:1"])
    assert ran.exit_code == 0
    assert "the record does not answer, so nothing counts as done" in ran.output
    assert "10 trials to train" in ran.output


def test_a_cache_limit_below_what_the_study_needs_is_a_problem_and_one_that_holds_it_is_none(folder, monkeypatch):
    file = rewrite_study(folder)
    plan = plan_of(file, load_weights=False)
    library = TaskLibrary(scalecurves_home())
    stores = stores_needed(plan.resolver, plan.trials)
    kept = sum(len(library.load(name)) * side * side * 3 for name, _, side in stores)
    passing = max(len(library.load(name)) * size * size * 3 for name, size, _ in stores)
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", f"{kept + passing}B")
    assert not plan_of(file, load_weights=False).problems
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", f"{kept - 1}B")
    [problem] = plan_of(file, load_weights=False).problems
    assert f"({len(stores)} stores, the largest of" in problem
    assert "more than SCALECURVES_CACHE_LIMIT" in problem
    assert not make_plan(plan.loaded, library, load_weights=False, to_be_run=False).problems
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", "much")
    [problem] = plan_of(file, load_weights=False).problems
    assert "SCALECURVES_CACHE_LIMIT is 'much'" in problem


def test_images_seen_count_steps_and_each_validation_once(folder):
    protocol = raw_study()["protocol"] | {"budget": {"epochs": 1}, "evaluations": 10}
    plan = plan_of(rewrite_study(folder, protocol=protocol))
    target = next(t for t in plan.targets if t.trial.cell.data_fraction.label == "1")
    sizes = plan.images["spots"]
    steps = max(1, round(sizes["train"] / 16))
    of_sets = sum(n for name, n in sizes.items() if name not in ("train", "val"))
    evaluated = min(steps, 10) * sizes["val"] + of_sets
    assert target.images == pytest.approx(steps * 16 + evaluated / 3)


@pytest.mark.parametrize("command", ["run", "plan", "status", "why", "evaluate", "report"])
def test_every_command_takes_the_shared_options(command):
    names = {p.name for p in get_command(app).commands[command].params}
    assert {"set_", "only", "address", "tracking_uri", "storage", "yes"} <= names


def test_patients_who_are_held_out_may_not_be_trained_on_upstream(folder):
    tasks = raw_study()["tasks"]
    tasks["other_spots"] = {"manifest": "spots", "primary": "auc"}
    output = refused(folder, tasks=tasks)
    rule = r"evaluation set 'site_b' of task 'spots': (\d+) of its 30 images are of patients, or in files, that"
    found = re.search(rule, output)
    assert found, output
    table = TaskLibrary(scalecurves_home()).load("spots").table
    seen = table.loc[table["split"].isin(["train", "val"]), "patient_id"]
    assert int(found[1]) == int((table["site"].eq("B") & table["patient_id"].isin(seen)).sum()) > 0
    assert "Give 'other_spots' the same held_out set or a where that leaves them out" in output
    tasks["other_spots"]["where"] = {"site": "A"}
    assert not plan_of(rewrite_study(folder, tasks=tasks)).problems


def test_files_of_an_evaluation_set_may_not_be_trained_on_upstream_under_another_name(folder):
    options = ImportOptions(name="again", label_name="spot", split=(0.7, 0.2, 0.1), split_seed=5)
    TaskLibrary(scalecurves_home()).save(import_csv(folder / "spots" / "labels.csv", options))
    tasks = raw_study()["tasks"] | {"other_spots": {"manifest": "again", "primary": "auc"}}
    assert "that its source's task 'other_spots' trains or selects on" in refused(folder, tasks=tasks)


def test_equal_frames_of_one_npz_are_no_leak_but_noted(folder):
    images = np.random.default_rng(0).integers(0, 256, (40, 20, 20), dtype=np.uint8)
    images[[3, 33]] = 0
    labels = np.arange(40)[:, None] % 2
    parts = {"train": slice(0, 24), "val": slice(24, 30), "test": slice(30, 40)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    np.savez(folder / "m.npz", **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    library = TaskLibrary(scalecurves_home())
    one = library.save(import_npz(folder / "m.npz", ImportOptions(name="one")))
    other_patients = one.table.assign(patient_id="other " + one.table["patient_id"])
    library.save(dataclasses.replace(one, name="two", table=other_patients))
    label = one.labels[0]
    tasks = {
        "spots": {"manifest": "one", "primary": "auc", "evaluate": {"test": {}}},
        "other_spots": {"manifest": "two", "primary": "auc", "labels": [label]},
    }
    plan = plan_of(rewrite_study(folder, tasks=tasks))
    assert not plan.problems
    assert any("1 of its 10 images are equal, byte for byte" in note for note in plan.notes)


def test_equal_images_elsewhere_are_noted(folder):
    shutil.copytree(folder / "spots", folder / "copy")
    options = ImportOptions(name="copy", label_name="spot", split=(0.7, 0.2, 0.1))
    TaskLibrary(scalecurves_home()).save(import_csv(folder / "copy" / "labels.csv", options))
    tasks = raw_study()["tasks"] | {"other_spots": {"manifest": "copy", "primary": "auc"}}
    plan = plan_of(rewrite_study(folder, tasks=tasks))
    assert not plan.problems
    assert any("images are equal, byte for byte, to images that its source's task" in note for note in plan.notes)


def test_most_work_first(folder):
    scales = raw_study()["scales"]
    wide = {**scales["narrow"], "arguments": {"width": 8}}
    file = rewrite_study(folder, axes=axes(model_scale=["narrow", "wide"]), scales={**scales, "wide": wide})
    for stage in plan_of(file).stages():
        costs = [t.cost for t in stage]
        assert costs == sorted(costs, reverse=True)
        assert {t.trial.cell.model_scale for t in stage[: len(stage) // 2]} == {"wide"}


def test_only_keeps_the_upstream_trials_that_are_needed(folder):
    file = rewrite_study(folder)
    assert len(plan_of(file, only="pretraining_source=random").trials) == 4
    assert len(plan_of(file, only="pretraining_source=spots_pre,seed=0,data_fraction=1.0").trials) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scales": {"narrow": {"factory": "resnet18000"}}}, "resnet18000"),
        ({"scales": {"narrow": {"factory": "torchvision:resnet181"}}}, "Did you mean 'resnet18'"),
        ({"scales": {"narrow": {"factory": "no_such_module:net", "input_size": 16}}}, "no_such_module"),
        ({"axes": axes(data_fraction=[{"images": 5000}])}, "5000"),
        ({"axes": axes(data_fraction=[{"patients": 900}])}, "900"),
        ({"tasks": {**raw_study()["tasks"], "spots": {"manifest": "spotz", "primary": "auc"}}}, "Did you mean 'spots'"),
        (
            {
                "tasks": {
                    **raw_study()["tasks"],
                    "spots": {"manifest": "spots", "primary": "auc", "where": {"cite": "A"}},
                }
            },
            "cite",
        ),
        (
            {
                "tasks": {
                    **raw_study()["tasks"],
                    "spots": {
                        "manifest": "spots",
                        "primary": "auc",
                        "where": {"site": "A"},
                        "evaluate": {"b": {"manifest": "spots", "where": {"site": "B"}, "label_map": {"sopt": "spot"}}},
                    },
                }
            },
            "sopt",
        ),
        ({"tasks": {**raw_study()["tasks"], "spots": {"manifest": "spots", "primary": "auc_macro"}}}, "auc_macro"),
        ({"protocol": {**raw_study()["protocol"], "storage_size": 12}}, "storage_size"),
        ({"sources": {"spots_pre": {"file": "nowhere.pth"}}}, "nowhere.pth"),
        ({"sources": {"spots_pre": {"by_scale": {"narrow": {"state_key": "model"}}}}}, "need the key file"),
    ],
)
def test_mistakes_are_found_before_training(folder, changes, expected):
    assert expected in refused(folder, "run", **changes)


def test_all_problems_are_listed_at_once(folder):
    tasks = raw_study()["tasks"]
    tasks["spots"]["manifest"] = "absent"
    output = refused(folder, tasks=tasks, sources={"spots_pre": {"file": "nowhere.pth"}})
    assert "absent" in output
    assert "nowhere.pth" in output


def test_a_checkpoint_of_another_network_is_refused(folder):
    torch.save({"conv9.weight": torch.zeros(3, 3)}, folder / "other.pth")
    output = refused(folder, "run", sources={"spots_pre": {"file": "other.pth"}})
    assert "spots_pre" in output
    assert "missing" in output.lower()


VIT = {"factory": "vit_tiny_patch16_224", "arguments": {"depth": 1, "embed_dim": 24, "patch_size": 8}}
WIDE = {**raw_study()["scales"]["narrow"], "arguments": {"width": 6}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {
                "scales": {"narrow": VIT},
                "protocol": {**raw_study()["protocol"], "storage_size": 24, "image_size": [24, 16]},
                "overrides": [{"when": {"task": "other_spots"}, "set": {"image_size": [24, 24]}}],
            },
            r"of another shape: 1: pos_embed .*learns labels with scale 'narrow' .* at 24 px",
        ),
        (
            {
                "scales": {**raw_study()["scales"], "wide": WIDE},
                "sources": {"spots_pre": {"trial": {"task": "other_spots", "model_scale": "wide"}}},
            },
            r"of another shape: .*learns labels with scale 'wide'",
        ),
    ],
)
def test_a_trial_that_cannot_fill_what_starts_from_it_is_refused_before_it_is_trained(folder, changes, said):
    [problem] = plan_of(rewrite_study(folder, **changes)).problems
    assert re.search(rf"(?s)source 'spots_pre' for scale 'narrow', weights of trial \w+: .*{said}", problem)
    assert not plan_of(rewrite_study(folder, **changes), only="pretraining_source=random").problems


def test_an_unreadable_image_is_named_before_training(folder):
    file = rewrite_study(folder)
    (folder / "spots" / "spots_3_1.png").write_bytes(b"not an image")
    ran = CliRunner().invoke(app, ["run", str(file)])
    assert ran.exit_code == 1
    assert "spots_3_1.png" in ran.output.replace("\n", "")
    assert not list((scalecurves_home() / "storage").glob("*/trials/*"))


@pytest.mark.skipif(not Path("/proc/1").exists(), reason="needs /proc, which nobody can write")
def test_unwritable_storage_is_refused_with_the_reason(folder):
    ran = CliRunner().invoke(app, ["run", str(rewrite_study(folder)), "--storage", "/proc/nothing/here"])
    assert ran.exit_code == 1
    assert "/proc/nothing/here" in ran.output.replace("\n", "")


RULED = {"base": "bit_light", "budget": {"steps": 2}, "global_batch_size": 4, "storage_size": 20}


def test_a_rule_that_jumps_inside_a_curve_is_noted(folder, monkeypatch):
    file = rewrite_study(folder, protocol=RULED)
    assert not any("jumps" in note for note in plan_of(file).notes)
    sizes = []

    def cut_between(images):
        sizes.append(images)
        return SMALL if images == min(sizes) else MEDIUM

    data = plan_of(file).trials
    assert len({t.trial.cell.data_fraction for t in data}) > 1
    monkeypatch.setattr("orchestrator.plan_recipes.regime_of", cut_between)
    notes = [note for note in plan_of(file).notes if "jumps" in note]
    assert notes
    assert "small at" in notes[0]
    assert "medium at" in notes[0]
    assert not any("jumps" in note for note in plan_of(rewrite_study(folder)).notes)


def test_a_budget_in_operations_becomes_steps_by_the_scale(folder):
    wide = {**raw_study()["scales"]["narrow"], "arguments": {"width": 8}}
    protocol = {**raw_study()["protocol"], "budget": {"flops": 1e10}}
    scales = {**raw_study()["scales"], "wide": wide}
    file = rewrite_study(folder, protocol=protocol, scales=scales, axes=axes(model_scale=["narrow", "wide"]))
    plan = plan_of(file, load_weights=False)
    assert not plan.problems
    steps = {}
    for planned in plan.targets:
        resolved = plan.resolver.resolved(planned.trial, "a", Workspace(home="", storage=""))
        card = model_card(resolved.scale.factory, resolved.scale.arguments, 16)
        assert resolved.scale.gflops == card.gflops
        assert resolved.protocol.budget.flops == 1e10
        steps.setdefault(resolved.scale.name, set()).add(round(1e10 / (3 * card.gflops * 1e9 * 16)))
    assert all(len(of_scale) == 1 for of_scale in steps.values()), "fractions train for equal steps"
    [narrow], [wider] = steps["narrow"], steps["wide"]
    assert narrow > 2 * wider > 2
    assert any(f"scale 'narrow' at 16 px: 1e+10 flops are {narrow:,} steps" in note for note in plan.notes)
    by_steps = rewrite_study(folder, protocol={**protocol, "budget": {"steps": narrow}})
    assert not {t.trial_id for t in plan.trials} & {t.trial_id for t in plan_of(by_steps, load_weights=False).trials}
    said = refused(folder, protocol={**protocol, "budget": {"flops": 1e6}})
    assert "1e+06 flops are less than one step of scale 'narrow', which takes" in said


def test_a_scale_that_cannot_be_counted_has_no_budget_in_operations(folder):
    (folder / "reading_nets.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n    def forward(self, images):\n"
        "        return super().forward(images * float(self[1].weight.abs().mean() + 1))\n\n"
        "def net(num_classes):\n    return Net(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.Linear(8, num_classes))\n"
    )
    scales = {"narrow": {"factory": "reading_nets:net", "input_size": 16}}
    protocol = {**raw_study()["protocol"], "budget": {"flops": 1e10}}
    said = refused(folder, scales=scales, protocol=protocol)
    assert "scale 'narrow' has no budget in flops, as its operations cannot be counted; give protocol.budget" in said


def test_image_sizes_of_the_rule_are_noted_and_need_a_compiler_no_more_than_others(folder, monkeypatch):
    scales = {"narrow": {k: v for k, v in raw_study()["scales"]["narrow"].items() if k != "input_size"}}
    protocol = {"base": "bit_light", "budget": {"steps": 2}, "global_batch_size": 4}
    plan = plan_of(rewrite_study(folder, protocol=protocol, scales=scales), load_weights=False)
    assert not plan.problems
    assert "task 'spots': by BiT-HyperRule its images are resized to 160 and cropped to 128 px" in plan.notes
    assert {(size, side) for _, size, side in stores_needed(plan.resolver, plan.trials)} == {(160, 160)}
    written = plan_of(rewrite_study(folder, protocol=protocol | {"storage_size": 20}), load_weights=False)
    assert not any("HyperRule" in note for note in written.notes)
    kept = plan_of(rewrite_study(folder, protocol=protocol), load_weights=False)
    assert any("does not choose the image size of narrow (16 px)" in note for note in kept.notes)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert not plan_of(rewrite_study(folder), load_weights=False).problems
    said = refused(folder, protocol={**raw_study()["protocol"], "compile": True})
    assert "protocol.compile needs a C++ compiler, and '/nowhere/g++' is not found" in said


def test_a_warm_up_as_long_as_the_training_is_refused(folder):
    said = refused(folder, protocol={"warmup_steps": 10_000, "budget": {"epochs": 1}, "storage_size": 20})
    assert "warmup_steps (10000) must be below the steps of the budget" in said


def test_the_recipe_is_resolved_on_request(folder):
    file = rewrite_study(folder, protocol=RULED)
    shown = CliRunner().invoke(app, ["plan", str(file), "--resolved", "--json"])
    protocol = json.loads(shown.stdout)["protocol"]
    assert (protocol["optimizer"], protocol["milestones"], protocol["lr"]) == ("sgd", [0.3, 0.6, 0.9], 0.001)
    text = CliRunner().invoke(app, ["plan", str(file), "--resolved"]).stdout
    assert "head_init: zero" in text


def test_idle_ranks_are_noted(folder):
    plan = plan_of(rewrite_study(folder, execution={"gang": {"ranks": 3}}))
    assert "3 ranks share 2 ghost batch" in " ".join(plan.notes)


def test_controls_are_added_and_said(folder):
    plan = plan_of(rewrite_study(folder, axes=axes(pretraining_source=["spots_pre"])))
    assert len(plan.cells) == 4
    assert {c.pretraining_source for c in plan.cells} == {"random", "spots_pre"}
    assert any("2 cells of random weights are added as controls (narrow)" in note for note in plan.notes)
    plan = plan_of(rewrite_study(folder, axes=axes(pretraining_source=["spots_pre"]), controls="none"))
    assert {c.pretraining_source for c in plan.cells} == {"spots_pre"}
    assert not any("controls" in note for note in plan.notes)


def test_what_cannot_be_frozen_or_cut_is_found(folder):
    output = refused(folder, protocol={"budget": {"steps": 2}, "freeze": "stages.0"})
    assert "protocol.freeze for scale 'narrow': unknown cut point 'stages.0'" in output
    sources = {**raw_study()["sources"], "spots_pre": {"transform": "partial", "of": "before", "up_to": "layer9"}}
    sources["before"] = {"trial": {"task": "other_spots"}}
    output = refused(folder, sources=sources, protocol={"budget": {"steps": 2}})
    assert "partial: unknown cut point 'layer9'" in output
    assert "From bottom to top: conv1, bn1, layer1, layer2, layer3." in output


def test_a_file_that_is_not_the_published_one_is_noted(folder):
    torch.save({}, folder / "net.th")
    scales = {"narrow": {"factory": "trainables.ladder_nets:resnet20", "input_size": 16}}
    sources = {"natural": {"catalogue": "cifar10_resnet20", "file": "net.th"}}
    axis = axes(pretraining_source=["random", "natural"])
    plan = plan_of(rewrite_study(folder, scales=scales, sources=sources, axes=axis), load_weights=False)
    [note] = [note for note in plan.notes if "sha256" in note]
    assert note.startswith("sources.natural for scale narrow: the published resnet20-12fca82f.th has sha256 12fc")
