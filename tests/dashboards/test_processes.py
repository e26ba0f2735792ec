"""Processes that run along: what they are given, what each takes, and their end."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from dashboards import processes
from dashboards.exchange import take
from dashboards.processes import helpers, one_blas_thread, payload_of, shared_out

WAITS = "import time\ntime.sleep(600)\n"
SQUARES = """
import sys
from pathlib import Path
from dashboards.exchange import take
from dashboards.processes import payload_of
folder = Path(sys.argv[1])
for number in payload_of(folder):
    if take(folder, number):
        (folder / f"{number}.txt").write_text(str(number**2))
"""
SHARED = """
import sys
from pathlib import Path
from dashboards.processes import help_out, payload_of
folder = Path(sys.argv[1])
numbers = payload_of(folder)
help_out(folder, lambda n, _: [numbers[n] ** 2], len(numbers))
"""
DIES = """
import os, sys
from pathlib import Path
from dashboards.exchange import take
take(Path(sys.argv[1]), 1)
os._exit(9)
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


def test_linear_algebra_has_one_thread_in_every_process(module):
    prints = "import os, sys\nfrom pathlib import Path\n"
    prints += "(Path(sys.argv[1]) / 'threads').write_text(os.environ['OPENBLAS_NUM_THREADS'])\n"
    with helpers(module(prints), None, 1) as helping:
        helping.wait()
        assert (helping.folder / "threads").read_text() == "1"
    with threadpool_limits(limits=2, user_api="blas"), one_blas_thread():
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}


def test_results_of_all_processes_come_in_order(module, monkeypatch):
    monkeypatch.setattr(processes, "take", lambda folder, n: n == 0 and take(folder, n))
    here = []

    def work(n, _):
        here.append(n)
        return [[2, 3, 5][n] ** 2]

    assert shared_out(module(SHARED), [2, 3, 5], 1, work, 3) == [[4], [9], [25]]
    assert here in ([0], [])


def test_what_a_process_leaves_when_it_dies_is_done_by_the_caller(module, monkeypatch):
    monkeypatch.setattr(processes, "take", lambda folder, n: n != 1 and take(folder, n))
    assert shared_out(module(DIES), None, 1, lambda n, _: n * 10, 3) == [0, 10, 20]


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
