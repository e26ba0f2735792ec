"""Processes that run along: what they are given, what each takes, and their end."""

from __future__ import annotations

import pytest

from dashboards.processes import helpers, payload_of, take

WAITS = "import time\ntime.sleep(600)\n"
SQUARES = """
import sys
from pathlib import Path
from dashboards.processes import payload_of, take
folder = Path(sys.argv[1])
for number in payload_of(folder):
    if take(folder, number):
        (folder / f"{number}.txt").write_text(str(number**2))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module that further processes can run."""
    monkeypatch.syspath_prepend(tmp_path)

    def made(text):
        (tmp_path / "work_of_a_test.py").write_text(text, encoding="utf-8")
        return "work_of_a_test"

    return made


def test_a_piece_is_taken_once(tmp_path):
    assert take(tmp_path, 0)
    assert not take(tmp_path, 0)
    assert take(tmp_path, 1)


def test_what_nobody_has_taken_is_done_by_the_processes(module):
    with helpers(module(SQUARES), [2, 3, 5], 2) as helping:
        mine = take(helping.folder, 3)
        helping.wait()
        done = {path.name: path.read_text() for path in helping.folder.glob("*.txt")}
    assert done == {"2.txt": "4", "5.txt": "25"} | ({} if mine else {"3.txt": "9"})
    assert not helping.folder.exists()


def test_a_failure_of_the_caller_ends_the_processes_and_the_folder(module):
    seen = []

    def broken():
        with helpers(module(WAITS), ["anything"], 1) as helping:
            seen.append((helping, payload_of(helping.folder)))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    ((helping, payload),) = seen
    assert payload == ["anything"]
    assert [process.poll() is not None for process in helping.running] == [True]
    assert not helping.folder.exists()
