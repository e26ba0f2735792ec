"""Parts of a piece of work that another process makes, and what happens to them when a process is lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dashboards import processes
from dashboards.exchange import Exchange, asked_for, held, is_held, made, mark_of, read_whole, serve, take, write_whole
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
from dashboards.exchange import held, mark_of, take
folder = Path(sys.argv[1])
mark = folder / sys.argv[2]
if mark.suffix == ".taken":
    assert take(folder, mark.stem)
with held(mark):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holding(tmp_path):
    """Starts a process that holds a mark until it is killed."""
    started = []

    def start(mark):
        command = [sys.executable, "-c", HOLDS, str(tmp_path), mark.name]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "holds\n"  # nothing, if it has ended
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def waiting(tmp_path):
    """A mark that is held as by a process that waits for parts."""
    mark = tmp_path / "7.idle"
    mark.touch()
    with held(mark):
        yield mark


def test_nothing_is_handed_on_while_nobody_waits(tmp_path, holding):
    exchange = Exchange(tmp_path, 0)
    assert exchange.hand("anything") is None
    (tmp_path / "7.idle").touch()
    assert exchange.hand("anything") is None  # who waited was killed
    holding(tmp_path / "8.idle")
    first = exchange.hand("a")
    assert first is not None
    assert exchange.hand("b") is None  # the one that waits has a part already
    assert take(tmp_path, first)
    assert exchange.hand("c") not in (None, first)


@pytest.mark.usefixtures("waiting")
def test_what_nobody_began_is_made_by_who_handed_it_on(tmp_path):
    exchange = Exchange(tmp_path, 0)
    name = exchange.hand([1, 2])
    assert exchange.collect(name, sum) == 3
    assert not asked_for(tmp_path, name).exists()


@pytest.mark.usefixtures("waiting")
def test_what_was_made_is_taken_over(tmp_path):
    exchange = Exchange(tmp_path, 0)
    name = exchange.hand([1, 2])
    assert take(tmp_path, name)
    write_whole(made(tmp_path, name), "made")
    assert exchange.collect(name, sum) == "made"
    assert not made(tmp_path, name).exists()


@pytest.mark.usefixtures("waiting")
def test_what_a_killed_process_had_begun_is_made_by_who_handed_it_on(tmp_path, holding):
    exchange = Exchange(tmp_path, 0)
    name = exchange.hand([1, 2])
    process = holding(mark_of(tmp_path, name))
    assert is_held(mark_of(tmp_path, name))
    process.kill()
    process.wait()
    assert not is_held(mark_of(tmp_path, name))
    assert exchange.collect(name, sum) == 3


@pytest.mark.usefixtures("waiting")
def test_a_full_disk_keeps_a_part_here(tmp_path, monkeypatch):
    def full(value, stream, protocol):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dashboards.exchange.pickle.dump", full)
    assert Exchange(tmp_path, 0).hand("anything") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7.idle"]


def test_who_serves_stops_when_nobody_works_at_a_piece(tmp_path, holding, waiting):
    assert take(tmp_path, 0)
    process = holding(mark_of(tmp_path, 1))
    exchange = Exchange(tmp_path, 1)
    names = [exchange.hand("breaks")]
    assert take(tmp_path, names[0])
    names.append(exchange.hand([1, 2]))
    mark_of(tmp_path, names[0]).unlink()

    def work(payload):
        if payload != "breaks":
            process.kill()
            process.wait()
        return sum(payload)

    serve(tmp_path, 2, work)
    assert not made(tmp_path, names[0]).exists()
    with pytest.raises(TypeError):  # whoever handed it on meets what is wrong
        exchange.collect(names[0], sum)
    assert read_whole(made(tmp_path, names[1])) == 3
    assert [path.name for path in tmp_path.glob("*.idle")] == [waiting.name]


def test_parts_of_the_only_piece_are_made_by_both_processes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "work_of_a_test_parts.py").write_text(PARTS, encoding="utf-8")
    (tmp_path / "work_of_a_test_doubles.py").write_text(DOUBLES, encoding="utf-8")
    import work_of_a_test_parts as parts

    (found,) = shared_out("work_of_a_test_doubles", None, 1, parts.work, 1, parts.part)
    assert [n for n, _, _ in found] == [0, 1, 2, 3]
    assert len({owner for _, owner, _ in found}) == 1
    assert found[0][2] != found[0][1]  # the first was waited for until another process took it


def test_what_is_made_again_hands_nothing_on(monkeypatch):
    monkeypatch.setattr(processes, "take", lambda folder, piece: False)
    assert shared_out("nothing", None, 0, lambda piece, exchange: (piece, exchange), 2) == [(0, None), (1, None)]
