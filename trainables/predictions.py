"""Predictions of one trial on one evaluation set: a Parquet table, one row per image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search_spaces.names import NO_AGGREGATION, Column
from search_spaces.trial import ResolvedTrial


def predictions_table(
    frame: pd.DataFrame,
    logits: NDArray[Any],
    trial: ResolvedTrial,
    set_name: str,
    hash_of_set: str | None = None,
    shared_patients: tuple[int, bool] | None = None,
) -> pa.Table:
    """The table of one evaluation set, or of validation.

    Args:
        frame: One row per image: keyed hashes, site, groups and truth (``y`` or ``y_<label>``, ``raw_<label>``).
        logits: (N, L), in the order of the frame and of the task's labels.
        trial: Whose predictions these are.
        set_name: The evaluation set, or ``val``.
        hash_of_set: ``set_hash(frame)``, if it is known.
        shared_patients: How many of its patients have the id of one in training or validation, and whether equal ids
            mean the same person; None if it was not looked for.

    Returns:
        ``frame`` with ``z_<label>`` float32 columns. Metadata: trial_id, task, kind, labels (JSON), set,
        set_hash, aggregation (``none``, or what is to be scored as one: ``patient:mean``), test_time_augmentation,
        shared_patients and same_ids.

    Raises:
        ValueError: The number of rows or labels does not match.
    """
    labels = trial.task.labels
    if logits.shape != (len(frame), len(labels)):
        raise ValueError(f"logits of shape {logits.shape} for {len(frame)} images and {len(labels)} labels")
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for k, label in enumerate(labels):
        table = table.append_column(f"{Column.LOGIT_PREFIX}{label}", pa.array(logits[:, k].astype(np.float32)))
    return table.replace_schema_metadata(set_metadata(frame, trial, set_name, hash_of_set, shared_patients))


def set_metadata(
    frame: pd.DataFrame,
    trial: ResolvedTrial,
    set_name: str,
    hash_of_set: str | None,
    shared_patients: tuple[int, bool] | None,
) -> dict[str, str]:
    """What the file of a set says about itself; arguments and keys as of ``predictions_table``."""
    spec = trial.task.evaluate.get(set_name)
    aggregation = spec.aggregation if spec else NO_AGGREGATION
    metadata = {
        "trial_id": trial.trial_id,
        "task": trial.task.name,
        "kind": trial.task.kind,
        "labels": json.dumps(list(trial.task.labels)),
        "set": set_name,
        "set_hash": set_hash(frame, aggregation) if hash_of_set is None else hash_of_set,
        "aggregation": aggregation,
        "test_time_augmentation": trial.protocol.test_time_augmentation,
    }
    if shared_patients is not None:
        metadata |= {"shared_patients": str(shared_patients[0]), "same_ids": str(shared_patients[1]).lower()}
    return metadata


def set_hash(frame: pd.DataFrame, aggregation: str = NO_AGGREGATION) -> str:
    """Stands for an evaluation set: its images with their patients and truth, and what is scored as one.

    Args:
        frame: As for ``predictions_table``, in any order.
        aggregation: See ``EvaluationSetSpec.aggregation``.

    Returns:
        First 16 hexadecimal digits of the sha256 of these columns as CSV, rows sorted by image id; where several
        images are scored as one, with the aggregation after it.
    """
    columns = sorted(c for c in map(str, frame) if not c.startswith(Column.GROUP_PREFIX))
    lines = frame[columns].sort_values(Column.IMAGE_ID).to_csv(index=False, lineterminator="\n")
    how = "" if aggregation == NO_AGGREGATION else aggregation
    return hashlib.sha256((lines + how).encode()).hexdigest()[:16]


def write_predictions(table: pa.Table, folder: Path, set_name: str) -> Path:
    """Write ``<folder>/<set>.parquet``, by a temporary name; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{set_name}.parquet"
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    return partial.replace(path)
