"""The record on a real MLflow server that goes away and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import doctor
from dashboards import load_predictions, load_results
from orchestrator.delivery import spooled
from orchestrator.record import Record
from search_spaces.exceptions import UserError
from search_spaces.home import scalecurves_home
from tests.orchestrator.record_fixtures import (
    make_result,
    make_study,
    make_trial,
    publish,
)
from tests.orchestrator.servers import TrackingServer, tracking_server
from trainables.storage import Storage

pytest_plugins = ("tests.orchestrator.record_plugin",)


@pytest.fixture
def server(tracking_uri: str, tmp_path: Path) -> Iterator[TrackingServer]:
    """A real tracking server that can be stopped and started."""
    with tracking_server(tracking_uri, tmp_path) as made:
        yield made


@pytest.mark.slow
def test_a_real_server_takes_the_same_record_and_may_go_away(
    server: TrackingServer, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    record = Record(make_study(), storage, server.uri, retry_pauses_s=())
    record.open()
    first = record.deliver(spooled(publish(storage, make_result())))
    server.kill()
    publish(storage, make_result(make_trial(seed=1)))
    outcome = record.deliver_all()
    assert (outcome.delivered, outcome.waiting) == (0, 1)
    server.start()
    assert record.deliver_all().delivered == 1
    results = load_results("skin", server.uri)
    assert first in results["run_id"].tolist()
    predictions = load_predictions(results)
    assert len(predictions) == 4
    assert predictions[make_trial(seed=1).trial_id, "test"].logits.shape == (60, 3)
    assert (scalecurves_home() / "cache" / "record" / first).is_dir() is False
    assert len(dict(predictions)) == 4
    assert (scalecurves_home() / "cache" / "record" / first / "predictions" / "test.parquet").is_file()


@pytest.mark.slow
def test_a_server_that_was_not_told_its_name_is_found_before_a_run_and_named_by_it(
    tracking_uri: str, tmp_path: Path
) -> None:
    options = ("--workers=1", "--allowed-hosts=mlflow.example:5000")
    with tracking_server(tracking_uri, tmp_path, options=options) as server:
        found = doctor.tracking(server.uri)
        assert found.level is doctor.Level.ERROR
        assert "403 Forbidden: Invalid Host header" in found.message
        with pytest.raises(UserError, match=r"refuses access .*Invalid Host header.*--allowed-hosts$"):
            load_results("skin", server.uri)


@pytest.mark.slow
def test_a_server_that_lets_a_run_in_lets_the_doctor_in(server: TrackingServer) -> None:
    assert doctor.tracking(server.uri).level is doctor.Level.OK
