"""Masks beyond the primary overlap: its other readings, distances, and false alarms on images without the label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboards.evidence import SeenBlock, trials_by_cell
from dashboards.prediction_sets import PredictionSet
from dashboards.set_design import SetDesign
from dashboards.statistics import SeedKey
from dashboards.statistics.masks import (
    OF_ONE_LABEL,
    SCALES,
    counts_of_label,
    label_influence,
    label_metrics,
    mask_interval,
)
from dashboards.statistics.segmentation import mean_of

OVERLAP_PARTS = {
    "Dice where the label is shown": ("dice", "dice_image_mean", "dice_pooled", "dice_both_empty_is_1"),
    "IoU and surface Dice where the label is shown": ("iou", "nsd"),
    "Hausdorff distance where the label is shown": ("hd95", "hd95_undefined", "shown_images"),
    "False alarms where it is not": ("false_positive_images", "false_positive_pixels", "empty_images"),
}
"""Heading -> metrics of a part of the table that fits a page."""

_KEYS = ("task", "model_scale", "pretraining_source", "data_fraction", "set", "label")


def overlap_part(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """These metrics of a table of ``overlap_rows``, with their intervals; false positives by shorter names."""
    wanted = (f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high"))
    part = table[[column for column in (*_KEYS, *wanted, "n_seeds") if column in table]]
    return part.rename(columns=lambda name: str(name).removeprefix("false_positive_"))


def is_masks(seen: SeenBlock) -> bool:
    """Whether a block's predictions are masks."""
    return any(prediction.is_masks for prediction, _ in seen.predictions.values())


def overlap_rows(seen: SeenBlock, level: float) -> Iterator[dict[str, Any]]:
    """One row per source, evaluation set and label of a block: means over seeds of ``label_metrics``.

    ``<metric>_low`` and ``<metric>_high`` are the interval over seeds and patients of the metrics that patients
    contribute to. Numbers of images are those of the set; ``hd95_undefined`` and the false alarms are means over seeds.

    Args:
        seen: Predictions of masks.
        level: Of the intervals.
    """
    sets = dict.fromkeys(name for _, name in seen.predictions)
    for (_, source, _), trials in trials_by_cell(seen.rows).items():
        for name in sets:
            runs = {seed: seen.predictions[t, name] for seed, t in trials.items() if (t, name) in seen.predictions}
            labels = next((of.labels for of, _ in runs.values()), ())
            for k, label in enumerate(labels):
                yield {
                    "task": seen.task,
                    "model_scale": seen.scale,
                    "pretraining_source": source,
                    "data_fraction": seen.fraction,
                    "set": name,
                    "label": label,
                    **_numbers(runs, k, level),
                    "n_seeds": len(runs),
                }


def _numbers(runs: Mapping[SeedKey, tuple[PredictionSet, SetDesign]], k: int, level: float) -> dict[str, float]:
    """Metrics of the k-th label, means over seeds where they are defined."""
    facts = {
        seed: (counts_of_label(of.logits, k), of.known_distances[:, k], design.index)
        for seed, (of, design) in runs.items()
    }
    found = [label_metrics(*of_run) for of_run in facts.values()]
    row: dict[str, float] = {}
    for metric in OF_ONE_LABEL:
        row[metric] = mean_of(np.array([v for values in found if not np.isnan(v := values[metric])]))
        if metric in SCALES:
            each = {seed: label_influence(metric, *of_run) for seed, of_run in facts.items()}
            estimate = mask_interval(metric, each, level=level)
            row |= {f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}
    return row
