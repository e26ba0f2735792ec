"""Which names stand for data sets that share images, and what that says of a trial's evaluation sets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search_spaces.contents import Overlap, contents_of_tag, shared_contents
from search_spaces.expand import expand
from search_spaces.identity import Cards, ScaleCard, TaskCard
from search_spaces.seen import set_overlaps
from tests.search_spaces.examples import study

NO, POSSIBLE = Overlap.NO, Overlap.POSSIBLE


@pytest.mark.parametrize(
    ("seen", "target", "shared"),
    [
        ("ImageNet-1k", "imagenet", True),
        ("imagenet21k", "imagenet1k", True),
        ("imagenet1k", "in21k", True),
        ("CheXpert", "chexpert_small", True),
        ("chexpert", "chexphoto", True),
        ("NIH ChestX-ray14", "siim_acr", True),
        ("rsna_pneumonia", "siim_acr", True),  # both drawn from ChestX-ray14
        ("isic2019", "ham10000", True),
        ("mimic_cxr_jpg", "mimic-cxr", True),
        ("our_hospital", "Our Hospital", True),
        ("imagenet1k", "ham10000", False),
        ("chexpert", "chestxray14", False),
        ("our_hospital", "our_hospital_2", False),
    ],
)
def test_names_that_share_images(seen, target, shared):
    assert bool(shared_contents([seen], [target])) is shared
    assert bool(shared_contents([target], [seen])) is shared


@pytest.mark.parametrize(
    ("tag", "contents"),
    [
        ("a1_in1k", ("imagenet1k",)),
        ("augreg_in21k_ft_in1k", ("imagenet21k", "imagenet1k")),
        ("vit_base_patch16_224.dino@hub", ()),
        ("resnet50.tv_in1k@timm/resnet50.tv_in1k", ("imagenet1k",)),
    ],
)
def test_contents_of_published_weights(tag, contents):
    assert contents_of_tag(tag) == contents


def _study(contents, **tasks):
    return study(
        axes={
            "model_scale": "net",
            "pretraining_source": ["random", "given", "mv", "own"],
            "data_fraction": 1.0,
            "task": "a",
        },
        seeds=1,
        scales={"net": {"factory": "m:f", "input_size": 32}},
        sources={
            "given": {"file": "w.pth", "contents": contents},
            "mv": {"transform": "mean_var", "of": "given"},
            "own": {"trial": {"task": "b", "pretraining_source": "given"}},
        },
        exclude=[],
        overrides=[],
        tasks=tasks,
    )


def _cards(**importers):
    tasks = {
        name: TaskCard(manifest_hash=name, kind="binary", labels=("x",), importer=i) for name, i in importers.items()
    }
    return Cards(scales={"net": ScaleCard(input_size=32)}, files={}, tasks=tasks)


def overlaps(made, cards):
    found = {}
    for trial in expand(made).targets:
        sets = set_overlaps(made, cards, trial)
        found[trial.cell.pretraining_source] = {name: overlap.overlap for name, overlap in sets.items()}
    return found


def test_each_evaluation_set_is_compared_with_all_that_the_weights_have_seen():
    a = {"manifest": "skin", "primary": "auc", "evaluate": {"site": {"manifest": "other"}}}
    made = _study(["isic_archive"], a=a, b={"manifest": "chest", "primary": "auc"})
    cards = _cards(skin="ham10000", other="csv", chest="chexpert")
    assert overlaps(made, cards) == {
        "random": {"test": NO, "site": NO},
        "given": {"test": POSSIBLE, "site": NO},
        "mv": {"test": POSSIBLE, "site": NO},
        "own": {"test": POSSIBLE, "site": NO},
    }


def test_a_source_trained_on_a_relative_of_the_task_counts_and_one_manifest_is_told_apart_by_patient():
    a = {"manifest": "mine", "primary": "auc", "data_sets": ["chexphoto"]}
    assert overlaps(
        _study(["cifar10"], a=a, b={"manifest": "chest", "primary": "auc"}), _cards(mine="csv", chest="chexpert")
    )["own"] == {"test": POSSIBLE}
    assert overlaps(_study(["cifar10"], a=a, b={"manifest": "mine", "primary": "auc"}), _cards(mine="csv"))["own"] == {
        "test": NO
    }


@pytest.mark.parametrize(
    ("seen", "facts"),
    [
        ("chexpert", {"importer": "map chexpert"}),
        ("chestxray14", {"importer": "npz", "archives": ("chestmnist_224",)}),
    ],
)
def test_a_manifest_of_another_name_is_known_by_its_map_and_its_files(seen, facts):
    made = _study([seen], a={"manifest": "m", "primary": "auc"}, b={"manifest": "n", "primary": "auc"})
    cards = _cards(m="csv", n="csv")
    assert overlaps(made, cards)["given"] == {"test": NO}
    card = TaskCard(manifest_hash="m", kind="binary", labels=("x",), **facts)
    assert overlaps(made, replace(cards, tasks={**cards.tasks, "m": card}))["given"] == {"test": POSSIBLE}


def test_made_images_of_one_importer_are_not_one_data_set():
    made = _study(["cifar10"], a={"manifest": "m", "primary": "auc"}, b={"manifest": "n", "primary": "auc"})
    assert overlaps(made, _cards(m="phantoms-1", n="phantoms-1"))["own"] == {"test": NO}


def test_what_declares_nothing_is_not_known():
    made = _study([], a={"manifest": "m", "primary": "auc"}, b={"manifest": "n", "primary": "auc"})
    assert overlaps(made, _cards(m="csv", n="csv")) == {
        "random": {"test": NO},
        "given": {"test": None},
        "mv": {"test": None},
        "own": {"test": None},
    }
