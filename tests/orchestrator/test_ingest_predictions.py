"""Predictions of others: what leaves for MLflow is paired by image, names nobody and holds only what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from orchestrator.ingest_predictions import PredictionFiles
from search_spaces.exceptions import DataError

IMAGES = 60
PATIENTS = np.repeat(np.arange(IMAGES // 2), 2)
Y = (np.arange(IMAGES) % 3 == 0).astype(np.float32)
SEX = np.where(PATIENTS % 2, "F", "M")


def write(path: Path, *, order=None, **changes) -> Path:
    """Predictions of one binary label; rows in the given order, further or other columns as given."""
    z = (2 * Y + np.random.default_rng(1).normal(size=IMAGES)).astype(np.float32)
    ids = {"image_id": [f"scan-{i}" for i in range(IMAGES)], "patient_id": [f"Doe {p}" for p in PATIENTS]}
    table = pa.table({**ids, "sex": SEX, "y_tumour": Y, "z_tumour": z, **changes})
    table = table.replace_schema_metadata({"kind": "binary", "labels": json.dumps(["tumour"])})
    pq.write_table(table if order is None else table.take(pa.array(order)), path)
    return path


def publish(*paths: Path) -> list[pa.Table]:
    """What the record gets of these files, read as one table of results."""
    files = PredictionFiles()
    for path in paths:
        files.check(path, "brain")
    return [files.publishable(path, task="brain", set_name="test", trial_id="0" * 16) for path in paths]


def auc(table: pa.Table) -> float:
    return float(roc_auc_score(table["y_tumour"].to_numpy(), table["z_tumour"].to_numpy()))


class TestRows:
    """Labels, ids and logits of one image stay together."""

    def test_files_of_one_set_may_differ_in_the_order_of_rows(self, tmp_path):
        order = np.random.default_rng(0).permutation(IMAGES)
        first = write(tmp_path / "a.parquet")
        got = publish(first, write(tmp_path / "b.parquet", order=order))
        assert got[0].equals(got[1])
        assert auc(got[1]) == pytest.approx(auc(pq.read_table(first)))
        assert got[1].schema.metadata[b"set_hash"] == got[0].schema.metadata[b"set_hash"]

    def test_columns_of_the_second_file_are_its_own(self, tmp_path):
        first, second = publish(
            write(tmp_path / "a.parquet", g_device=["GE"] * IMAGES),
            write(tmp_path / "b.parquet", g_device=["Philips"] * IMAGES, sex=SEX[::-1]),
        )
        assert set(first["g_device"].to_pylist()) == {"GE"}
        assert set(second["g_device"].to_pylist()) == {"Philips"}
        assert first["patient_id"].equals(second["patient_id"])
        assert not first["sex"].equals(second["sex"])
