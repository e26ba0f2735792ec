"""The studies of the papers, planned on small copies of the public releases, imported as their head comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.plan import make_plan
from orchestrator.tasks import app as tasks_app
from search_spaces.expand import expand
from search_spaces.files import load_study, presets
from search_spaces.home import scalecurves_home
from search_spaces.source_specs import ByScaleSource, CheckpointSource
from tests.orchestrator.small_runs import call
from tests.trainables.importers.releases import RELEASES, picture
from trainables.importers import shipped_map
from trainables.library import TaskLibrary

pytest.importorskip("pydicom")

PAPERS = ("bit2020", "mustafa2021", "taher2021", "transfusion2019")
_IMPORT = re.compile(r"^#   (\w+) FOLDER --name (\w+)", re.MULTILINE)


def imports(preset: str) -> dict[str, str]:
    """Task -> format or data set, of the import lines at the head of a preset."""
    return {task: layout for layout, task in _IMPORT.findall(presets()[preset])}


def natural(root: Path) -> None:
    """Two classes of natural images in folders of splits."""
    for split, count in (("train", 12), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                picture(root / split / name / f"{split}_{name}_{i}.png")


def chexpert(root: Path) -> None:
    """Every label in half of the patients: a subset without one of them is trained by no trial."""
    RELEASES["chexpert"](root)
    head, *rows = (root / "train.csv").read_text().splitlines()
    flags = ("1.0,0.0", "0.0,1.0")
    lines = [",".join((*row.split(",")[:5], *[flags[n // 2 % 2]] * 7)) for n, row in enumerate(rows)]
    (root / "train.csv").write_text("\n".join((head, *lines)) + "\n")


def chestxray14(root: Path) -> None:
    RELEASES["chestxray14"](root)
    labels = shipped_map("chestxray14").labels.items
    head, *rows = (root / "Data_Entry_2017.csv").read_text().splitlines()
    lines = []
    for row in rows:
        name, _, *others = row.split(",")
        lines.append(",".join((name, "No Finding" if int(others[1]) % 2 else "|".join(labels), *others)))
    (root / "Data_Entry_2017.csv").write_text("\n".join((head, *lines)) + "\n")


def ham10000(root: Path) -> None:
    """Every image its own lesion, so that each class is in each split."""
    RELEASES["ham10000"](root)
    head, *rows = (root / "HAM10000_metadata.csv").read_text().splitlines()
    lines = [f"HAM_{n:07d},{row.partition(',')[2]}" for n, row in enumerate(rows)]
    (root / "HAM10000_metadata.csv").write_text("\n".join((head, *lines)) + "\n")


_MAKE = {**RELEASES, "folder": natural, "chexpert": chexpert, "chestxray14": chestxray14, "ham10000": ham10000}


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """Folder of the release of a task, generated once; only read."""
    made: dict[str, Path] = {}

    def get(layout: str, task: str) -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp(task) / "release"
            made[task].mkdir()
            _MAKE[layout](made[task])
        return made[task]

    return get


@pytest.fixture
def planned(release, tmp_path, monkeypatch):
    """Imports what a preset asks for, lays down a file for each of its weights, and plans."""
    monkeypatch.setenv("WEIGHTS", str(tmp_path))

    def plan(preset: str, only: str | None = None, sets: tuple[str, ...] = (), tasks: tuple[str, ...] = ()):
        for task, layout in imports(preset).items():
            if tasks and task not in tasks:
                continue
            ran = CliRunner().invoke(tasks_app, ["import", layout, str(release(layout, task)), "--name", task])
            assert ran.exit_code == 0, ran.output
        for name in set(re.findall(r"\$\{WEIGHTS\}/([^\"]+)", presets()[preset])):
            (tmp_path / name).write_bytes(name.encode())
        return make_plan(load_study(preset, sets), TaskLibrary(scalecurves_home()), only, load_weights=False)

    return plan


@pytest.mark.parametrize(
    ("preset", "cells", "trials"),
    [
        ("bit2020", 5 * 2 * 5, 5 * 2 * 5 * 5),
        ("mustafa2021", 5 * 3 * 3, 5 * 3 * 3 * 5),
        ("taher2021", 17 * 7 + 4 * 5 - 4, 1350),
        ("transfusion2019", 40 - 6, (40 - 6) * 3 + 4),  # those with 5,000 images left out; 4 CBR networks upstream
    ],
)
def test_a_preset_plans_without_problems_on_copies_of_the_releases(planned, preset, cells, trials):
    plan = planned(preset, only="data_fraction=1")
    assert not plan.problems
    assert {e.reason for e in plan.exclusions} <= {"its own domain"}
    assert (len(plan.cells), len(plan.trials)) == (cells, trials)


def test_few_labels_per_class_are_planned_as_well(planned):
    plan = planned("bit2020", only="data_fraction=per_class=1|per_class=5,model_scale=r50x1")
    assert not plan.problems
    assert len(plan.cells) == 2 * 2 * 3
    assert {drawn[0].images for (task, amount), drawn in plan.subsets.items() if amount.value == 5} == {10, 50}


def test_masks_and_labels_of_a_preset_have_the_sizes_of_the_paper(planned):
    plan = planned("taher2021", only="pretraining_source=random,seed=0")
    sizes = {}
    for trial in (t.trial for t in plan.targets):
        protocol = plan.resolver.protocol_of(trial)
        sizes[trial.cell.task] = (protocol.base, protocol.storage_size, plan.resolver.scale(trial.cell).input_size)
    labels = dict.fromkeys(("chestxray14", "chexpert", "shenzhen", "rsna_pe"), ("taher_classification", 256, 224))
    masks = dict.fromkeys(("siim_acr", "montgomery"), ("taher_segmentation", 224, 224))
    assert sizes == labels | masks | {"drive": ("taher_vessels", 512, 512)}


def test_the_upstream_training_of_cbr_networks_is_not_the_protocol_of_their_tasks(planned):
    plan = planned("transfusion2019", only="model_scale=cbr_tiny,seed=0")
    resolved = {t.trial.cell.task: plan.resolver.protocol_of(t.trial) for t in plan.trials}
    assert (resolved["imagenet1k"].optimizer, resolved["imagenet1k"].budget.epochs) == ("sgd", 90)
    assert (resolved["eyepacs"].optimizer, resolved["eyepacs"].image_size) == ("adam", (587, 587))
    assert resolved["chexpert"].image_size == resolved["imagenet1k"].image_size == (256, 224)


@pytest.mark.parametrize("preset", PAPERS)
def test_a_fresh_machine_is_told_all_that_is_missing_at_once(preset, monkeypatch):
    monkeypatch.delenv("WEIGHTS", raising=False)
    plan = make_plan(load_study(preset), TaskLibrary(scalecurves_home()), load_weights=False)
    shown = "\n".join(plan.problems)
    assert len(set(plan.problems)) == len(plan.problems)
    for task, layout in imports(preset).items():
        if task == "cifar10" and preset == "transfusion2019":
            continue  # on no axis
        if layout == "folder":
            assert f"unknown task '{task}'" in shown
        else:
            assert (
                f"python -m orchestrator.tasks import {layout} FOLDER --name {task} (FOLDER: the release, from" in shown
            )
    study = load_study(preset).study
    used = {c.pretraining_source for c in expand(study).cells}
    for name in used:
        source = study.source(name)
        weights = source.by_scale.values() if isinstance(source, ByScaleSource) else [source]
        for file in (w.file for w in weights if isinstance(w, CheckpointSource)):
            assert f"file {file}: environment variable WEIGHTS is not set. Fetch " in shown
    assert "Fetch BiT-S-R50x1.npz" not in shown, "it is one of several"


def test_the_command_says_all_of_it(monkeypatch):
    monkeypatch.delenv("WEIGHTS", raising=False)
    shown = " ".join(call("plan", "taher2021", code=1).split())
    assert "Traceback" not in shown
    assert shown.count("problem: unknown task") == 7
    assert shown.count("environment variable WEIGHTS is not set") == 14 + 1 + 4
    assert "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v1_200ep/" in shown
    assert "orchestrator.sources convert byol" in shown


def test_missing_files_are_said_once_each_with_where_they_come_from(planned, tmp_path):
    planned("taher2021", only="task=shenzhen,seed=0", tasks=("shenzhen", "drive"))
    (tmp_path / "swav_800ep_pretrain.pth.tar").unlink()
    (tmp_path / "InsDis.pth").unlink()
    plan = make_plan(
        load_study("taher2021"), TaskLibrary(scalecurves_home()), "task=shenzhen|drive,seed=0", load_weights=False
    )
    insdis, swav = plan.problems
    assert insdis.startswith(f"sources.insdis for scale resnet50: file {tmp_path / 'InsDis.pth'} does not exist")
    assert swav.endswith(
        "Fetch swav_800ep_pretrain.pth.tar once from "
        "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar and give its path."
    )


def test_a_preset_is_restricted_to_one_data_set(planned):
    """Rules on what is no longer there go with it; what is left out needs neither data nor weights."""
    plan = planned(
        "taher2021",
        sets=("task=shenzhen,drive", "pretraining_source=random,imagenet", "seeds=2"),
        tasks=("shenzhen", "drive"),
    )
    assert not plan.problems
    assert len(plan.targets) == 2 * 2 * 2
    assert plan.resolver.protocol(plan.cells[-1]).base in ("taher_classification", "taher_vessels")
