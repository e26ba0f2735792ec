"""From predictions to logged metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dashboards.prediction_sets import PredictionReader, read_predictions
from dashboards.set_design import macro_classes
from dashboards.statistics import compute_metrics, metric_names
from dashboards.trial_metrics import trial_metrics
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


def _with_a_rare_class(path: Path, kind: str) -> Path:
    """60 patients with an image each, who have or lack ``a`` and ``b`` by halves, or are one of both; 3 have ``c``."""
    generator = np.random.default_rng(3)
    who = np.arange(60)
    shown = np.stack([who % 2, (who // 2) % 2, who < 3], axis=1).astype(np.float32)
    y = np.where(who < 3, 2, who % 2).astype(np.int16)
    truth = {"y": y} if kind == "multiclass" else {f"y_{label}": shown[:, k] for k, label in enumerate("abc")}
    logits = generator.normal(0, 1, (60, 3)) + (np.eye(3)[y] if kind == "multiclass" else shown)
    columns = {"image_id": who.astype(str), "patient_id": who.astype(str)}
    columns |= truth | {f"z_{label}": logits[:, k] for k, label in enumerate("abc")}
    table = pa.table(columns).replace_schema_metadata({"kind": kind, "labels": '["a", "b", "c"]'})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_macro_averages_leave_out_the_classes_that_the_report_leaves_out(tmp_path: Path, kind: str) -> None:
    path = _with_a_rare_class(tmp_path / "test.parquet", kind)
    predictions, values = read_predictions(path), score_file(path).values
    assert macro_classes(predictions) == ("a", "b")
    assert values["test/auc_macro"] == pytest.approx((values["test/auc.a"] + values["test/auc.b"]) / 2)
    assert values["test/ap_macro"] == pytest.approx((values["test/ap.a"] + values["test/ap.b"]) / 2)
    assert "test/auc.c" in values
    names = metric_names(predictions.kind, predictions.labels)
    rows = trial_metrics({("t", "test"): predictions}, "t", names, level=0.95)
    assert {row["metric"]: row["value"] for row in rows} == pytest.approx(
        {name: values[f"test/{name}"] for name in names}
    )
    whole = compute_metrics(predictions.kind, predictions.labels, predictions.y, predictions.logits)
    for name in names:
        is_same = values[f"test/{name}"] == pytest.approx(whole[name])
        assert is_same != (name in ("auc_macro", "ap_macro", "balanced_accuracy")), name
