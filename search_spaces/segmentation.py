"""What a protocol, a label policy and an evaluation set may say of masks, and what of labels only."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.names import Kind, Unit
from search_spaces.protocol import Protocol
from search_spaces.study import EvaluationSetSpec, TaskSpec

SEGMENTATION_RECIPES = ("taher_segmentation", "taher_vessels")
EITHER_RECIPES = ("finetune",)
"""Recipes that say nothing of the loss or the head, and so serve labels and masks."""

OVERLAP_METRICS = ("dice", "iou")


def misfit(kind: Kind, protocol: Protocol) -> str | None:
    """Why a protocol cannot train a task of this kind; None if it can. All reasons in one text."""
    reasons = list(_of_masks(protocol) if kind is Kind.SEGMENTATION else _of_labels(protocol, kind))
    return "; ".join(reasons) or None


def _of_masks(protocol: Protocol) -> list[str]:
    recipes = (*EITHER_RECIPES, *SEGMENTATION_RECIPES)
    checks = (
        (
            protocol.base not in recipes,
            f"recipe {protocol.base} is for labels; masks are learnt with {', '.join(recipes)}",
        ),
        (
            not protocol.trains and protocol.base in recipes,
            f"method {protocol.method} is for labels: leave it out",
        ),
        (
            bool(protocol.mixup_alpha or protocol.cutmix_alpha),
            "mixup_alpha and cutmix_alpha mix the labels of two images, masks have none: set them to 0",
        ),
        (bool(protocol.label_smoothing), "label_smoothing is for classes: set it to 0"),
        (protocol.head_init != "model", f"head_init {protocol.head_init} would silence the decoder: use model"),
        (
            protocol.test_time_augmentation == "ten_crop",
            "test_time_augmentation ten_crop leaves pixels out: use none or flip",
        ),
        (protocol.layer_lr_decay != 1, "layer_lr_decay knows no layers of a decoder: set it to 1"),
        (
            protocol.imbalance == "weights" and protocol.loss == "dice",
            "imbalance weights changes the cross-entropy, which loss dice has not: use bce_dice or leave it out",
        ),
    )
    return [text for wrong, text in checks if wrong]


def _of_labels(protocol: Protocol, kind: Kind) -> list[str]:
    checks = (
        (
            protocol.base in SEGMENTATION_RECIPES,
            f"recipe {protocol.base} is for masks, this task is {kind}: use finetune or taher_classification",
        ),
        (protocol.loss is not None, f"loss {protocol.loss} is for masks, this task is {kind}: leave it out"),
        (
            protocol.mask_threshold != "best_val",
            f"mask_threshold is for masks, this task is {kind}: leave it out",
        ),
        (
            bool(protocol.label_smoothing) and kind in (Kind.BINARY, Kind.MULTILABEL),
            f"label_smoothing is for classes, this task is {kind}: set it to 0 (label_policy lsr_ones and lsr_zeros "
            "soften uncertain labels)",
        ),
    )
    return [text for wrong, text in checks if wrong]


def task_misfit(spec: TaskSpec, kind: Kind) -> str | None:
    """Why a task of this kind cannot be what the study says; None if it can."""
    if kind is not Kind.SEGMENTATION:
        return "nsd_tolerance is for masks: leave it out" if spec.nsd_tolerance is not None else None
    if spec.label_policy != "ignore" or spec.blank != "mask":
        return "label_policy and blank are for labels, masks have no uncertain pixels: leave them out"
    return _aggregated(spec.evaluate)


def _aggregated(sets: Mapping[str, EvaluationSetSpec]) -> str | None:
    for name, spec in sets.items():
        if spec.aggregate is not Unit.IMAGE:
            return (
                f"evaluate.{name}.aggregate: masks are scored image by image, and their overlaps averaged within "
                "patients: leave it out"
            )
    return None
