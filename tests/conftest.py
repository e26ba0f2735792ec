"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import time_limit

ROOT = Path(__file__).resolve().parent.parent

# Tests must neither talk to a cluster that happens to run on this machine nor share a user's home.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says something about the machine, not about the code.
settings.register_profile("any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any_machine")


def pytest_configure(config: pytest.Config) -> None:
    time_limit.register(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start clusters or studies come first, the longest of them (the demo) before all.

    Each worker takes one file after the other: a long one that starts last would be waited for alone.
    """
    heavy = {item.path for item in items if item.get_closest_marker("ray")}
    long = {item.path for item in items if item.get_closest_marker("ray") and item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in long, item.path not in heavy))


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def data_root() -> Path:
    """Where the real images and weights lie: SCALECURVES_DATA, else ``../shared``."""
    return Path(os.environ.get("SCALECURVES_DATA", ROOT.parent / "shared")).resolve()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ``data`` and ``weights``; skips where it is absent."""
    root = data_root()
    if not (root / "data").is_dir():
        pytest.skip(f"real images not found at {root} (set SCALECURVES_DATA)")
    return root


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own SCALECURVES_HOME, so that none reads or writes a user's tasks."""
    monkeypatch.setenv("SCALECURVES_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
