"""The record: what a delivery writes, and that it survives being broken off anywhere."""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dashboards import load_predictions, load_results, tracking
from orchestrator.delivery import spooled
from orchestrator.entries import Point, read_entry, thin
from orchestrator.record import Record
from search_spaces.amounts import Seed
from search_spaces.exceptions import DataError, TrackingError, UserError
from search_spaces.names import FailureClass, State, Tag
from search_spaces.protocol import Protocol
from search_spaces.results import TrialResult
from tests.orchestrator.record_fixtures import (
    STARTED_AT,
    away,
    client_of,
    make_failure,
    make_result,
    make_study,
    make_trial,
    publish,
    runs_of,
    write_folder,
    write_predictions,
)
from tests.stand_ins import memory_storage
from trainables.storage import Storage

pytest_plugins = ("tests.orchestrator.record_plugin", "tests.s3_plugin")

LATER = STARTED_AT + 1000


def rows_of(record: Record, run_id: str) -> list[tuple[str, float, int, int]]:
    """Every metric row of a run."""
    client = client_of(record)
    keys = client.get_run(run_id).data.metrics
    history = [m for key in keys for m in client.get_metric_history(run_id, key)]
    return sorted((m.key, m.value, m.timestamp, m.step) for m in history)


def artifacts_of(record: Record, run_id: str) -> Path:
    folder = tracking.local_folder(client_of(record).get_run(run_id).info.artifact_uri)
    assert folder is not None
    return folder


def test_a_complete_attempt_becomes_one_finished_run(record: Record, storage: Storage) -> None:
    result = publish(storage, make_result())
    run_id = record.deliver(spooled(result))
    run = client_of(record).get_run(run_id)
    tags = run.data.tags
    assert (run.info.status, tags["sc.state"]) == ("FINISHED", "complete")
    assert run.info.run_name == "resnet20 · natural · 0.05 · ham10000 · s0"
    assert tags["mlflow.parentRunId"] == record.parent_id
    assert run.info.start_time == STARTED_AT * 1000
    assert run.info.end_time == (STARTED_AT + 20) * 1000
    assert {tags[f"axis.{a}"] for a in ("model_scale", "data_fraction")} == {"resnet20", "0.05"}
    assert tags["sc.attempt_id"] == result.trial.attempt_id
    assert tags["sc.subset_hash"] == "5" * 16
    assert tags["sc.still_rising"] == "false"
    assert run.data.params["protocol.budget.steps"] == "300"
    assert run.data.params["protocol.augmentation.crop_scale"] == "0.5, 1"
    assert "protocol.clip_norm" not in run.data.params
    metrics = run.data.metrics
    assert metrics["time/train_s"] == 15.0
    assert metrics["sys/samples_per_s"] == 640.0
    assert metrics["data/train_patients"] == 80
    assert metrics["val/best"] == 0.81
    assert metrics["train/loss"] == pytest.approx(0.4)
    assert 0.5 < metrics["test/auc_macro"] < 1
    assert not any("/home" in value for value in (*tags.values(), *run.data.params.values()))


def test_curves_have_deterministic_times_and_steps(record: Record, storage: Storage) -> None:
    run_id = record.deliver(spooled(publish(storage, make_result())))
    loss = [row for row in rows_of(record, run_id) if row[0] == "train/loss"]
    assert [row[3] for row in sorted(loss, key=lambda r: r[3])] == list(range(30, 301, 30))
    assert all(timestamp == STARTED_AT * 1000 + step for _, _, timestamp, step in loss)
    assert len([r for r in rows_of(record, run_id) if r[0] == "val/auc_macro"]) == 10


