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


class TestKey:
    """Ids are hashed with a key of all files of the task."""

    @staticmethod
    def hashed(*paths: Path) -> dict[str, list[str]]:
        """File name -> patients as published."""
        return {path.name: table["patient_id"].to_pylist() for path, table in zip(paths, publish(*paths), strict=True)}

    def test_does_not_depend_on_the_order_of_files(self, tmp_path):
        a = write(tmp_path / "a.parquet")
        b = write(tmp_path / "b.parquet", y_tumour=1 - Y)  # another set of the same patients
        assert self.hashed(a, b) == self.hashed(b, a)
        assert self.hashed(a, b)["a.parquet"] == self.hashed(a, b)["b.parquet"]
        files, other = PredictionFiles(), PredictionFiles()
        for path in (a, b, a):
            files.check(path, "brain")
        for path in (b, a):
            other.check(path, "brain")
        assert files.ids_of("brain") == other.ids_of("brain")

    def test_is_of_every_file(self, tmp_path):
        a, b = write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet", y_tumour=1 - Y)
        assert self.hashed(a, b)["a.parquet"] != self.hashed(a)["a.parquet"]


class TestColumns:
    """What is published is what the documentation names."""

    def test_only_columns_of_labels_and_subgroups_leave(self, tmp_path):
        more = {
            "raw_tumour": Y.astype(np.int8),
            "raw_path": [f"/data/DOE_JOHN_{i}.dcm" for i in range(IMAGES)],
            "y_reader": ["Dr. Roe"] * IMAGES,
            "z_note": ["free text"] * IMAGES,
            "y": ["yes"] * IMAGES,
            "g_device": np.where(PATIENTS % 2, "GE", "Philips"),
        }
        (table,) = publish(write(tmp_path / "a.parquet", **more))
        names = {"image_id", "patient_id", "sex", "y_tumour", "z_tumour", "raw_tumour", "g_device"}
        assert set(table.column_names) == names
        assert "Doe" not in str(table.to_pydict())

    @pytest.mark.parametrize("name", ["y_tumour", "z_tumour", "raw_tumour"])
    def test_text_where_numbers_belong_is_refused(self, tmp_path, name):
        path = write(tmp_path / "a.parquet", **{name: ["yes"] * IMAGES})
        with pytest.raises(DataError, match=rf"predictions a\.parquet: {name} \(string\) must hold numbers"):
            PredictionFiles().check(path, "brain")

    @pytest.mark.parametrize(
        ("column", "values"),
        [
            ("g_name", [f"Doe {p}" for p in PATIENTS]),
            ("site", [f"ward {p % 16}" for p in PATIENTS]),
            ("g_weight", [40.5 + i for i in range(IMAGES)]),
        ],
    )
    def test_a_column_that_tells_patients_apart_is_no_subgroup(self, tmp_path, column, values):
        path = write(tmp_path / "a.parquet", **{column: values})
        found = rf"column {column} has {len(set(values))} different values for 30 patients"
        with pytest.raises(DataError, match=found):
            PredictionFiles().check(path, "brain")
        fewer = write(tmp_path / "b.parquet", **{column: [f"part {p % 15}" for p in PATIENTS]})
        assert column.removeprefix("g_") in PredictionFiles().check(fewer, "brain").groups

    def test_more_than_fifty_values_are_refused_however_many_patients(self, tmp_path):
        n = 400
        table = pa.table({"image_id": [str(i) for i in range(n)], "site": [str(i % 51) for i in range(n)]})
        table = table.append_column("y_t", pa.array([i % 2 for i in range(n)]))
        table = table.append_column("z_t", pa.array([float(i) for i in range(n)]))
        table = table.replace_schema_metadata({"kind": "binary", "labels": '["t"]'})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(DataError, match="column site has 51 different values for 400 patients"):
            PredictionFiles().check(tmp_path / "a.parquet", "brain")


def described(path: Path, **metadata: str) -> Path:
    """A file of predictions with other metadata."""
    about = {"kind": "binary", "labels": '["tumour"]'} | metadata
    pq.write_table(pq.read_table(write(path)).replace_schema_metadata(about), path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        PredictionFiles().check(path, "brain")
    return str(error.value)


class TestRefusals:
    """Whatever cannot be scored is refused when the table is read, before anything is written."""

    @pytest.mark.parametrize(("value", "shown"), [(2.0, "2"), (0.5, "0.5"), (-2.0, "-2")])
    def test_truth_is_0_and_1(self, tmp_path, value, shown):
        message = refused(write(tmp_path / "a.parquet", y_tumour=np.append(Y[1:], np.float32(value))))
        assert f"y_tumour holds {shown}; it may hold 0 and 1, and blank or -1" in message

    @pytest.mark.parametrize(("y", "shown"), [([1, 2, 3], "3"), ([0, 1.5, 2], "1.5")])
    def test_classes_are_counted_from_0(self, tmp_path, y, shown):
        logits = {f"z_{name}": np.random.default_rng(0).normal(size=IMAGES) for name in "abc"}
        path = write(tmp_path / "a.parquet", y=np.tile(y, IMAGES // 3), **logits)
        about = {"kind": "multiclass", "labels": '["a", "b", "c"]'}
        pq.write_table(pq.read_table(path).replace_schema_metadata(about), path)
        assert f"y holds {shown}; it may hold classes from 0 to 2" in refused(path)

    @pytest.mark.parametrize("labels", ['"tumour"', "[]", '{"tumour": 1}', '["tumour", "tumour"]'])
    def test_labels_are_a_list_of_names(self, tmp_path, labels):
        path = described(tmp_path / "a.parquet", labels=labels)
        assert f"must be a JSON list of different names, got {labels}" in refused(path)

    def test_other_metadata(self, tmp_path):
        assert "binary has one label, got ['a', 'b']" in refused(described(tmp_path / "a.parquet", labels='["a", "b"]'))
        asked = described(tmp_path / "b.parquet", aggregation="patient:median")
        assert "aggregation 'patient:median' in the Parquet metadata is not one of none, study:mean" in refused(asked)
        asked = described(tmp_path / "c.parquet", aggregation="study:mean")
        assert "scored by examination, but lack study_id" in refused(asked)

    def test_a_file_without_rows(self, tmp_path):
        path = write(tmp_path / "a.parquet")
        pq.write_table(pq.read_table(path).slice(0, 0), path)
        assert "predictions a.parquet have no rows" in refused(path)

    @pytest.mark.parametrize("value", [np.inf, np.nan, None])
    def test_logits_that_are_not_finite_are_known_beforehand(self, tmp_path, value):
        z = pa.array([value, *map(float, range(1, IMAGES))])
        assert not PredictionFiles().check(write(tmp_path / "a.parquet", z_tumour=z), "brain").finite
        assert PredictionFiles().check(write(tmp_path / "b.parquet"), "brain").finite
