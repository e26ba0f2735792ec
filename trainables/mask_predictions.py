"""Predicted masks of an evaluation set as a table: counts of pixels and distances, one row per image and label.

Thresholds are frozen on validation before any evaluation set is seen, and travel with the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.names import Column, MaskColumn
from search_spaces.protocol import Protocol
from search_spaces.trial import ResolvedTrial
from trainables.mask_distances import distance_scores
from trainables.mask_losses import known_truth
from trainables.mask_scores import BINS, HALF, as_rows, at_side, best_thresholds, counts_at, predicted_pixels
from trainables.mask_sets import MaskSet
from trainables.predictions import set_metadata

THRESHOLDS_KEY = "mask_thresholds"
"""Metadata key of kept weights and of predictions: JSON list of probabilities, one per label."""

WIDTH = 6
"""Numbers per label and image: tp, fp, fn, tn, HD95, normalised surface Dice."""

Steps = NDArray[np.int64]
"""(L,) k of the threshold k / 20 of each label."""


def frozen_thresholds(protocol: Protocol, kept: NDArray[Any] | None, labels: int) -> Steps:
    """The thresholds of a trial, found on validation or 0.5 as the protocol says.

    Args:
        protocol: The recipe.
        kept: What validation kept at the selected step; None where there was no validation.
        labels: Number of labels.
    """
    if kept is None or protocol.mask_threshold == "half":
        return np.full(labels, HALF, dtype=np.int64)
    return best_thresholds(as_rows(kept))


def thresholds_text(thresholds: Steps) -> str:
    """As it is kept: ``[0.35, 0.5]``."""
    return json.dumps([round(int(k) / BINS, 2) for k in thresholds])


def parsed_thresholds(text: str) -> Steps:
    """From ``thresholds_text``."""
    return np.array([round(float(p) * BINS) for p in json.loads(text)], dtype=np.int64)


class EvaluationRows:
    """Counts and distances of a batch; the ``reduce`` of ``trainables.evaluation.predict``.

    Args:
        masks: Of the set.
        thresholds: Of each label.
        tolerance: Of the surface Dice, in pixels of the original image; None leaves it out.
    """

    def __init__(self, masks: MaskSet, thresholds: Steps, tolerance: float | None) -> None:
        self._masks, self._thresholds, self._tolerance = masks, thresholds, tolerance

    def __call__(self, logits: Tensor, planes: Tensor, index: NDArray[np.int64]) -> Tensor:
        """(B, L * WIDTH) float64 on the device; NaN in all of a label that the set says nothing of.

        Args:
            logits: (B, L, h, w).
            planes: (B, H, W) uint8.
            index: (B,) rows of the set.
        """
        logits = at_side(logits, planes.shape[-1])
        true, known = known_truth(planes, self._masks.values)
        # A map that is not finite marks no pixel: left out, an image on which a net fails would cost it nothing.
        finite = torch.isfinite(logits).all(dim=(2, 3), keepdim=True)
        predicted = predicted_pixels(logits, self._thresholds) & known & finite
        parts = (predicted & true, predicted & ~true, ~predicted & true, known & ~predicted & ~true)
        counts = torch.stack([part.sum((2, 3)) for part in parts], dim=2).double()
        counts[~known.any(dim=(2, 3))] = torch.nan
        distances = self._distances(predicted.cpu().numpy(), true.cpu().numpy(), index)
        distances[torch.isnan(counts[..., 0]).cpu()] = torch.nan
        return torch.cat([counts, distances.to(counts)], dim=2).flatten(1)

    def _distances(self, predicted: NDArray[np.bool_], true: NDArray[np.bool_], index: NDArray[np.int64]) -> Tensor:
        found = torch.empty(*predicted.shape[:2], 2, dtype=torch.float64)
        for image, row in enumerate(index):
            height, width = map(float, self._masks.pixel_sizes[row])
            for label in range(predicted.shape[1]):
                pair = (predicted[image, label], true[image, label])
                found[image, label] = torch.tensor(distance_scores(*pair, (height, width), self._tolerance))
        return found


def evaluation_values(gathered: NDArray[Any]) -> NDArray[np.float64]:
    """(N, L, WIDTH) from the (N, L * WIDTH) that ranks gathered."""
    return gathered.reshape(len(gathered), -1, WIDTH)


def validation_values(kept: NDArray[Any], thresholds: Steps) -> NDArray[np.float64]:
    """The same of validation, from what it kept; without distances, which selecting does not need."""
    counts = counts_at(as_rows(kept), thresholds).astype(np.float64)
    return np.concatenate([counts, np.full((*counts.shape[:2], 2), np.nan)], axis=2)


def mask_table(
    frame: pd.DataFrame,
    values: NDArray[np.float64],
    trial: ResolvedTrial,
    set_name: str,
    thresholds: Steps,
    hash_of_set: str | None = None,
    shared_patients: tuple[int, bool] | None = None,
) -> pa.Table:
    """The predictions of one evaluation set, or of validation.

    Args:
        frame: One row per image: as for ``trainables.predictions.predictions_table``.
        values: (N, L, WIDTH), in the order of the frame and of the task's labels.
        trial: Whose predictions these are.
        set_name: The evaluation set, or ``val``.
        thresholds: Probability from which on a pixel counts as predicted, k / 20 of each label.
        hash_of_set: ``set_hash(frame)``, if it is known.
        shared_patients: As for ``predictions_table``.

    Returns:
        One row per image and label: ids, site and groups of the frame, ``label``, ``y`` (float32: 1 if the original
        mask shows it, 0 if not, NaN unknown), ``tp, fp, fn, tn`` (int64, null if unknown) and ``hd95, nsd`` (float64,
        NaN where undefined). Counts are unknown, too, where the original mask shows a label of which no pixel is left
        at the size of the truth: what is predicted there may be right. Metadata as of ``predictions_table``, with the
        thresholds.

    Raises:
        ValueError: The number of rows or labels does not match.
    """
    labels = trial.task.labels
    if values.shape != (len(frame), len(labels), WIDTH):
        raise ValueError(f"values of shape {values.shape} for {len(frame)} images and {len(labels)} labels")
    own = [c for c in map(str, frame) if not c.startswith((Column.LABEL_PREFIX, Column.RAW_PREFIX))]
    repeated = frame[own].loc[frame.index.repeat(len(labels))].reset_index(drop=True)
    table = pa.Table.from_pandas(repeated, preserve_index=False)
    columns = _columns(labels, frame, values)
    for name, column in columns.items():
        table = table.append_column(name, column)
    metadata = set_metadata(frame, trial, set_name, hash_of_set, shared_patients)
    return table.replace_schema_metadata(metadata | {THRESHOLDS_KEY: thresholds_text(thresholds)})


def _columns(labels: Sequence[str], frame: pd.DataFrame, values: NDArray[np.float64]) -> Mapping[str, pa.Array]:
    shown = np.stack([frame[Column.LABEL_PREFIX + label].to_numpy(np.float32) for label in labels], axis=1)
    flat = values.reshape(-1, WIDTH)
    tp, _, fn = flat[:, :3].T
    unknown = np.isnan(tp) | ((shown.ravel() == 1) & (tp + fn == 0))
    counts = {
        name: pa.array(np.nan_to_num(flat[:, k]).astype(np.int64), mask=unknown)
        for k, name in enumerate(MaskColumn.COUNTS)
    }
    distances = {name: pa.array(flat[:, 4 + k]) for k, name in enumerate(MaskColumn.DISTANCES)}
    return {
        MaskColumn.LABEL: pa.array(list(labels) * len(frame), pa.string()),
        Column.Y: pa.array(shown.ravel()),
        **counts,
        **distances,
    }