def test_files_arrive_without_weights_and_without_places(record: Record, storage: Storage) -> None:
    result = publish(storage, make_result())
    run_id = record.deliver(spooled(result))
    folder = artifacts_of(record, run_id)
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {
        "trial.json",
        "receipt.json",
        "history.parquet",
        "predictions/test.parquet",
        "predictions/head_neck.parquet",
    }
    assert "/home" not in (folder / "trial.json").read_text() + (folder / "receipt.json").read_text()
    assert json.loads((folder / "receipt.json").read_text())["file"] == "cifar.th"
    assert TrialResult.model_validate_json((folder / "trial.json").read_text()).best_value == 0.81
    listed = {f.path for f in client_of(record).list_artifacts(run_id)}
    assert listed == {"trial.json", "receipt.json", "history.parquet", "predictions"}


def test_after_delivery_the_spool_keeps_weights_only(record: Record, storage: Storage) -> None:
    result = publish(storage, make_result())
    assert record.deliver_all().delivered == 1
    assert storage.undelivered() == []
    assert storage.has_weights(result.trial.trial_id)
    assert record.states()[result.trial.trial_id].state is State.COMPLETE


def test_delivering_twice_changes_nothing(record: Record, storage: Storage) -> None:
    first = record.deliver(spooled(publish(storage, make_result())))
    rows = rows_of(record, first)
    assert record.deliver(spooled(publish(storage, make_result()))) == first
    again = Record(make_study(), storage, record.uri)
    again.open()
    assert again.parent_id == record.parent_id
    assert again.deliver(spooled(publish(storage, make_result()))) == first
    assert len(runs_of(record)) == 1
    assert rows_of(record, first) == rows


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated", "_put_files", "mark_delivered"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("same_driver", [True, False])
def test_a_delivery_broken_off_anywhere_ends_in_one_complete_run(
    record: Record,
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    moment: str,
    same_driver: bool,
) -> None:
    result = publish(storage, make_result())
    entry = read_entry(Path(storage.place) / spooled(result).folder)
    expected = sorted((p.key, p.value, int(STARTED_AT * 1000) + p.step, p.step) for p in entry.points)
    owner: Any = record if call == "_put_files" else storage if call == "mark_delivered" else record._client
    original = getattr(owner, call)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if moment == "after":
            original(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, broken)
        with pytest.raises(KeyboardInterrupt):
            record.deliver(spooled(result))
    complete_before_mark = call == "mark_delivered" or (call == "set_terminated" and moment == "after")
    driver = record if same_driver else Record(make_study(), storage, record.uri)
    if not same_driver:
        driver.open()
        found = driver.states([result.trial.trial_id])[result.trial.trial_id].state
        assert found is (State.COMPLETE if complete_before_mark else State.MISSING)
    if storage.is_published(result.trial.trial_id):
        driver.deliver(spooled(result))
    mine = runs_of(record, f"tags.`sc.attempt_id` = '{result.trial.attempt_id}'")
    assert [(r.info.status, r.data.tags["sc.state"]) for r in mine] == [("FINISHED", "complete")]
    assert storage.undelivered() == []
    assert rows_of(record, mine[0].info.run_id) == expected
    assert mine[0].data.params == entry.params
    assert entry.tags.items() <= mine[0].data.tags.items()
    assert len(list(artifacts_of(record, mine[0].info.run_id).rglob("*.parquet"))) == 3


def test_the_earliest_complete_run_counts_and_later_ones_are_superseded(record: Record, storage: Storage) -> None:
    late = record.deliver(spooled(publish(storage, make_result(make_trial(attempt="b"), started_at=LATER))))
    early = record.deliver(spooled(publish(storage, make_result(make_trial(attempt="a")))))
    client = client_of(record)
    assert client.get_run(early).data.tags["sc.state"] == "complete"
    assert client.get_run(late).data.tags["sc.state"] == "superseded"
    state = record.states()[make_trial().trial_id]
    assert (state.state, state.run_id, state.attempts) == (State.COMPLETE, early, 2)
    assert load_results("skin", record.uri)["run_id"].tolist() == [early]


