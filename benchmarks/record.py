"""Seconds of ``plan`` and ``status`` on a large record: ``python -m benchmarks.record [--quick]``.

Makes a record of 10,000 finished target trials (and 250 upstream ones) in SQLite, then runs both commands as a user
does, each in a fresh process: cold without read caches, warm right after. Peak memory is that of the largest process.
Neither command imports torch: status needs no network, and a plan builds none of which all trials are finished. A cold
plan of a study with trials left builds the networks that these need: about 1,000 MiB with torch's CUDA build.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.home import HOME_VARIABLE

TARGETS = {"cold_s": 20.0, "warm_s": 3.0, "peak_mib": 500.0}
SEEDS, QUICK_SEEDS = 25, 2
CACHE = "cache"
"""Folder of the home that holds what can be read again."""


@dataclass(frozen=True)
class Ran:
    """One command in a process of its own."""

    seconds: float
    peak_mib: float
    output: dict[str, Any]


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, HOME_VARIABLE: str(home), "MLFLOW_TRACKING_URI": ""}


def run(home: Path, *arguments: str) -> Ran:
    """Run a command of the sweep.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.sweep", *arguments],
            stdout=output,
            env=_environment(home),
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
    return Ran(seconds=seconds, peak_mib=usage.ru_maxrss / 1024, output=json.loads(text))


def measure(home: Path, file: Path) -> dict[str, Ran]:
    """Each command cold and warm; ``plan_cold`` and so on."""
    ran: dict[str, Ran] = {}
    for command in ("plan", "status"):
        shutil.rmtree(home / CACHE, ignore_errors=True)
        for heat in ("cold", "warm"):
            ran[f"{command}_{heat}"] = run(home, command, str(file), "--json")
    return ran


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="800 runs instead of 10,000")
    seeds = QUICK_SEEDS if parser.parse_args().quick else SEEDS
    with tempfile.TemporaryDirectory(prefix="scalecurves-benchmark-") as folder:
        home = Path(folder)
        file = home / "study.yaml"
        started = time.perf_counter()
        # In a process of its own: a child's peak memory starts from what its parent holds, so this one stays small.
        making = [sys.executable, "-m", "benchmarks.large_record", str(file), str(seeds)]
        made = subprocess.run(making, env=_environment(home), stdout=subprocess.PIPE, text=True, check=True)
        runs, targets = map(int, made.stdout.split()[-2:])
        made_s = time.perf_counter() - started
        ran = measure(home, file)
        left = ran["plan_warm"].output["estimate"]["trials_left"]
        done = ran["status_warm"].output["done"]
    if left or done != targets:
        raise RuntimeError(f"{done} of {targets} trials count as done and {left} as left")
    print(f"{runs} finished runs, made in {made_s:.0f} s; each command in a fresh process, {os.cpu_count()} CPUs")
    for name, one in ran.items():
        print(f"{one.seconds:8.2f} s {one.peak_mib:7.0f} MiB  {name.replace('_', ', ')}")
    answer: dict[str, Any] = {
        "benchmark": "record",
        "runs": runs,
        **{f"{name}_s": round(one.seconds, 2) for name, one in ran.items()},
        "peak_mib": round(max(one.peak_mib for one in ran.values())),
        "peak_warm_mib": round(max(one.peak_mib for name, one in ran.items() if name.endswith("warm"))),
        "targets": TARGETS,
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
