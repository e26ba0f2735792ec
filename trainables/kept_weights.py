"""Reading ``weights.safetensors`` of finished trials: their state dict, and what it says of itself."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

from search_spaces.exceptions import UnselectedWeightsError, UserError
from search_spaces.trial import ResolvedTrial
from trainables.mask_predictions import THRESHOLDS_KEY, Steps, parsed_thresholds
from trainables.module_setup import Weights


def load_kept_weights(path: Path, trial: ResolvedTrial) -> Weights:
    """The state dict in a trial's ``weights.safetensors``.

    Raises:
        UserError: The file is of another trial.
        UnselectedWeightsError: It holds other weights than the trial was scored with.
    """
    metadata = _metadata(path)
    if metadata.get("trial_id") != trial.trial_id:
        raise UserError(f"{path.name} holds weights of trial {metadata.get('trial_id')}, not of {trial.trial_id}")
    if metadata.get("selected") != "true":
        raise UnselectedWeightsError(
            f"the kept weights of trial {trial.trial_id} are those of its last step, but it was scored with those of "
            "its best validation; run it with execution.keep_weights: best to score further sets"
        )
    return dict(load_file(path))


def kept_thresholds(path: Path) -> Steps | None:
    """Thresholds of masks that were frozen with these weights; None of a trial of labels."""
    text = _metadata(path).get(THRESHOLDS_KEY)
    return None if text is None else parsed_thresholds(text)


def kept_step(path: Path) -> int:
    """Optimiser step that they are of."""
    return int(_metadata(path).get("step", 0))


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
