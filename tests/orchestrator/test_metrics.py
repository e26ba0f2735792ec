"""From predictions to logged metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dashboards.prediction_sets import PredictionReader, read_predictions
from orchestrator.metrics import score_file, score_folder
from search_spaces.exceptions import DataError
from tests.orchestrator.record_fixtures import write_predictions


def _table(path: Path, kind: str, labels: str, **columns: object) -> Path:
    rows = len(next(iter(columns.values())))  # type: ignore[arg-type]
    ids = {"image_id": [str(k) for k in range(rows)], "patient_id": ["a", "a", *"bcdefgh"][:rows]}
    pq.write_table(pa.table({**ids, **columns}).replace_schema_metadata({"kind": kind, "labels": labels}), path)
    return path


def test_binary_values_are_those_computed_by_hand(tmp_path: Path) -> None:
    path = _table(
        tmp_path / "test.parquet",
        "binary",
        '["tumour"]',
        y_tumour=pa.array([1.0, 0.0, 1.0, 0.0, np.nan], pa.float32()),
        z_tumour=pa.array([2.0, -1.0, 0.5, 1.0, 9.0], pa.float32()),
    )
    scores = score_file(path)
    assert scores.values["test/auc"] == pytest.approx(3 / 4)
    assert scores.values["test/accuracy"] == pytest.approx(3 / 4)
    assert scores.values["test/nll"] == pytest.approx(np.mean(np.logaddexp(0, [-2.0, -1.0, -0.5, 1.0])))
    assert scores.values["test/ap"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    probability = 1 / (1 + np.exp([-2.0, 1.0, -0.5, -1.0]))
    assert scores.values["test/ece"] == pytest.approx(np.mean(np.abs([1, 0, 1, 0] - probability)))  # a bin each
    assert scores.values["test/n_images"] == 5
    assert scores.values["test/n_patients"] == 4
    assert scores.values["test/n_positive.tumour"] == 2
    assert scores.undefined == ()


def test_an_undefined_metric_is_absent_and_named(tmp_path: Path) -> None:
    path = _table(
        tmp_path / "ext.parquet",
        "multilabel",
        '["a", "b"]',
        y_a=[1.0, 0.0],
        y_b=[0.0, 0.0],
        z_a=[1.0, 0.0],
        z_b=[1.0, 0],
    )
    scores = score_file(path)
    assert "ext/auc.b" not in scores.values
    assert "ext/auc.b" in scores.undefined
    assert scores.values["ext/auc.a"] == 1.0
    assert scores.values["ext/n_positive.b"] == 0
    assert all(np.isfinite(v) for v in scores.values.values())


def test_multiclass_counts_classes_and_masks_missing(tmp_path: Path) -> None:
    path = _table(
        tmp_path / "test.parquet",
        "multiclass",
        '["u", "v"]',
        y=pa.array([0, 1, -1, None], pa.int16()),
        z_u=[3.0, 0.0, 9.0, 9.0],
        z_v=[0.0, 3.0, 0.0, 0.0],
    )
    predictions = read_predictions(path)
    assert predictions.y.tolist() == [0, 1, -1, -1]
    assert predictions.positives == {"u": 1, "v": 1}
    assert score_file(path).values["test/accuracy"] == 1.0


def test_labels_that_mlflow_refuses_keep_apart(tmp_path: Path) -> None:
    columns = {"y_a/b": [1.0, 0.0], "y_a,b": [0.0, 1.0], "z_a/b": [1.0, 0.0], "z_a,b": [1.0, 0.0]}
    scores = score_file(_table(tmp_path / "test.parquet", "multilabel", '["a/b", "a,b"]', **columns))
    assert scores.values["test/auc.a_b"] == 1.0
    assert scores.values["test/auc.a_b_2"] == 0.0


def test_every_set_of_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("test", "head_neck"):
        write_predictions(tmp_path / f"{name}.parquet")
    assert [scores.name for scores in score_folder(tmp_path)] == ["head_neck", "test"]
    assert score_folder(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["z_tumour"]), "lack the columns z_tumour"),
        (lambda t: t.replace_schema_metadata({}), "metadata kind and labels"),
        (
            lambda t: t.replace_schema_metadata({"kind": "segmentation", "labels": "[]"}),
            "lack the columns label, y, tp",
        ),
        (
            lambda t: t.set_column(t.column_names.index("y_tumour"), "y_tumour", pa.array([7.0] * 60)),
            "cannot be scored",
        ),
    ],
)
def test_files_that_are_no_predictions_are_refused(tmp_path: Path, change, message) -> None:
    path = tmp_path / "test.parquet"
    write_predictions(path, "binary")
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(DataError, match=message):
        score_file(path)


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read"):
        score_file(tmp_path / "test.parquet")


def test_a_reader_holds_once_what_trials_have_in_common(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a" / "test.parquet", seed=1)
    write_predictions(tmp_path / "b" / "test.parquet", seed=2)
    write_predictions(tmp_path / "c" / "test.parquet", seed=2, site=["X"] * 60)
    reader = PredictionReader()
    one, two, three = (reader.read(tmp_path / n / "test.parquet") for n in "abc")
    assert one.patient is two.patient
    assert one.y is two.y
    assert not np.array_equal(one.logits, two.logits)
    assert three.site is not two.site
    assert set(three.site) == {"X"}  # type: ignore[arg-type]
    assert one.groups["scanner"][0] == "b"
    assert one.groups["sex"][0] is None
    with pytest.raises(ValueError, match="read-only"):
        one.y[0] = 1
