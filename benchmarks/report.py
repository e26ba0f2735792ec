"""Seconds and memory of the report of a large study: ``python -m benchmarks.report [--quick] [--keep FOLDER]``.

Makes a record of 1,000 trials with predictions on validation and two sets (``benchmarks.large_study``; ``--quick``:
200), then builds the whole report of it in a fresh process: every prediction read, all statistics, tables, page and
figures. ``analysis_s`` is the time until all statistics, tables and the verdict are written, before figures are drawn.
Peak memory is the sum of the process and those that it starts. With ``--keep`` the record stays in a folder and is not
made again, and the report lies beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from search_spaces.home import HOME_VARIABLE

TARGETS = {"analysis_s": 120.0, "report_peak_mib": 4096.0}
SEEDS, QUICK_SEEDS = 5, 1
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Made:
    """A record that was made: seeds, finished trials and the seconds it took."""

    seeds: int
    trials: int
    seconds: float


@dataclass(frozen=True)
class Ran:
    """A command with all processes that it started; ``analysis_s`` until its verdict was written."""

    seconds: float
    analysis_s: float
    cpu_s: float
    peak_mib: float


def measure(home: Path, out: Path) -> Ran:
    """Build the report as a user does.

    Raises:
        RuntimeError: It failed.
    """
    before = os.times()
    started, began = time.perf_counter(), time.time()
    uri = f"sqlite:///{home / 'mlflow.db'}"
    command = [sys.executable, "-m", "dashboards.report", "large_study", "--out", str(out), "--tracking-uri", uri]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, HOME_VARIABLE: str(home)})
    peak: list[float] = [0.0]
    ended = threading.Event()
    watching = threading.Thread(target=_watch, args=(process.pid, peak, ended))
    watching.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    ended.set()
    watching.join()
    after = os.times()
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    analysis_s = (out / "verdict.json").stat().st_mtime - began
    return Ran(seconds=seconds, analysis_s=analysis_s, cpu_s=cpu_s, peak_mib=peak[0])


def _watch(pid: int, peak: list[float], ended: threading.Event) -> None:
    """Most private memory (proportional share of what is shared) of a process and its children together."""
    while not ended.wait(_LOOK_EVERY_S):
        try:
            root = psutil.Process(pid)
            total = sum(p.memory_full_info().pss for p in (root, *root.children(recursive=True)))
        except psutil.Error:  # one of them has just ended
            continue
        peak[0] = max(peak[0], total / 2**20)


def made_record(home: Path, seeds: int) -> Made:
    """Make the record in a folder, or take the one that was made there.

    Raises:
        SystemExit: The folder holds a record that was not finished, or of another number of seeds.
    """
    mark = home / "made.json"
    if mark.is_file():
        made = Made(**json.loads(mark.read_text("utf-8")))
        if made.seeds != seeds:
            raise SystemExit(f"{home} holds a record of {made.seeds} seeds, {seeds} are asked for; give another folder")
        return made
    if (home / "mlflow.db").exists():
        raise SystemExit(f"{home} holds a record that was not finished; give another folder")
    home.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    making = [sys.executable, "-m", "benchmarks.large_study", str(home), str(seeds)]
    environment = {**os.environ, HOME_VARIABLE: str(home)}
    printed = subprocess.run(making, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    made = Made(seeds=seeds, trials=int(printed.split()[-1]), seconds=round(time.perf_counter() - started, 1))
    mark.write_text(json.dumps(asdict(made)), encoding="utf-8")
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed: 200 trials instead of 1,000")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the record lies or is to be kept")
    given = parser.parse_args()
    seeds = QUICK_SEEDS if given.quick else SEEDS
    with nullcontext(given.keep) if given.keep else tempfile.TemporaryDirectory(prefix="scalecurves-benchmark-") as at:
        home = Path(at)
        made = made_record(home, seeds)
        ran = measure(home, home / "report")
        figures = len(list((home / "report" / "figures").glob("*.svg")))
        page_mib = (home / "report" / "index.html").stat().st_size / 2**20
    what = f"{made.trials} trials with predictions on validation and two sets each, made in {made.seconds:.0f} s"
    print(f"{what}; {os.cpu_count()} CPUs")
    print(f"{ran.seconds:8.1f} s wall, {ran.cpu_s:.1f} s of CPU, {ran.peak_mib:.0f} MiB: the whole report")
    print(f"{ran.analysis_s:8.1f} s of it until all statistics, tables and the verdict were written")
    print(f"{'':8} {figures} figures, page of {page_mib:.1f} MiB")
    answer = {
        "benchmark": "report",
        "trials": made.trials,
        "made_s": made.seconds,
        "analysis_s": round(ran.analysis_s, 1),
        "report_s": round(ran.seconds, 1),
        "report_cpu_s": round(ran.cpu_s, 1),
        "report_peak_mib": round(ran.peak_mib),
        "figures": figures,
        "page_mib": round(page_mib, 1),
        "targets": TARGETS,
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
