"""The results frame from tags, parameters and metrics of runs; ``dashboards.load`` explains its columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dashboards import tracking
from dashboards.run_rows import RunRow
from dashboards.tracking import RecordMetric, RecordTag
from search_spaces.names import AXES, Tag

PARAMS = ("amount.kind", "amount.value")
"""Parameters of a run that are needed."""

_FROM_METRICS = {
    "n_images": RecordMetric.TRAIN_IMAGES,
    "n_patients": RecordMetric.TRAIN_PATIENTS,
    "n_forced_patients": RecordMetric.FORCED_PATIENTS,
    "pool_images": RecordMetric.POOL_IMAGES,
    "pool_patients": RecordMetric.POOL_PATIENTS,
    "n_val_images": RecordMetric.VAL_IMAGES,
    "n_val_patients": RecordMetric.VAL_PATIENTS,
    "parameters": RecordMetric.PARAMETERS,
    "backbone_parameters": RecordMetric.BACKBONE_PARAMETERS,
    "steps": RecordMetric.STEPS,
    "best_step": RecordMetric.VAL_BEST_STEP,
    "best_value": RecordMetric.VAL_BEST,
    "seconds": RecordMetric.TOTAL_S,
    "setup_s": RecordMetric.SETUP_S,
    "train_s": RecordMetric.TRAIN_S,
    "evaluate_s": RecordMetric.EVALUATE_S,
    "samples_per_s": RecordMetric.SAMPLES_PER_S,
    "gpu_seconds": RecordMetric.GPU_S,
}
_COUNTS = (
    *(name for name in _FROM_METRICS if name.startswith(("n_", "pool_"))),
    *("parameters", "backbone_parameters", "steps", "best_step"),
)

LABEL_COUNTS = ("n_positive.", "n_negative.")
"""Before the name of a label: columns of its positive and its negative training images."""

IDENTITY = ("trial_id", "cell_id", "attempt_id", "run_id", "name", "role", *AXES, "seed", "seed_subset", "seed_init")
"""Columns that results and failures share."""
_COLUMNS = (
    *IDENTITY,
    "started_at",
    *("amount_kind", "amount_value", "kind", "primary", "ladder", "sets", "set_hashes"),
    *_FROM_METRICS,
    *("patients_known", "subset_hash", "order_hash", "manifest_hash", "still_rising"),
    *("upstream_overlap", "near_copies", "regime", "image_size"),
    *("host", "device", "ranks", "commit", "reported", "undefined", "artifact_uri", "val_hash"),
    *("search_id", "search_number", "tuned"),
)


def results_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Fixed columns first, then metrics by name; counts are whole numbers with <NA>, flags True, False or None."""
    metrics = sorted({key for row in rows for key in row if "/" in key or key.startswith(LABEL_COUNTS)})
    frame = pd.DataFrame(rows, columns=[*_COLUMNS, *metrics])
    frame[list(_COUNTS)] = frame[list(_COUNTS)].astype("Int64")
    frame[["still_rising", "patients_known"]] = frame[["still_rising", "patients_known"]].astype(object)
    for name in (*_FROM_METRICS, *metrics):
        if name not in _COUNTS:
            frame[name] = frame[name].astype(float)
    return frame


def result_row(run: RunRow) -> dict[str, Any]:
    """A done trial; metrics of its sets under their names."""
    tags, params = run.tags, run.params
    sets, undefined = tracking.tag_list(tags, RecordTag.SETS), tracking.tag_list(tags, RecordTag.UNDEFINED)
    ranks = tags.get(RecordTag.environment("ranks"))
    return {
        **identity_of(run),
        "amount_kind": params.get("amount.kind"),
        "amount_value": float(params.get("amount.value", "nan")),
        "kind": tags.get(RecordTag.KIND),
        "primary": tags.get(RecordTag.PRIMARY),
        "ladder": tags.get(RecordTag.LADDER),
        "sets": sets,
        "set_hashes": {name: tags.get(RecordTag.set_hash(name), "") for name in sets},
        **{column: run.metrics.get(key) for column, key in _FROM_METRICS.items()},
        **_label_counts(run.metrics),
        "patients_known": _flag(tags.get(RecordTag.PATIENTS_KNOWN)),
        "subset_hash": tags.get(Tag.SUBSET_HASH),
        "order_hash": tags.get(RecordTag.ORDER_HASH),
        "manifest_hash": tags.get(RecordTag.MANIFEST_HASH),
        "upstream_overlap": tracking.tag_mapping(tags, RecordTag.UPSTREAM_OVERLAP),
        "regime": tags.get(RecordTag.REGIME),
        "image_size": tags.get(RecordTag.IMAGE_SIZE),
        "near_copies": tracking.tag_mapping(tags, RecordTag.NEAR_COPIES),
        "still_rising": _flag(tags.get(RecordTag.STILL_RISING)),
        "host": tags.get(RecordTag.environment("host")),
        "device": tags.get(RecordTag.environment("device")),
        "ranks": int(ranks) if ranks else None,
        "commit": tags.get(RecordTag.environment("commit")),
        "reported": tracking.tag_list(tags, RecordTag.REPORTED),
        "undefined": undefined,
        "artifact_uri": run.artifact_uri,
        "val_hash": tags.get(RecordTag.VALIDATION_HASH),
        "search_number": int(number) if (number := tags.get(RecordTag.SEARCH_NUMBER)) else None,
        "tuned": tags.get(RecordTag.TUNED),
        **{k: v for k, v in run.metrics.items() if k.split("/", 1)[0] in sets and k not in undefined},
    }


def _label_counts(metrics: Mapping[str, float]) -> dict[str, float]:
    prefixes = (RecordMetric.POSITIVES_PREFIX, RecordMetric.NEGATIVES_PREFIX)
    return {
        column + key.removeprefix(prefix): n
        for column, prefix in zip(LABEL_COUNTS, prefixes, strict=True)
        for key, n in metrics.items()
        if key.startswith(prefix)
    }


def identity_of(run: RunRow) -> dict[str, Any]:
    """What names a run, done or failed: ``IDENTITY``, its start and its search."""
    tags = run.tags
    return {
        "trial_id": tags[Tag.TRIAL_ID],
        "cell_id": tags.get(Tag.CELL_ID),
        "attempt_id": tags.get(Tag.ATTEMPT_ID),
        "run_id": run.run_id,
        "name": run.name,
        "role": tags.get(Tag.ROLE),
        **{axis: tags.get(Tag.axis(axis)) for axis in AXES},
        "seed": tags.get(Tag.SEED),
        "seed_subset": int(tags.get(RecordTag.SEED_SUBSET, -1)),
        "seed_init": int(tags.get(RecordTag.SEED_INIT, -1)),
        "started_at": run.start_ms / 1000,
        "search_id": tags.get(RecordTag.SEARCH),
    }


def _flag(text: str | None) -> bool | None:
    return None if text is None else text == "true"
