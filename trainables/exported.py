"""A trained model as a folder that stands alone: ``model.safetensors``, ``config.json``, and how to load both.

``config.json`` is in timm's form where the network is timm's: ``timm.create_model("local-dir:FOLDER")`` reads it; what
this project needs to build any network stands beside it under ``scalecurves``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from search_spaces.exceptions import UserError
from search_spaces.names import Kind
from search_spaces.study import Normalisation
from search_spaces.trial import ResolvedScale, ResolvedTrial
from trainables.augmentation import EvaluationCrop, EvaluationTransform, cropped_side
from trainables.checkpoint_files import read_safetensors
from trainables.evaluation import evaluation_crop, viewed_logits
from trainables.factories import Origin, find_factory
from trainables.kept_weights import kept_thresholds, load_kept_weights
from trainables.mask_predictions import parsed_thresholds, thresholds_text
from trainables.mask_scores import at_side, predicted_pixels
from trainables.models import build_model
from trainables.task_data import worked_side
from trainables.tensor_files import system_errors

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
OWN_KEY = "scalecurves"
"""Key of ``config.json`` under which this project keeps what timm does not know."""


class MaskRule(NamedTuple):
    """How maps become masks.

    Attributes:
        side: Side M in pixels of the masks that the trial was scored on.
        thresholds: (C,) k of the threshold k / 20 of each label, frozen on validation.
    """

    side: int
    thresholds: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A model from an exported folder.

    Attributes:
        module: (B, 3, s, s) normalised images to (B, C) logits, or to maps of them, (B, C, s, s); in evaluation mode.
        labels: Names of the C outputs.
        are_classes: Whether exactly one label is true (softmax), or each for itself (sigmoid).
        transform: (B, S, S, 3) uint8 images of ``working_side`` pixels to the module's input.
        working_side: Side S in pixels to which images are resized (squashed, bicubic) before.
        mask_rule: Of a model that labels pixels; None of others.
    """

    module: nn.Module
    labels: tuple[str, ...]
    are_classes: bool
    transform: EvaluationTransform
    working_side: int
    mask_rule: MaskRule | None = None

    def probabilities(self, images: NDArray[np.uint8]) -> Tensor:
        """(B, C) probabilities of (B, S, S, 3) uint8 images, RGB; of a model that labels pixels (B, C, M, M)."""
        logits = self._logits(images)
        return torch.softmax(logits, 1) if self.are_classes else torch.sigmoid(logits)

    def masks(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """(B, C, M, M) masks of (B, S, S, 3) uint8 images, RGB, as the trial was scored on them.

        Raises:
            UserError: The model labels images, not pixels.
        """
        if self.mask_rule is None:
            raise UserError(f"this model labels images ({', '.join(self.labels)}), not pixels: use probabilities")
        masks: NDArray[np.bool_] = predicted_pixels(self._logits(images), self.mask_rule.thresholds).numpy()
        return masks

    @torch.no_grad()
    def _logits(self, images: NDArray[np.uint8]) -> Tensor:
        of_pixels = self.mask_rule is not None
        logits = viewed_logits(self.module, self.transform, torch.from_numpy(images), self.are_classes, of_pixels)
        return logits if self.mask_rule is None else at_side(logits, self.mask_rule.side)


def export_files(trial: ResolvedTrial, weights: Path, folder: Path) -> dict[str, Any]:
    """Write ``model.safetensors`` and ``config.json``.

    Args:
        trial: The trial.
        weights: Its ``weights.safetensors``.
        folder: Exists.

    Returns:
        What ``config.json`` holds.

    Raises:
        UserError: The file is of another trial.
        UnselectedWeightsError: It holds other weights than the trial was scored with.
        OSError: The folder cannot be written.
    """
    state = load_kept_weights(weights, trial)
    config = _config(trial, weights)
    with system_errors(folder / WEIGHTS):
        save_file(state, folder / WEIGHTS, {"format": "pt", "trial_id": trial.trial_id})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return config


def is_timm(trial: ResolvedTrial) -> bool:
    """Whether timm alone can build the network: its own, with no decoder on it."""
    of_timm = find_factory(trial.scale.factory, trial.workspace.import_paths).origin is Origin.TIMM
    return of_timm and not trial.task.is_dense


def licence_of_timm(factory: str, tag: str) -> str | None:
    """The licence that timm states for its pretrained weights of a tag; None if it states none."""
    from timm.models import get_pretrained_cfg

    found = find_factory(factory)
    name = found.name if tag == "default" else f"{found.name}.{tag}"
    configuration = get_pretrained_cfg(name, allow_unregistered=True)
    licence: str | None = None if configuration is None else configuration.license
    return licence


def load_exported(folder: str | Path, import_paths: Sequence[str] = ()) -> ExportedModel:
    """The model of an exported folder, ready to predict.

    Args:
        folder: With ``model.safetensors`` and ``config.json``.
        import_paths: Folders in which a user's module is looked up first.

    Raises:
        UserError: The folder is no export, or the code of a user's factory has changed since.
    """
    file = Path(folder) / CONFIG
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))[OWN_KEY]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is no {CONFIG} of an exported trial: {type(error).__name__}: {error}") from error
    scale = ResolvedScale.model_validate(raw["scale"])
    labels = tuple(raw["labels"])
    masks = raw.get("masks")  # exports from before there were masks do not say
    module = build_model(scale, len(labels), seed=0, import_paths=import_paths, dense=masks is not None).module
    module.load_state_dict(read_safetensors(Path(folder) / WEIGHTS)[0])
    normalise = Normalisation.model_validate(raw["normalise"])
    return ExportedModel(
        module=module.eval(),
        labels=labels,
        are_classes=raw["are_classes"],
        transform=EvaluationTransform(
            scale.input_size,
            normalise,
            torch.device("cpu"),
            test_time=raw.get("test_time_augmentation", "none"),
            crop=raw["evaluation_crop"],
        ),
        working_side=raw["working_side"],
        mask_rule=None
        if masks is None
        else MaskRule(masks["side"], parsed_thresholds(json.dumps(masks["thresholds"]))),
    )


