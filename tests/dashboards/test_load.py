"""Reading the record back as frames and predictions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

import dashboards
from dashboards import load_failures, load_predictions, load_results, load_study, tracking
from dashboards.load import load_histories, load_validation
from dashboards.prediction_sets import read_predictions
from orchestrator.delivery import spooled
from orchestrator.metrics import score
from orchestrator.record import Record
from search_spaces.exceptions import DataError, TrackingError, UserError
from search_spaces.names import FailureClass, Role
from search_spaces.study import Study
from tests.orchestrator.record_fixtures import (
    STARTED_AT,
    make_failure,
    make_result,
    make_study,
    make_trial,
    publish,
)
from trainables.storage import Storage

pytest_plugins = ("tests.orchestrator.record_plugin",)


def deliver(record: Record, storage: Storage, **kwargs) -> str:
    return record.deliver(spooled(publish(storage, make_result(make_trial(**kwargs)))))


def test_results_have_one_row_per_done_trial_with_typed_columns(record: Record, storage: Storage) -> None:
    for seed in range(2):
        deliver(record, storage, seed=seed)
    deliver(record, storage, source="random", amount={"patients": 9}, role=Role.UPSTREAM)
    record.failed(make_failure(make_trial(seed=5)))
    frame = load_results("skin", record.uri)
    assert len(frame) == 3
    assert frame.groupby("cell_id").size().tolist().count(2) == 1
    row = frame[frame["pretraining_source"] == "random"].iloc[0]
    assert (row["data_fraction"], row["amount_kind"], row["amount_value"]) == ("patients=9", "patients", 9.0)
    assert (row["role"], row["model_scale"], row["task"]) == ("upstream", "resnet20", "ham10000")
    assert (row["seed"], row["seed_subset"], row["seed_init"]) == ("0", 0, 0)
    assert (row["n_images"], row["n_patients"], row["n_val_images"], row["pool_patients"]) == (120, 80, 300, 1500)
    assert (row["parameters"], row["backbone_parameters"], row["ladder"]) == (270_000, 269_000, "cifar")
    assert (row["subset_hash"], row["order_hash"]) == ("5" * 16, "6" * 16)
    assert row["still_rising"] is False
    assert row["patients_known"] is True
    assert (row["seconds"], row["train_s"], row["samples_per_s"]) == (20.0, 15.0, 640.0)
    assert (row["primary"], row["kind"]) == ("auc_macro", "multiclass")
    assert (row["host"], row["device"], row["ranks"], row["commit"]) == ("node1", "cpu", 1, "abc123+")
    assert row["sets"] == ["head_neck", "test"]
    assert row["started_at"] == STARTED_AT
    assert frame["n_images"].dtype == "Int64"
    assert frame["test/auc_macro"].dtype == "float64"
    assert frame.columns.is_unique
    assert not [c for c in frame.columns if c.startswith(("train/", "val/", "time/", "sys/", "data/"))]


def test_logged_metrics_are_those_of_the_loaded_predictions(record: Record, storage: Storage) -> None:
    deliver(record, storage)
    frame = load_results("skin", record.uri)
    predictions = load_predictions(frame)
    assert set(predictions) == {(make_trial().trial_id, "test"), (make_trial().trial_id, "head_neck")}
    for (_, name), loaded in predictions.items():
        assert loaded.name == name
        for key, value in score(loaded).values.items():
            assert frame[key].iloc[0] == pytest.approx(value, abs=1e-12)


def test_predictions_are_read_in_place_and_can_be_chosen(record: Record, storage: Storage, tmp_path: Path) -> None:
    for seed in range(3):
        deliver(record, storage, seed=seed)
    wanted = make_trial(seed=1).trial_id
    chosen = load_predictions("skin", trial_ids=[wanted], sets=["test"], tracking_uri=record.uri)
    assert list(chosen) == [(wanted, "test")]
    prediction = chosen[wanted, "test"]
    assert prediction.labels == ("bcc", "mel", "nv")
    assert prediction.y.shape == (60,)
    assert prediction.logits.shape == (60, 3)
    assert prediction.groups.keys() == {"sex", "scanner"}
    assert prediction.site is not None
    assert len(np.unique(prediction.patient)) == 30
    assert not (tmp_path / "home" / "cache").exists()
    with pytest.raises(KeyError):
        chosen[wanted, "head_neck"]
    rows = load_results("skin", record.uri)
    assert len(load_predictions(rows[rows["seed_subset"] > 0])) == 4


def test_patients_are_the_same_arrays_in_all_trials(record: Record, storage: Storage) -> None:
    for seed in range(2):
        deliver(record, storage, seed=seed)
    loaded = dict(load_predictions("skin", sets=["test"], tracking_uri=record.uri))
    first, second = loaded.values()
    assert first.patient is second.patient
    assert first.image is second.image
    assert not np.array_equal(first.logits, second.logits)


def test_a_study_without_a_done_trial_is_an_empty_frame_with_all_columns(record: Record) -> None:
    frame = load_results("skin", record.uri)
    assert frame.empty
    assert {"trial_id", "model_scale", "n_images", "seconds", "still_rising"} <= set(frame.columns)
    assert len(load_predictions(frame)) == 0
    assert load_failures("skin", record.uri).empty


def test_failures_tell_class_message_and_whether_the_trial_was_done_later(record: Record, storage: Storage) -> None:
    record.failed(make_failure(make_trial(seed=0, attempt="f0"), failure_class=FailureClass.NODE))
    record.failed(make_failure(make_trial(seed=1, attempt="f1"), started_at=STARTED_AT + 1))
    deliver(record, storage, seed=0)
    frame = load_failures("skin", record.uri)
    assert frame["failure_class"].tolist() == ["node", "divergence"]
    assert frame["message"].tolist() == ["cannot read an image"] * 2
    assert frame["step"].tolist() == [17, 17]
    assert frame["done"].tolist() == [True, False]
    assert frame["pretraining_source"].tolist() == ["natural"] * 2


def test_the_study_file_comes_back(record: Record, storage: Storage) -> None:
    assert load_study("skin", record.uri) == without_folders(make_study())
    longer = make_study(seeds=7, protocol={"lr": 0.02, "augmentation": {"crop_scale": [0.3, 1.0]}})
    Record(longer, storage, record.uri).open()
    assert load_study("skin", record.uri) == without_folders(longer)


def without_folders(study: Study) -> Study:
    """What may leave for MLflow: files by their name alone."""
    text = study.model_dump_json(by_alias=True).replace("/home/ann/weights/", "")
    return Study.model_validate_json(text)


def test_an_unknown_study_names_the_nearest_and_the_known(record: Record, storage: Storage) -> None:
    Record(make_study("brain"), storage, record.uri).open()
    with pytest.raises(UserError, match=r"unknown study 'skim'.*Did you mean 'skin'\? Known: brain, skin"):
        load_results("skim", record.uri)
    MlflowClient(record.uri).delete_experiment(record.experiment_id)
    with pytest.raises(UserError, match="Known: brain"):
        load_results("skin", record.uri)


def test_a_record_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; run a study first"):
        load_results("skin", f"sqlite:///{tmp_path}/no/mlflow.db")
    assert not (tmp_path / "no").exists()
    with pytest.raises(UserError, match="use sqlite:///"):
        load_results("skin", "./mlruns")


def test_a_server_that_is_away_is_a_tracking_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"MLflow at http://ann:\*\*\*@127\.0\.0\.1:9 cannot be reached") as caught:
        load_results("skin", "http://ann:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


def test_files_that_are_gone_or_damaged_are_told(record: Record, storage: Storage) -> None:
    deliver(record, storage)
    frame = load_results("skin", record.uri)
    path = Path(frame["artifact_uri"].iloc[0]) / "predictions" / "test.parquet"
    key = (frame["trial_id"].iloc[0], "test")
    path.write_text("no")
    with pytest.raises(DataError, match="cannot be read"):
        load_predictions(frame)[key]
    path.unlink()
    with pytest.raises(TrackingError, match="is gone"):
        load_predictions(frame)[key]
    with pytest.raises(UserError, match="frame of load_results"):
        load_predictions(pd.DataFrame({"trial_id": ["x"]}))


def test_reading_needs_neither_torch_nor_ray_nor_the_orchestrator() -> None:
    code = (
        "import sys, dashboards; assert 'mlflow' not in sys.modules and 'pandas' not in sys.modules;"
        "dashboards.load_results; from mlflow import MlflowClient;"
        "assert not {'torch', 'ray', 'timm', 'orchestrator', 'trainables'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(dashboards.__file__).parent.parent)


def test_only_what_is_offered_can_be_imported() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_nothing'"):
        dashboards.load_nothing  # noqa: B018


def test_read_predictions_alone(record: Record, storage: Storage) -> None:
    deliver(record, storage, kind="multilabel")
    frame = load_results("skin", record.uri)
    loaded = read_predictions(Path(frame["artifact_uri"].iloc[0]) / "predictions" / "test.parquet")
    assert loaded.y.shape == (60, 2)
    assert loaded.positives == {label: int(loaded.y[:, k].sum()) for k, label in enumerate(loaded.labels)}


def by_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.run_heads._is_known", lambda connection: False)


def test_the_tables_and_the_search_give_equal_frames(
    record: Record, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        deliver(record, storage, seed=seed)
    deliver(record, storage, source="random", amount={"patients": 9}, role=Role.UPSTREAM)
    for seed in (5, 1):
        record.failed(make_failure(make_trial(seed=seed, attempt=f"f{seed}")))
    client = tracking.connect(record.uri)
    rows = load_results("skin", record.uri)
    client.log_metric(rows["run_id"][0], "test/auc_macro", float("nan"))
    client.log_metric(rows["run_id"][1], "test/auc_macro", float("inf"))
    client.log_metric(rows["run_id"][1], "test/nll", 0.125)
    client.delete_run(rows["run_id"][2])
    fast, failed = load_results("skin", record.uri), load_failures("skin", record.uri)
    assert len(fast) == 3
    assert fast["test/auc_macro"].isna().sum() == 1
    by_search(monkeypatch)
    pd.testing.assert_frame_equal(fast, load_results("skin", record.uri))
    pd.testing.assert_frame_equal(failed, load_failures("skin", record.uri))
    assert fast.attrs == load_results("skin", record.uri).attrs


def test_a_study_that_is_not_there_is_named_beside_those_that_are(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="Did you mean 'skin'"):
        load_results("skn", record.uri)
    by_search(monkeypatch)
    with pytest.raises(UserError, match="Did you mean 'skin'"):
        load_results("skn", record.uri)


def test_validation_predictions_are_read_apart_from_evaluation_sets(record: Record, storage: Storage) -> None:
    done = publish(storage, make_result(make_trial(seed=0)), ("test", "val"))
    record.deliver(spooled(done))
    deliver(record, storage, seed=1)  # as records of earlier versions: without validation predictions
    frame = load_results("skin", record.uri)
    assert sorted(map(tuple, frame["sets"])) == [("head_neck", "test"), ("test",)]
    assert not [c for c in frame.columns if c.startswith("val/")]
    assert {key[1] for key in load_predictions(frame)} == {"test", "head_neck"}
    validation = load_validation(frame)
    assert list(validation) == [done.trial.trial_id]
    assert done.trial.trial_id in validation
    assert make_trial(seed=1).trial_id not in validation
    assert validation[done.trial.trial_id].logits.shape == (60, 3)
    with pytest.raises(KeyError):
        validation[make_trial(seed=1).trial_id]
    with pytest.raises(UserError, match="load_validation needs the frame of load_results"):
        load_validation(pd.DataFrame({"trial_id": ["x"]}))


def test_histories_are_read_when_asked_for(record: Record, storage: Storage) -> None:
    deliver(record, storage)
    frame = load_results("skin", record.uri)
    histories = load_histories(frame)
    trial_id = make_trial().trial_id
    assert list(histories) == [trial_id]
    history = histories[trial_id]
    assert history.steps.tolist() == list(range(30, 301, 30))
    assert history.values == pytest.approx(0.5 + 0.31 * np.sin(history.steps / 160))
    assert np.isnan(history.seconds).all()  # not recorded in this file
    path = Path(frame["artifact_uri"].iloc[0]) / "history.parquet"
    path.write_text("no")
    with pytest.raises(DataError, match="not a history with the columns step and val"):
        histories[trial_id]
    path.unlink()
    with pytest.raises(TrackingError, match="is gone"):
        histories[trial_id]
    assert trial_id in histories  # looking for one reads nothing
    assert "other" not in histories
