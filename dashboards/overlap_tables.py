"""Masks beyond the primary overlap: its other readings, distances, and false alarms on images without the label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboards.evidence import SeenBlock
from dashboards.prediction_sets import PredictionSet
from dashboards.set_design import SetDesign
from dashboards.statistics.masks import OF_ONE_LABEL, counts_of_label, label_metrics


def is_masks(seen: SeenBlock) -> bool:
    """Whether a block's predictions are masks."""
    return any(prediction.is_masks for prediction, _ in seen.predictions.values())


def overlap_rows(seen: SeenBlock) -> Iterator[dict[str, Any]]:
    """One row per source, evaluation set and label of a block: means over seeds of ``label_metrics``.

    Numbers of images are those of the set; ``hd95_undefined`` and the false alarms are means over seeds, too.
    """
    for (source, name), runs in _runs(seen).items():
        labels = runs[0][0].labels
        for k, label in enumerate(labels):
            found = [
                label_metrics(counts_of_label(of.logits, k), of.known_distances[:, k], design.index)
                for of, design in runs
            ]
            yield {
                "task": seen.task,
                "model_scale": seen.scale,
                "pretraining_source": source,
                "data_fraction": seen.fraction,
                "set": name,
                "label": label,
                **{metric: _mean([values[metric] for values in found]) for metric in OF_ONE_LABEL},
                "n_seeds": len(found),
            }


def _runs(seen: SeenBlock) -> Mapping[tuple[str, str], Sequence[tuple[PredictionSet, SetDesign]]]:
    """(source, set) -> its runs."""
    sources: pd.Series[Any] = seen.rows.set_index("trial_id")["pretraining_source"]
    found: dict[tuple[str, str], list[tuple[PredictionSet, SetDesign]]] = {}
    for (trial_id, name), pair in seen.predictions.items():
        found.setdefault((str(sources[trial_id]), name), []).append(pair)
    return found


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
