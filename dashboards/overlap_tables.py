"""Masks beyond the primary overlap: its other readings, distances, and false alarms on images without the label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboards.blocks import Block
from dashboards.confidence_tables import contrast_columns
from dashboards.evidence import SeenBlock, trials_by_cell
from dashboards.prediction_sets import PredictionSet
from dashboards.set_design import SetDesign
from dashboards.statistics import Influence, SeedKey, contrast
from dashboards.statistics.masks import (
    DISTANCES,
    OF_ONE_LABEL,
    SCALES,
    counts_of_label,
    label_influence,
    label_metrics,
    mask_influence,
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

COMPARED = ("hd95", "nsd", "false_positive_images")
"""Metrics beside the primary one in which sources are compared."""

Scored = tuple[PredictionSet, SetDesign]

_KEYS = ("task", "model_scale", "pretraining_source", "data_fraction", "set", "label")


def overlap_part(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """These metrics of a table of ``overlap_rows``, with their intervals; false positives by shorter names."""
    wanted = (f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high"))
    part = table[[column for column in (*_KEYS, *wanted, "n_seeds") if column in table]]
    return part.rename(columns=lambda name: str(name).removeprefix("false_positive_"))


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
            runs = _runs_on(seen, trials, name)
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


def overlap_contrast_rows(seen: SeenBlock, block: Block) -> Iterator[dict[str, Any]]:
    """Each source minus the baseline in the metrics of ``COMPARED``, means over labels; exploratory.

    A Hausdorff distance does not exist where nothing is predicted. Means over other images of each side would favour
    the side that predicts nothing on the hard ones: those on which both predict something are compared, and
    ``left_out`` is the number of the others that show the label, mean over seeds.

    Args:
        seen: Predictions of masks.
        block: Of the same trials.
    """
    cells = {source: trials for (_, source, _), trials in trials_by_cell(seen.rows).items()}
    for name in dict.fromkeys(name for _, name in seen.predictions):
        runs = {source: _runs_on(seen, trials, name) for source, trials in cells.items()}
        for source in block.sources():
            ours, base = block.pair(runs, source)
            both = [seed for seed in ours if seed in base and ours[seed][1] is base[seed][1]]
            for metric in COMPARED if both else ():
                pairs = {seed: _pair(metric, ours[seed], base[seed]) for seed in both}
                sides = ({seed: pair[side] for seed, pair in pairs.items()} for side in (0, 1))
                yield {
                    **block.coordinates(source),
                    "baseline": block.baseline,
                    "set": name,
                    "metric": metric,
                    "primary": False,
                    **contrast_columns(contrast(*sides, level=block.level)),
                    "left_out": float(np.mean([_left_out(metric, ours[s][0], base[s][0]) for s in both])),
                    "images": block.images,
                }


def _runs_on(seen: SeenBlock, trials: Mapping[SeedKey, str], name: str) -> dict[SeedKey, Scored]:
    return {seed: seen.predictions[t, name] for seed, t in trials.items() if (t, name) in seen.predictions}


def _pair(metric: str, ours: Scored, base: Scored) -> tuple[Influence, Influence]:
    """A metric of two runs on one set, over what both define."""
    distances = [of.known_distances for of, _ in (ours, base)]
    undefined = np.isnan(distances).any(axis=0)
    a, b = (
        mask_influence(metric, of.labels, of.logits, np.where(undefined, np.nan, of.known_distances), design.index)
        for of, design in (ours, base)
    )
    return a, b


def _left_out(metric: str, ours: PredictionSet, base: PredictionSet) -> int:
    """Images, once for each label that they show, which a distance is not compared on."""
    if metric not in DISTANCES:
        return 0
    column = DISTANCES.index(metric)
    undefined = np.isnan(ours.known_distances[..., column]) | np.isnan(base.known_distances[..., column])
    tp, _, fn, _ = np.moveaxis(ours.logits, 2, 0)
    return int((undefined & (tp + fn > 0)).sum())


def _numbers(runs: Mapping[SeedKey, Scored], k: int, level: float) -> dict[str, float]:
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
