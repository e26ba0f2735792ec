"""Tables of others' results, with and without predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ["task", "model_scale", "pretraining_source", "data_fraction", "seed", "metric", "value"]


def row(source="random", value=0.8, *, task="chest", scale="r50", fraction="full", seed=0, metric="auc", **more):
    """One row as a mapping."""
    written = dict(zip(COLUMNS, [task, scale, source, fraction, seed, metric, value], strict=True))
    return written | more


def paired(mean, sd, *, task="chest", source="medical", baseline="random", seeds=5, fraction="full", level=0.82):
    """Rows of two sources whose paired differences have exactly this mean and standard deviation."""
    shape = np.linspace(-1, 1, seeds) ** 3 + np.linspace(0, 0.3, seeds)
    shape = (shape - shape.mean()) / shape.std(ddof=1)
    base = level + 0.004 * np.cos(np.arange(seeds))
    rows = [row(baseline, b, task=task, fraction=fraction, seed=s) for s, b in enumerate(base)]
    differences = zip(base, mean + sd * shape, strict=True)
    return rows + [row(source, b + d, task=task, fraction=fraction, seed=s) for s, (b, d) in enumerate(differences)]


def write_csv(path: Path, rows) -> Path:
    """The rows as a CSV."""
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def write_predictions(path: Path, *, signal: float, noise_seed: int, patients: int = 60, probabilities=False) -> Path:
    """Predictions of a binary task: the same patients with names as ids, two images each, and their sex."""
    crowd = np.random.default_rng(7)
    who = np.repeat(np.arange(patients), 2)
    y = (np.arange(patients) % 3 == 0)[who].astype(np.float32)
    effect = crowd.normal(0, 0.5, patients)[who]
    z = signal * (2 * y - 1) + effect + np.random.default_rng(noise_seed).normal(0, 1, len(who))
    if probabilities:
        z = 1 / (1 + np.exp(-z))
    columns = {
        "image_id": [f"scan-{i}.png" for i in range(len(who))],
        "patient_id": [f"Doe, Jane {p}" for p in who],
        "sex": np.where(who % 2, "F", "M"),
        "birthday": ["1970-01-01"] * len(who),
        "y_tumour": y,
        "z_tumour": z.astype(np.float32),
    }
    table = pa.table(columns).replace_schema_metadata({"kind": "binary", "labels": json.dumps(["tumour"])})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path