def test_a_trial_whose_run_was_deleted_is_missing_and_can_be_recorded_again(record: Record, storage: Storage) -> None:
    first = record.deliver(spooled(publish(storage, make_result())))
    client_of(record).delete_run(first)
    trial_id = make_trial().trial_id
    assert record.states([trial_id])[trial_id].state is State.MISSING
    second = record.deliver(spooled(publish(storage, make_result(make_trial(attempt="a1"), started_at=LATER))))
    assert client_of(record).get_run(second).data.tags["sc.state"] == "complete"


def test_a_failure_is_a_failed_run_without_paths_or_patients(record: Record, storage: Storage) -> None:
    leaky = make_failure(failure_class=FailureClass.DATA, public_message="cannot read /data/Jane Doe/scan 1.png")
    run_id = record.failed(leaky)
    run = client_of(record).get_run(run_id)
    assert (run.info.status, run.data.tags["sc.state"]) == ("FAILED", "failed")
    assert run.data.tags["sc.failure_class"] == "data"
    assert run.data.tags["sc.failed_step"] == "17"
    assert run.data.tags["sc.failure_message"] == "cannot read <path>"
    everything = str(run.data.to_dictionary()) + (artifacts_of(record, run_id) / "trial.json").read_text()
    assert "Doe" not in everything
    assert "scan" not in everything
    assert "/home" not in everything
    assert storage.undelivered() == []


def test_states_tell_done_failed_and_missing_apart(record: Record, storage: Storage) -> None:
    done, failed, missing, healed = (make_trial(seed=k) for k in range(4))
    record.deliver(spooled(publish(storage, make_result(done))))
    record.failed(make_failure(failed.model_copy(update={"attempt_id": "f1"})))
    record.failed(
        make_failure(
            failed.model_copy(update={"attempt_id": "f2"}),
            failure_class=FailureClass.NODE,
            public_message="rank 1 was lost",
            started_at=LATER,
        )
    )
    record.failed(make_failure(healed.model_copy(update={"attempt_id": "h1"})))
    record.deliver(spooled(publish(storage, make_result(healed, started_at=LATER))))
    ids = [t.trial_id for t in (done, failed, missing, healed)]
    states = record.states(ids)
    assert [states[i].state for i in ids] == [State.COMPLETE, State.FAILED, State.MISSING, State.COMPLETE]
    assert [states[i].attempts for i in ids] == [1, 2, 0, 2]
    assert states[ids[1]].failure_class is FailureClass.NODE
    assert states[ids[1]].message == "rank 1 was lost"
    assert states[ids[3]].failure_class is None
    assert states[ids[0]].seconds == 20.0
    assert record.states().keys() == set(ids) - {missing.trial_id}


@pytest.mark.parametrize("far", ["memory", "s3"])
def test_from_a_storage_without_paths_the_same_is_delivered(
    far: str, request: pytest.FixtureRequest, record: Record, storage: Storage, tracking_uri: str
) -> None:
    """Files are fetched for it, and must be there until MLflow has them."""
    elsewhere = memory_storage() if far == "memory" else Storage(f"{request.getfixturevalue('bucket')}/studies/small")
    made = make_result()
    run_id = record.deliver(spooled(publish(storage, made)))
    expected = {f.name: f.read_bytes() for f in artifacts_of(record, run_id).rglob("*.parquet")}
    client_of(record).delete_run(run_id)
    after = Record(make_study(), elsewhere, tracking_uri, retry_pauses_s=())
    after.open()
    publish(elsewhere, made)
    assert after.deliver_all().delivered == 1
    [row] = runs_of(after)
    found = {f.name: f.read_bytes() for f in artifacts_of(after, row.info.run_id).rglob("*.parquet")}
    assert found.keys() == expected.keys() > {"test.parquet"}
    assert {name: pq.read_table(pa.BufferReader(data)).num_rows for name, data in found.items()} == {
        name: pq.read_table(pa.BufferReader(data)).num_rows for name, data in expected.items()
    }
    assert elsewhere.undelivered() == []


