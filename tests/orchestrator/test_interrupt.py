"""Ctrl-C on the real command, as a terminal sends it: to the driver and all that it has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dashboards import load_results
from search_spaces.home import scalecurves_home
from tests.conftest import ROOT
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import raw_study, write_study

GO_ON = "the same command continues where this one stopped"
AXES = raw_study()["axes"] | {"pretraining_source": ["random"]}
SLOW = """
import time
from pathlib import Path

Path(__file__).with_name("reached").touch()
time.sleep(3600)
"""


def _heeds_ctrl_c() -> None:
    """Tests that a script runs in the background were told to ignore it, and so would all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Driver:
    """The command in a process of its own."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        command = [sys.executable, "-m", "orchestrator.sweep", *map(str, arguments)]
        variables = {**os.environ, "SCALECURVES_HOME": str(scalecurves_home()), **environment}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_heeds_ctrl_c,
        )

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def until(self, come_to_pass) -> None:
        for _ in range(6000):
            if come_to_pass():
                return
            assert self._process.poll() is None, self._process.communicate()[0]
            time.sleep(0.05)
        raise AssertionError("not in five minutes")

    def ctrl_c(self) -> None:
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self, code: int) -> str:
        """What it has printed; it must end with this exit code, and with a message instead of a traceback."""
        printed = " ".join(self._process.communicate(timeout=600)[0].split())
        assert self._process.returncode == code, printed
        assert "Traceback" not in printed
        return printed


def running(file: Path) -> bool:
    """Whether a driver says that a trial of it has reported and not ended."""
    notes = (scalecurves_home() / "storage" / "small" / "notes").glob("driver-*")
    return any(json.loads(note.read_text() or "{}").get("running") for note in notes)


def study(folder: Path) -> Path:
    """Two quick trials, then two that take minutes and report often."""
    long = {"budget": {"steps": 20_000}, "evaluations": 2_000}
    return write_study(
        folder,
        axes=AXES,
        overrides=[{"when": {"data_fraction": 1.0}, "set": long}],
        execution={"priorities": [{"when": {"data_fraction": 0.3}, "priority": 1}], "checkpoint_every_s": 0},
    )


def published() -> int:
    return len(list((scalecurves_home() / "storage" / "small" / "trials").glob("*/weights.safetensors")))


@pytest.mark.ray
@pytest.mark.slow
def test_once_stops_with_checkpoints_exits_0_and_says_how_to_go_on(tmp_path):
    file = study(tmp_path)
    with Driver("run", file, "--out", tmp_path / "report") as driver:
        driver.until(lambda: published() >= 2 and running(file))
        driver.ctrl_c()
        printed = driver.end(0)
    assert printed.count("stopping: running trials write checkpoints; a second signal does not wait for them") == 1
    assert "stopped as asked; what ran has left checkpoints, and the same command goes on from them" in printed
    found = json.loads(call("status", file, "--json"))
    assert (found["done"], found["running"], found["missing"], found["failed"]) == (2, 0, 2, 0)
    assert len(load_results("small")) == 2
    checkpoints = [p for p in (scalecurves_home() / "storage" / "small").rglob("*") if "checkpoint" in str(p)]
    assert any(p.is_file() for p in checkpoints)


@pytest.mark.ray
@pytest.mark.slow
def test_twice_does_not_wait_and_loses_nothing_that_was_finished(tmp_path):
    """One trial of four hangs, so that the first Ctrl-C would wait for its report."""
    reached = tmp_path / "failpoints"
    reached.mkdir()
    hang = {"SCALECURVES_FAILPOINTS": "trial.evaluated=hang", "SCALECURVES_FAILPOINTS_ONCE": str(reached)}
    file = write_study(tmp_path, axes=AXES)
    with Driver("run", file, "--out", tmp_path / "report", **hang) as driver:
        driver.until(lambda: published() >= 3)
        assert (reached / "trial.evaluated").exists()
        driver.ctrl_c()
        time.sleep(3)
        driver.ctrl_c()
        assert GO_ON in driver.end(130), "the first one alone would have ended with 0"
    found = json.loads(call("status", file, "--json"))
    assert (found["done"], found["missing"], found["failed"]) == (3, 1, 0)
    assert len(load_results("small")) == 3


def test_while_it_plans_it_says_that_nothing_is_lost(tmp_path):
    (tmp_path / "slowly.py").write_text(SLOW)
    scales = {"slow": {"factory": "slowly:net", "input_size": 16}}
    file = write_study(tmp_path, axes=AXES | {"model_scale": ["slow"]}, scales=scales)
    for command in ("run", "plan"):
        (tmp_path / "reached").unlink(missing_ok=True)
        with Driver(command, file) as driver:
            driver.until((tmp_path / "reached").exists)
            driver.ctrl_c()
            assert GO_ON in driver.end(130)


def test_while_it_decodes_images_it_says_that_nothing_is_lost(tmp_path):
    reached = tmp_path / "failpoints"
    reached.mkdir()
    file = write_study(tmp_path, axes=AXES)
    hang = {"SCALECURVES_FAILPOINTS": "store.mid_build=hang", "SCALECURVES_FAILPOINTS_ONCE": str(reached)}
    with Driver("run", file, **hang) as driver:
        driver.until((reached / "store.mid_build").exists)
        driver.ctrl_c()
        assert GO_ON in driver.end(130)
    assert published() == 0
