"""From one predictions file to the metrics that are logged: every number by ``dashboards.statistics``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dashboards.prediction_sets import PredictionSet, read_predictions
from dashboards.tracking import metric_key
from search_spaces.exceptions import DataError
from search_spaces.names import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMetrics:
    """Metrics of one trial on one evaluation set.

    Attributes:
        name: The evaluation set.
        values: ``<set>/<metric>[.<label>]`` -> finite value; also ``<set>/n_images``, ``<set>/n_patients`` and
            ``<set>/n_positive.<label>``. Macro averages are over the classes of the report (``macro_classes``).
        undefined: Metrics that have no value on this set (an AUC without positives); never logged as 0.
        set_hash: Stands for the images with their patients and truth.
    """

    name: str
    values: dict[str, float]
    undefined: tuple[str, ...]
    set_hash: str = ""


def score_file(path: Path) -> SetMetrics:
    """Metrics of ``predictions/<set>.parquet``.

    Raises:
        DataError: The file is not a predictions file.
    """
    return score(read_predictions(path))


def score_folder(folder: Path) -> list[SetMetrics]:
    """Metrics of every evaluation set in a folder of predictions, by name; empty if there is no such folder.

    Validation, on which thresholds and temperatures are fitted, is no evaluation set.
    """
    return [score_file(path) for path in sorted(folder.glob("*.parquet")) if path.stem != Split.VAL]


def score(predictions: PredictionSet, classes: Sequence[str] | None = None) -> SetMetrics:
    """Metrics of one set of predictions.

    Args:
        predictions: Of one trial.
        classes: Labels that macro averages run over; those of the report (``macro_classes``) if not given.

    Raises:
        DataError: Truth or logits are not what the kind asks for.
    """
    try:
        metrics = _metrics(predictions, classes)
    except ValueError as error:
        raise DataError(f"predictions on {predictions.name!r} cannot be scored: {error}") from error
    computed = _keyed(predictions.name, metrics)
    finite = {key: value for key, value in computed.items() if math.isfinite(value)}
    return SetMetrics(
        name=predictions.name,
        values=_counts(predictions) | finite,
        undefined=tuple(key for key in computed if key not in finite),
        set_hash=predictions.set_hash,
    )


def _metrics(predictions: PredictionSet, classes: Sequence[str] | None) -> dict[str, float]:
    # Here, as they bring scipy, which few commands need.
    from dashboards.set_design import macro_classes
    from dashboards.statistics import compute_metrics, mask_metrics

    of = predictions
    if of.is_masks:
        return mask_metrics(of.labels, of.logits, of.known_distances, of.patient)
    averaged = macro_classes(of) if classes is None else classes
    return compute_metrics(of.kind, of.labels, of.y, of.logits, class_set=averaged)


def _counts(predictions: PredictionSet) -> dict[str, float]:
    counts = {"n_images": predictions.images, "n_patients": len(np.unique(predictions.patient))}
    positives = {f"n_positive.{label}": n for label, n in predictions.positives.items()}
    return _keyed(predictions.name, counts | positives)


def _keyed(name: str, values: Mapping[str, float]) -> dict[str, float]:
    """Values under MLflow's keys; labels that differ only in characters MLflow refuses get a number."""
    keyed: dict[str, float] = {}
    for metric, value in values.items():
        key, number = metric_key(name, metric), 1
        while key in keyed:
            number += 1
            key = f"{metric_key(name, metric)}_{number}"
        keyed[key] = float(value)
    return keyed