def test_an_outage_leaves_attempts_in_the_spool_and_the_next_start_delivers_them(
    record: Record, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        publish(storage, make_result(make_trial(seed=seed)))
    original = record._client.log_batch
    calls = []

    def second_fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs) if len(calls) == 1 else away()

    with monkeypatch.context() as patch:
        patch.setattr(record._client, "log_batch", second_fails)
        outcome = record.deliver_all()
    assert (outcome.delivered, outcome.waiting) == (1, 2)
    assert isinstance(outcome.outage, TrackingError)
    assert len(storage.undelivered()) == 2
    after = Record(make_study(), storage, record.uri)
    after.open()
    assert after.deliver_all().delivered == 2
    assert {s.state for s in after.states().values()} == {State.COMPLETE}
    assert len(runs_of(record)) == 3


def test_a_short_outage_is_retried(storage: Storage, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(make_study(), storage, tracking_uri, retry_pauses_s=(0.0, 0.0))
    record.open()
    original, calls = record._client.create_run, []

    def flaky(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        run = original(*args, **kwargs)
        return run if len(calls) > 1 else away()  # the answer is lost after the run was made

    monkeypatch.setattr(record._client, "create_run", flaky)
    record.deliver(spooled(publish(storage, make_result())))
    assert len(calls) == 1
    assert [r.info.status for r in runs_of(record)] == ["FINISHED"]


def test_a_damaged_folder_does_not_hold_up_the_others(record: Record, storage: Storage) -> None:
    broken, whole = (publish(storage, make_result(make_trial(seed=k))) for k in range(2))
    folder = Path(storage.place) / "trials" / broken.trial.trial_id
    (folder / "predictions" / "test.parquet").write_text("no")
    outcome = record.deliver_all()
    assert outcome.delivered == 1
    assert len(outcome.damaged) == 1
    assert broken.trial.trial_id in outcome.damaged[0]
    assert [item.key for item in storage.undelivered()] == [broken.trial.trial_id]
    assert record.states([whole.trial.trial_id])[whole.trial.trial_id].state is State.COMPLETE


def test_opened_to_deliver_alone_the_parent_run_stays_what_it_was(record: Record, storage: Storage) -> None:
    record.close()
    other = Record(make_study(), storage, record.uri)
    for runs, status in ((False, "FINISHED"), (True, "RUNNING")):
        other.open(runs=runs)
        assert client_of(other).get_run(other.parent_id).info.status == status


def test_attempts_of_other_studies_in_the_same_storage_are_left_alone(record: Record, storage: Storage) -> None:
    publish(storage, make_result(make_trial(study="other")))
    assert record.deliver_all().delivered == 0
    assert len(storage.undelivered()) == 1


def test_an_attempt_that_another_driver_delivered_meanwhile_is_found(record: Record, storage: Storage) -> None:
    other = Record(make_study(), storage, record.uri)
    other.open()
    result = publish(storage, make_result())
    run_id = other.deliver(spooled(result))
    assert record.deliver(spooled(result)) == run_id
    with pytest.raises(DataError, match="neither in storage"):
        record.deliver(spooled(make_result(make_trial(seed=9))))


def test_many_tags_params_and_metrics_stay_within_the_limits(
    record: Record, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial()
    environment = make_result().environment.model_copy(update={"versions": {f"p{k}": "1" for k in range(250)}})  # type: ignore[union-attr]
    labels = {f"label {k} (ü/ö)": k for k in range(1200)}
    subset = make_result().subset.model_copy(update={"positives": labels})  # type: ignore[union-attr]
    sizes = []
    original = record._client.log_batch

    def counted(run_id: str, metrics: Any = (), params: Any = (), tags: Any = (), **kwargs: Any) -> Any:
        sizes.append((len(metrics), len(params), len(tags)))
        return original(run_id, metrics, params, tags, **kwargs)

    monkeypatch.setattr(record._client, "log_batch", counted)
    run_id = record.deliver(spooled(publish(storage, make_result(trial, environment=environment, subset=subset))))
    run = client_of(record).get_run(run_id)
    assert sum(key.startswith("env.p") for key in run.data.tags) == 250
    assert sum(key.startswith("data/positives.") for key in run.data.metrics) == 1200
    assert all(m <= 1000 and p <= 100 and t <= 100 and m + p + t <= 1000 for m, p, t in sizes)
    assert record.states()[trial.trial_id].state is State.COMPLETE


def test_undefined_metrics_are_absent_and_named_in_a_tag(record: Record, storage: Storage, tmp_path: Path) -> None:
    result = make_result(make_trial(kind="binary"))
    write_folder(tmp_path / "made", result, ())
    write_predictions(tmp_path / "made/predictions/test.parquet", "binary", y_tumour=[0.0] * 60)
    storage.publish(tmp_path / "made", result.trial.trial_id)
    run = client_of(record).get_run(record.deliver(spooled(result)))
    assert "test/auc" not in run.data.metrics
    assert "test/nll" in run.data.metrics
    assert "test/auc" in run.data.tags["sc.undefined"].split(",")


def test_a_set_scored_later_is_added_to_the_same_run(record: Record, storage: Storage, tmp_path: Path) -> None:
    run_id = record.deliver(spooled(publish(storage, make_result(), sets=("test",))))
    write_predictions(tmp_path / "clinic_b.parquet", seed=5)
    for _ in range(2):
        record.add_predictions(run_id, tmp_path / "clinic_b.parquet")
    run = client_of(record).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["sc.sets"] == "test,clinic_b"
    assert "clinic_b/auc_macro" in run.data.metrics
    assert len(client_of(record).get_metric_history(run_id, "clinic_b/auc_macro")) == 1
    assert set(load_predictions("skin", tracking_uri=record.uri)) == {
        (make_trial().trial_id, "test"),
        (make_trial().trial_id, "clinic_b"),
    }


def test_parent_run_holds_study_plan_report_and_note(record: Record, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "report.html").write_text("<html>")
    record.set_plan('{"cells": 4}')
    record.attach_report(tmp_path / "made", {"ham10000": "natural helps at 0.05"})
    record.set_progress({"complete": 3, "failed": 1})
    record.close()
    run = client_of(record).get_run(record.parent_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["report.ham10000"] == "natural helps at 0.05"
    note = run.data.tags["mlflow.note.content"]
    assert "4 cells x 2 seeds = 8 trials" in note
    assert "| complete | failed |" in note
    folder = artifacts_of(record, record.parent_id)
    assert (folder / "report" / "report.html").read_text() == "<html>"
    assert json.loads((folder / "plan.json").read_text()) == {"cells": 4}
    study = (folder / "study" / "study.yaml").read_text()
    assert "cifar.th" in study
    assert "/home/ann" not in study
    again = Record(make_study(seeds=3), Storage(tmp_path / "storage"), record.uri)
    again.open()
    assert again.parent_id == record.parent_id
    assert client_of(record).get_run(record.parent_id).info.status == "RUNNING"
    assert len(list((folder / "study" / "versions").iterdir())) == 2


def test_two_drivers_that_open_at_once_share_experiment_and_parent(storage: Storage, tracking_uri: str) -> None:
    records = [Record(make_study(), storage, tracking_uri) for _ in range(4)]
    barrier = threading.Barrier(len(records))
    errors: list[BaseException] = []

    def opened(record: Record) -> None:
        barrier.wait()
        try:
            record.open()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=opened, args=(record,)) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    later = Record(make_study(), storage, tracking_uri)
    later.open()
    assert {r.experiment_id for r in records} == {later.experiment_id}
    earliest = tracking.find_parents(client_of(later), later.experiment_id)[0].info.run_id
    assert later.parent_id == earliest


def test_a_deleted_experiment_is_told(record: Record, storage: Storage) -> None:
    client_of(record).delete_experiment(record.experiment_id)
    with pytest.raises(UserError, match="mlflow experiments restore"):
        Record(make_study(), storage, record.uri).open()


@pytest.mark.parametrize(
    "uri", ["mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:", "x://y"]
)
def test_places_that_mlflow_no_longer_writes_are_refused(storage: Storage, uri: str) -> None:
    with pytest.raises(UserError, match="sqlite:///"):
        Record(make_study(), storage, uri)


def test_the_default_record_lies_in_the_home_with_its_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.resolve_tracking_uri() == f"sqlite:///{tmp_path}/home/mlflow.db"
    assert tracking.artifact_root(tracking.resolve_tracking_uri(), "skin") == f"{tmp_path}/home/mlartifacts/skin"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking.resolve_tracking_uri() == "http://tracking:5000"
    assert tracking.artifact_root("http://tracking:5000", "skin") is None
    monkeypatch.chdir(tmp_path)
    assert tracking.resolve_tracking_uri("sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"


def test_a_first_start_creates_the_database_in_silence(
    tmp_path: Path, storage: Storage, capfd: pytest.CaptureFixture[str]
) -> None:
    record = Record(make_study(), storage, f"sqlite:///{tmp_path}/new/mlflow.db")
    record.open()
    record.deliver(spooled(publish(storage, make_result())))
    record.close()
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "new" / "mlartifacts" / "skin").is_dir()


def test_thinning_keeps_first_last_and_best() -> None:
    points = [Point("val/auc", float(k), k) for k in range(1000)]
    thinned = thin(points, best_step=333)
    steps = [p.step for p in thinned]
    assert len(steps) <= 50
    assert {0, 333, 999} <= set(steps)
    assert steps == sorted(set(steps))
    assert max(b - a for a, b in pairwise(steps)) <= 22
    assert thin(points[:50], best_step=1) == points[:50]


def test_an_entry_needs_a_whole_history(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "made", make_result())
    history = pq.read_table(folder / "history.parquet")
    pq.write_table(history.drop_columns(["val"]), folder / "history.parquet")
    with pytest.raises(DataError, match="columns step, loss and val"):
        read_entry(folder)


def test_the_regime_of_a_rule_is_a_tag(record: Record, storage: Storage) -> None:
    trial = make_trial(protocol=Protocol.model_validate({"base": "bit_hyperrule"}))
    run = client_of(record).get_run(record.deliver(spooled(publish(storage, make_result(trial)))))
    assert run.data.tags["sc.regime"] == "small"
    assert run.data.params["protocol.budget.rule"] == "hyperrule"
    assert "sc.image_size" not in run.data.tags, "the rule's sizes are numbers once a trial is resolved"


def test_image_sizes_and_operations_are_recorded(record: Record, storage: Storage) -> None:
    trial = make_trial(protocol=Protocol.model_validate({"image_size": [160, 128]}))
    scale = trial.scale.model_copy(update={"gflops": 1.5})
    made = publish(storage, make_result(trial.model_copy(update={"scale": scale})))
    run = client_of(record).get_run(record.deliver(spooled(made)))
    assert run.data.tags["sc.image_size"] == "160/128"
    assert run.data.params["scale.gflops"] == "1.5"
    assert run.data.params["protocol.image_size"] == "160, 128"


def test_crossed_seeds_have_their_own_name_and_tags(record: Record, storage: Storage) -> None:
    trial = make_trial().model_copy(update={"seed": Seed(subset=3, init=1)})
    run = client_of(record).get_run(record.deliver(spooled(publish(storage, make_result(trial)))))
    assert run.info.run_name.endswith(" · s3i1")
    assert (run.data.tags["seed.subset"], run.data.tags["seed.init"]) == ("3", "1")


def test_a_record_of_another_schema_is_refused(record, storage):
    record.open()
    record._client.set_tag(record.parent_id, Tag.SCHEMA, "99")
    with pytest.raises(UserError, match="has schema 99, this version reads and writes schema 1"):
        Record(record.study, storage, record.uri).open()
