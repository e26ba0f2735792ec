"""Fixtures of a record; load with ``pytest_plugins = ("tests.orchestrator.record_plugin",)``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dashboards import tracking
from orchestrator.record import Record
from tests.orchestrator.record_fixtures import make_study
from trainables.storage import Storage


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised MLflow database; creating its schema takes seconds, so it is made once and copied."""
    path = tmp_path_factory.mktemp("mlflow") / "template.db"
    tracking.connect(f"sqlite:///{path}", create=True)
    return path


@pytest.fixture
def tracking_uri(empty_database: Path, tmp_path: Path) -> str:
    """A tracking URI of the test's own."""
    target = tmp_path / "record" / "mlflow.db"
    target.parent.mkdir()
    shutil.copyfile(empty_database, target)
    return f"sqlite:///{target}"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty storage."""
    return Storage(tmp_path / "storage")


@pytest.fixture
def record(storage: Storage, tracking_uri: str) -> Record:
    """An open record that gives up at the first outage."""
    made = Record(make_study(), storage, tracking_uri, retry_pauses_s=())
    made.open()
    return made
