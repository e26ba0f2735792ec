"""The studies of the papers: their grids, counted by hand, and that every name in them is known."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import yaml

from search_spaces.amounts import expand_seeds
from search_spaces.catalogue import find_entry
from search_spaces.expand import expand
from search_spaces.files import load_study, presets
from search_spaces.label_maps import label_maps
from search_spaces.protocol import Protocol
from search_spaces.recipes import recipe_names
from search_spaces.source_specs import ByScaleSource, CheckpointSource, TimmSource

PAPERS = ("bit2020", "mustafa2021", "taher2021", "transfusion2019")
SELF_SUPERVISED = (
    "insdis", "moco_v1", "pcl_v1", "pirl", "pcl_v2", "simclr_v1", "moco_v2", "simclr_v2", "sela_v2", "infomin", "byol",
    "deepcluster_v2", "swav", "barlow_twins",
)  # fmt: skip
_IMPORT = re.compile(r"^#   (\w+) FOLDER --name (\w+)", re.MULTILINE)


@cache
def study(name):
    return load_study(name).study


@cache
def expanded(name):
    return expand(study(name))


def cells(name, **where):
    """Cells with these values, as sets of coordinates."""
    return [
        c.coordinates
        for c in expanded(name).cells
        if all(c.coordinates[axis] in values for axis, values in where.items())
    ]


def written_sources(name):
    """(source, scale or None, what the file says of its weights) of a preset."""
    for source, raw in yaml.safe_load(presets()[name])["sources"].items():
        if "by_scale" in raw:
            yield from ((source, scale, weights) for scale, weights in raw["by_scale"].items())
        elif "catalogue" in raw:
            yield source, None, raw


def test_the_benchmark_has_its_1350_trainings():
    expansion = expanded("taher2021")
    supervised_and_self_supervised, others, of_radiographs = (1 + 14) * 7, 2 * 7, 16
    assert len(expansion.cells) == supervised_and_self_supervised + others + of_radiographs == 135
    assert len(expansion.targets) == len(expansion.trials) == 1050 + 140 + 160
    assert Counter(s.subset for s in expand_seeds(study("taher2021").seeds)) == {0: 10}
    per_source = Counter(c.pretraining_source for c in expansion.cells)
    assert per_source == {
        **dict.fromkeys(("random", "imagenet", "inat2021", *SELF_SUPERVISED), 7),
        **dict.fromkeys(("chestxray14", "chexpert", "imagenet_chestxray14", "imagenet_chexpert"), 4),
    }


def test_only_models_of_its_own_domain_are_left_out_of_the_benchmark():
    expansion = expanded("taher2021")
    assert {(e.cell.pretraining_source, e.cell.task) for e in expansion.exclusions} == {
        ("chestxray14", "chestxray14"),
        ("imagenet_chestxray14", "chestxray14"),
        ("chexpert", "chexpert"),
        ("imagenet_chexpert", "chexpert"),
    }
    assert {e.reason for e in expansion.exclusions} == {"its own domain"}
    assert len(expansion.exclusions) == 4


def test_transfusion_has_its_performance_table_and_its_further_starts():
    expansion = expanded("transfusion2019")
    networks, starts, tasks, repeats = 6, 2, 2, 3
    few_labels, of_resnet50, of_cbr_small, slim = 3 * 2, 6, 2, 2
    assert len(expansion.cells) == networks * starts * tasks + few_labels + of_resnet50 + of_cbr_small + slim == 40
    assert len(expansion.targets) == 40 * repeats
    (upstream,) = {t.cell.task for t in expansion.trials if t not in expansion.targets}
    assert (upstream, len(expansion.trials) - len(expansion.targets)) == ("imagenet1k", 4)
    retina = cells("transfusion2019", task=("eyepacs",), data_fraction=("1",))
    table = [c for c in retina if c["pretraining_source"] in ("random", "imagenet", "imagenet_cbr")]
    assert len([c for c in table if c["model_scale"] != "resnet50_slim"]) * repeats == 36
    assert not expansion.exclusions
    assert not expansion.controls


def test_few_labels_of_transfusion_are_5000_retina_images():
    few = cells("transfusion2019", data_fraction=("images=5000",))
    assert {c["model_scale"] for c in few} == {"resnet50", "cbr_large_t", "cbr_large_w"}
    assert {c["task"] for c in few} == {"eyepacs"}
    assert len(few) == 3 * 2


def test_scale_and_pretraining_of_mustafa_are_crossed():
    expansion = expanded("mustafa2021")
    networks, sources, amounts, tasks, repeats = 5, 3, 6, 3, 5
    assert len(expansion.cells) == networks * sources * amounts * tasks == 270
    assert len(expansion.trials) == 270 * repeats
    assert not expansion.exclusions
    assert not expansion.controls


def test_big_transfer_has_all_labels_of_five_tasks_and_few_of_three():
    expansion = expanded("bit2020")
    networks, sources = 5, 2
    assert len(expansion.cells) == networks * sources * (5 + 3 * 5) == 200
    assert len(expansion.trials) == 200 * 5
    assert not expansion.controls
    assert {c["pretraining_source"] for c in cells("bit2020")} == {"bit_s", "bit_m"}


@pytest.mark.parametrize("name", PAPERS)
def test_the_head_says_the_size_of_the_grid_and_what_to_import(name):
    text = presets()[name]
    head = text[: text.index("schema:")].replace("\n#", "")
    expansion = expanded(name)
    assert f"{len(expansion.cells)} cells" in head
    assert f"{len(expansion.targets):,} trials" in head
    of_study = study(name)
    manifests = {task.manifest for task in of_study.tasks.values()}
    manifests |= {s.manifest for task in of_study.tasks.values() for s in task.evaluate.values() if s.manifest}
    assert {task for _, task in _IMPORT.findall(text)} == manifests


@pytest.mark.parametrize("name", PAPERS)
def test_the_docs_say_the_same_size(name):
    docs = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{name}` \|.*\| (\d+) \| (\d[\d,]*\d)", docs, re.MULTILINE)
    assert row == (str(len(expanded(name).cells)), f"{len(expanded(name).targets):,}")


@pytest.mark.parametrize("name", PAPERS)
def test_weights_of_a_preset_fit_its_networks_and_carry_their_published_names(name):
    of_study = study(name)
    used = {}
    for cell in expanded(name).cells:
        used.setdefault(cell.pretraining_source, set()).add(of_study.scale(cell.model_scale).factory)
    for source, scale, raw in written_sources(name):
        entry = find_entry(raw["catalogue"])
        factories = {of_study.scale(scale).factory} if scale else used.get(source, {"resnet50"})
        assert factories <= set(entry.architectures), source
        file = raw.get("file", "").removeprefix("${WEIGHTS}/")
        if not file:
            assert entry.timm, source
        elif entry.kind == "weights" and raw["catalogue"] == "bit_s":
            stem = of_study.scale(scale).factory.removeprefix("resnetv2_").removesuffix("_bit")
            assert file == f"BiT-S-R{stem}.npz"
        elif entry.file_name and not entry.convert:
            assert file == entry.file_name


@pytest.mark.parametrize("name", PAPERS)
def test_names_in_a_preset_are_known(name):
    raw, of_study = yaml.safe_load(presets()[name]), study(name)
    bases = [raw["protocol"]["base"], *(o["set"]["base"] for o in raw.get("overrides", []) if "base" in o["set"])]
    assert set(bases) <= set(recipe_names())
    for task in raw["tasks"].values():
        for spec in task.get("evaluate", {}).values():
            if isinstance(spec.get("label_map"), str):
                assert spec["label_map"] in label_maps()
    assert of_study.statistics.baseline in {c.pretraining_source for c in expanded(name).cells}
    assert isinstance(of_study.protocol, Protocol)
    for source in of_study.sources.values():
        if isinstance(source, ByScaleSource):
            assert all(isinstance(w, CheckpointSource | TimmSource) for w in source.by_scale.values())
            assert set(source.by_scale) <= set(of_study.scales)


def test_simclr_is_scaled_as_in_the_paper_and_other_sources_are_too():
    for name in SELF_SUPERVISED:
        assert study("taher2021").source(name).normalise == study("taher2021").source("moco_v2").normalise
    assert study("taher2021").source("simclr_v1").normalise.mean[0] == pytest.approx(0.485)


def test_one_data_set_or_source_of_a_preset_can_be_asked_for_alone():
    asked = load_study("taher2021", ["task=shenzhen", "pretraining_source=random,imagenet,swav", "seeds=2"]).study
    assert len(expand(asked).targets) == 3 * 2
    asked = load_study("transfusion2019", ["task=chexpert"]).study
    assert {c.task for c in expand(asked).cells} == {"chexpert"}
    (override,) = asked.overrides
    assert override.when == {"task": ["imagenet1k"]}