def _config(trial: ResolvedTrial, weights: Path) -> dict[str, Any]:
    scale, normalise, labels = trial.scale, trial.source.normalise, list(trial.task.labels)
    side = worked_side(trial.protocol, scale.input_size)
    crop = evaluation_crop(trial.protocol, trial.task.is_dense)
    own = {
        "trial_id": trial.trial_id,
        "scale": scale.model_dump(mode="json"),
        "labels": labels,
        "kind": trial.task.kind,
        "are_classes": trial.task.kind in (Kind.MULTICLASS, Kind.ORDINAL),
        "normalise": normalise.model_dump(mode="json"),
        "working_side": side,
        "evaluation_crop": crop,
        "test_time_augmentation": trial.protocol.test_time_augmentation,
    }
    thresholds = kept_thresholds(weights)
    if thresholds is not None:
        own["masks"] = {"side": trial.protocol.storage_size, "thresholds": json.loads(thresholds_text(thresholds))}
    if not is_timm(trial):
        return {OWN_KEY: own}
    return {
        "architecture": find_factory(scale.factory).name,
        "num_classes": len(labels),
        "model_args": {**scale.arguments, **find_factory(scale.factory).size_arguments(scale.input_size)},
        "pretrained_cfg": {
            "input_size": [3, scale.input_size, scale.input_size],
            "mean": list(normalise.mean),
            "std": list(normalise.std),
            "interpolation": "bicubic",
            "crop_pct": _crop_share(scale.input_size, side, crop),
            "crop_mode": "squash",
            "num_classes": len(labels),
            "label_names": labels,
        },
        OWN_KEY: own,
    }


def _crop_share(size: int, side: int, crop: EvaluationCrop) -> float:
    """timm's ``crop_pct`` with which it shows as much of an image as the trial saw.

    timm resizes to the input's side over ``crop_pct``, rounded down, and cuts the input out of the centre.

    Args:
        size: Side in pixels of the input.
        side: Side to which the trial resized images.
        crop: What it cut out of them, and resized to the input.
    """
    resized = round(size * side / cropped_side(crop, side, size))
    share = size / resized
    # Rounding of the quotients may end just below the side, which would then be one less.
    return share if math.floor(size / share) == resized else size / (resized + 0.25)
