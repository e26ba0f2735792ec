"""What studies may say of masks and of labels."""

from __future__ import annotations

import pytest

from search_spaces.exceptions import UserError
from search_spaces.expand import expand
from search_spaces.identity import Cards, ScaleCard, TaskCard
from search_spaces.models import identity_fields
from search_spaces.names import Kind
from search_spaces.protocol import Protocol
from search_spaces.resolve import Resolver
from search_spaces.segmentation import misfit
from search_spaces.study import Study


def resolver(kind="segmentation", task=None, protocol=None):
    study = Study.parse(
        {
            "name": "s",
            "axes": {"model_scale": ["net"], "pretraining_source": ["random"], "data_fraction": [1.0], "task": ["t"]},
            "scales": {"net": {"input_size": 32}},
            "tasks": {"t": {"manifest": "m", "primary": "dice" if kind == "segmentation" else "auc", **(task or {})}},
            "protocol": protocol or {},
        },
        "study",
    )
    cards = Cards(
        scales={"net": ScaleCard(input_size=32)},
        files={},
        tasks={"m": TaskCard(manifest_hash="h", kind=kind, labels=("lung",))},
    )
    return Resolver(study, cards), expand(study).trials[0].cell


@pytest.mark.parametrize("protocol", [{}, {"base": "taher_segmentation"}, {"base": "taher_vessels"}, {"loss": "dice"}])
def test_what_trains_masks(protocol):
    found, cell = resolver(protocol=protocol)
    found.check_protocol(cell)
    assert found.task("t").is_dense


FIXED = {"base": "finetune", "method": "linear_probe", "inverse_penalties": [1.0], "feature_scaling": "none"}


@pytest.mark.parametrize(
    ("kind", "protocol", "said"),
    [
        (
            "segmentation",
            {"base": "taher_classification"},
            "recipe taher_classification is for labels; masks are learnt",
        ),
        ("segmentation", FIXED, "method linear_probe is for labels: leave it out"),
        ("segmentation", {"mixup_alpha": 0.2}, "mixup_alpha and cutmix_alpha mix the labels"),
        ("segmentation", {"label_smoothing": 0.1}, "label_smoothing is for classes"),
        ("segmentation", {"head_init": "zero"}, "head_init zero would silence the decoder"),
        ("segmentation", {"test_time_augmentation": "ten_crop"}, "ten_crop leaves pixels out"),
        ("segmentation", {"layer_lr_decay": 0.5}, "layer_lr_decay knows no layers of a decoder"),
        ("segmentation", {"imbalance": "weights", "loss": "dice"}, "which loss dice has not"),
        ("binary", {"label_smoothing": 0.1}, "label_smoothing is for classes"),
        ("binary", {"base": "taher_segmentation"}, "recipe taher_segmentation is for masks, this task is binary"),
        ("binary", {"loss": "dice"}, "loss dice is for masks, this task is binary"),
        ("binary", {"mask_threshold": "half"}, "mask_threshold is for masks"),
    ],
)
def test_a_protocol_of_the_other_kind_is_refused_in_one_sentence(kind, protocol, said):
    found, cell = resolver(kind, protocol=protocol)
    with pytest.raises(UserError, match=r"task 't' \(.*\) cannot be trained with its protocol") as error:
        found.check_protocol(cell)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "task", "said"),
    [
        ("segmentation", {"primary": "auc"}, "primary metric of a segmentation task"),
        ("segmentation", {"label_policy": "ones"}, "label_policy and blank are for labels"),
        (
            "segmentation",
            {"evaluate": {"p": {"aggregate": "patient"}}},
            "evaluate.p.aggregate: masks are scored image by",
        ),
        ("binary", {"nsd_tolerance": 2}, "nsd_tolerance is for masks"),
        ("binary", {"primary": "dice"}, "primary metric of a binary task"),
    ],
)
def test_a_task_of_the_other_kind_is_refused(kind, task, said):
    with pytest.raises(UserError, match=said):
        resolver(kind, task)[0].task("t")


def test_masks_change_no_id_of_what_has_none():
    assert not {"loss", "mask_threshold"} & set(identity_fields(Protocol()))
    assert misfit(Kind.MULTICLASS, Protocol()) is None
