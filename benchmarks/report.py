"""Seconds and memory of the report of a large study: ``python -m benchmarks.report [--quick]``.

Makes a record of 1,000 trials with predictions (``benchmarks.large_study``; ``--quick``: 200), then builds the whole
report of it in a fresh process: every prediction read, all statistics, tables, page and figures. Peak memory is the sum
of the process and those that it starts.
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
from dataclasses import dataclass
from pathlib import Path

import psutil

from search_spaces.home import HOME_VARIABLE

TARGETS = {"report_s": 120.0, "report_peak_mib": 4096.0}
SEEDS, QUICK_SEEDS = 5, 1
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Ran:
    """A command with all processes that it started."""

    seconds: float
    cpu_s: float
    peak_mib: float


def measure(home: Path, out: Path) -> Ran:
    """Build the report as a user does.

    Raises:
        RuntimeError: It failed.
    """
    before = os.times()
    started = time.perf_counter()
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
    return Ran(seconds=seconds, cpu_s=cpu_s, peak_mib=peak[0])


def _watch(pid: int, peak: list[float], ended: threading.Event) -> None:
    """Most private memory (proportional share of what is shared) of a process and its children together."""
    while not ended.wait(_LOOK_EVERY_S):
        try:
            root = psutil.Process(pid)
            total = sum(p.memory_full_info().pss for p in (root, *root.children(recursive=True)))
        except psutil.Error:  # one of them has just ended
            continue
        peak[0] = max(peak[0], total / 2**20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed: 200 trials instead of 1,000")
    seeds = QUICK_SEEDS if parser.parse_args().quick else SEEDS
    with tempfile.TemporaryDirectory(prefix="scalecurves-benchmark-") as folder:
        home = Path(folder)
        started = time.perf_counter()
        making = [sys.executable, "-m", "benchmarks.large_study", str(home), str(seeds)]
        environment = {**os.environ, HOME_VARIABLE: str(home)}
        made = subprocess.run(making, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        made_s = time.perf_counter() - started
        ran = measure(home, home / "report")
        figures = len(list((home / "report" / "figures").glob("*.svg")))
        page_mib = (home / "report" / "index.html").stat().st_size / 2**20
        trials = int(made.stdout.split()[-1])
    print(f"{trials} trials with predictions on two sets each, made in {made_s:.0f} s; {os.cpu_count()} CPUs")
    print(f"{ran.seconds:8.1f} s wall, {ran.cpu_s:.1f} s of CPU, {ran.peak_mib:.0f} MiB: the whole report")
    print(f"{'':8} {figures} figures, page of {page_mib:.1f} MiB")
    answer = {
        "benchmark": "report",
        "trials": trials,
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
