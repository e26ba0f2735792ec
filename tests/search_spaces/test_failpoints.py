"""Places where tests make a process die."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces.exceptions import UserError
from search_spaces.failpoints import POINTS, failpoint
from tests.conftest import ROOT


def test_nothing_happens_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCALECURVES_FAILPOINTS", raising=False)
    for name in POINTS:
        failpoint(name)


def test_the_first_process_that_comes_acts_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCALECURVES_FAILPOINTS", "trial.start=raise,record.before_done=raise")
    monkeypatch.setenv("SCALECURVES_FAILPOINTS_ONCE", str(tmp_path))
    failpoint("publish.before_move")
    with pytest.raises(OSError, match=r"failpoint trial\.start"):
        failpoint("trial.start")
    failpoint("trial.start")
    with pytest.raises(OSError, match=r"failpoint record\.before_done"):
        failpoint("record.before_done")


def test_a_process_is_killed() -> None:
    code = "from search_spaces.failpoints import failpoint; failpoint('trial.start'); print('alive')"
    environment = {"SCALECURVES_FAILPOINTS": "trial.start=kill", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-9, b"")


@pytest.mark.parametrize(("text", "near"), [("trial.begin=kill", "trial.start"), ("trial.start=explode", "kill")])
def test_unknown_places_and_actions_are_refused(monkeypatch: pytest.MonkeyPatch, text: str, near: str) -> None:
    monkeypatch.setenv("SCALECURVES_FAILPOINTS", text)
    with pytest.raises(UserError, match=near):
        failpoint("trial.start")


def test_every_place_is_in_the_code_once() -> None:
    found = []
    for package in ("search_spaces", "trainables", "orchestrator"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "failpoint":
                    found += [a.value for a in node.args if isinstance(a, ast.Constant)]
    assert sorted(found) == sorted(POINTS)
