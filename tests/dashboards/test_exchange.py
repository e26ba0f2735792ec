"""Parts of a piece of work that another process makes, and what happens to them when a process is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from dashboards.exchange import Exchange, at_work, held, made, read_whole, serve, take, write_whole
from dashboards.processes import shared_out

DOUBLES = """
import sys
from pathlib import Path
from dashboards.processes import help_out
from work_of_a_test_parts import part, work
help_out(Path(sys.argv[1]), work, 1, part)
"""
PARTS = """
import os, time

def work(piece, exchange):
    name, started = None, time.monotonic()
    while name is None and time.monotonic() - started < 60:
        name = exchange.hand((0, os.getpid()))
    while not exchange._folder.joinpath(f"{name}.taken").exists() and time.monotonic() - started < 60:
        time.sleep(0.01)
    names = [name, *(exchange.hand((n, os.getpid())) for n in (1, 2, 3))]
    return [part((n, os.getpid())) if name is None else exchange.collect(name, part) for n, name in enumerate(names)]

def part(payload):
    return payload[0], payload[1], os.getpid()
"""
HOLDS = """
import os, sys, time
from pathlib import Path
from dashboards.exchange import held, take
folder = Path(sys.argv[1])
assert take(folder, sys.argv[2])
with held(folder, sys.argv[2]):
    (folder / "holds").touch()
    time.sleep(600)
"""


@pytest.fixture
def holding(tmp_path):
    """Starts a process that works at a piece until it is killed."""
    started = []

    def start(piece):
        started.append(subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path), str(piece)]))
        deadline = time.monotonic() + 60
        while not (tmp_path / "holds").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_nothing_is_handed_on_while_nobody_waits(tmp_path):
    exchange = Exchange(tmp_path, 0)
    assert exchange.hand("anything") is None
    (tmp_path / "7.idle").touch()
    first = exchange.hand("a")
    assert first is not None
    assert exchange.hand("b") is None  # the one that waits has a part already
    assert take(tmp_path, first)
    (tmp_path / "8.idle").touch()
    assert exchange.hand("c") not in (None, first)


def test_what_nobody_began_is_made_by_who_handed_it_on(tmp_path):
    (tmp_path / "7.idle").touch()
    exchange = Exchange(tmp_path, 0)
    name = exchange.hand([1, 2])
    assert exchange.collect(name, sum) == 3


def test_what_was_made_is_taken_over(tmp_path):
    (tmp_path / "7.idle").touch()
    exchange = Exchange(tmp_path, 0)
    name = exchange.hand([1, 2])
    assert take(tmp_path, name)
    write_whole(made(tmp_path, name), "made")
    assert exchange.collect(name, sum) == "made"


def test_what_a_killed_process_had_begun_is_made_by_who_handed_it_on(tmp_path, holding):
    (tmp_path / "7.idle").touch()
    exchange = Exchange(tmp_path, 0)
    name = exchange.hand([1, 2])
    process = holding(name)
    assert at_work(tmp_path, name)
    process.kill()
    process.wait()
    assert not at_work(tmp_path, name)
    assert exchange.collect(name, sum) == 3


def test_who_serves_stops_when_nobody_works_at_a_piece(tmp_path, holding):
    assert take(tmp_path, 0)
    with held(tmp_path, 0):
        assert at_work(tmp_path, 0)
    process = holding(1)
    (tmp_path / "7.idle").touch()
    name = Exchange(tmp_path, 1).hand([1, 2])

    def work(payload):
        process.kill()
        process.wait()
        return sum(payload)

    serve(tmp_path, 2, work)
    assert read_whole(made(tmp_path, name)) == 3
    assert not (tmp_path / f"{os.getpid()}.idle").exists()


def test_parts_of_the_only_piece_are_made_by_both_processes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "work_of_a_test_parts.py").write_text(PARTS, encoding="utf-8")
    (tmp_path / "work_of_a_test_doubles.py").write_text(DOUBLES, encoding="utf-8")
    import work_of_a_test_parts as parts

    (found,) = shared_out("work_of_a_test_doubles", None, 1, parts.work, 1, parts.part)
    assert [n for n, _, _ in found] == [0, 1, 2, 3]
    assert len({owner for _, owner, _ in found}) == 1
    assert found[0][2] != found[0][1]  # the first was waited for until another process took it
