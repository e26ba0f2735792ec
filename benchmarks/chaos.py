"""Whether anything is lost when processes die: ``python -m benchmarks.chaos [--quick]``.

The same study of 40 short trials, three times: undisturbed; with a SIGKILL at every failpoint; and with random SIGKILLs
of driver, rank, raylet and MLflow server, in turn. The command is started again whenever it ended before the study was
done, and the server whenever it was killed. ``lost`` counts trials without a result at the end, ``duplicated`` trials
with more than one that counts, ``different`` trials whose metrics are not those of the undisturbed run, bit for bit.
``resume_s_max`` is the longest time from a random kill to the next checkpoint or result. ``repeated_max_intervals`` is
how much was trained twice because of one interruption, in evaluation intervals: nets count their steps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.chaos_stage import PATIENCE_S, PORT, Server, Stage, end_group, finish, new_stage, server
from search_spaces.failpoints import POINTS

LONGEST_PAUSE_S = 1.5
"""Between a sign that trials get on and the next kill."""
VICTIMS = {"driver": "orchestrator.sweep", "rank": "ray::RayTrainWorker", "raylet": "raylet/raylet", "server": "mlflow"}
"""What dies -> a part of its command line."""


def every_failpoint(stage: Stage) -> int:
    """Kill one process at each failpoint; returns how many were reached."""
    once = stage.home / "once"
    once.mkdir()
    points = ",".join(f"{name}=kill" for name in POINTS)
    finish(stage, SCALECURVES_FAILPOINTS=points, SCALECURVES_FAILPOINTS_ONCE=str(once))
    return len(list(once.iterdir()))


def random_kills(stage: Stage, kills: int, generator: random.Random) -> Counter[str]:
    """Kill so many of each kind of process, in rounds of one each, at random moments while trials get on.

    Returns:
        What was killed, how often; fewer than asked for if the study was done before.
    """
    order = [victim for _ in range(kills) for victim in generator.sample(list(VICTIMS), len(VICTIMS))]
    done: Counter[str] = Counter()
    with server(stage.home) as mlflow_server:
        process = stage.start()
        while process.poll() is None or process.returncode:
            if process.poll() is not None:
                process = _again(stage, process, mlflow_server)
            if not order:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE_S)
                continue
            if not _wait_for_more(stage, process):
                continue
            time.sleep(generator.uniform(0.0, LONGEST_PAUSE_S))
            if not _kill(order[0], process, mlflow_server):
                continue  # there is none at this moment
            victim, killed = order.pop(0), time.monotonic()
            done[victim] += 1
            mlflow_server.revive()
            if victim in ("driver", "raylet"):
                process.wait(PATIENCE_S)
                process = _again(stage, process, mlflow_server)
            if _wait_for_more(stage, process):
                stage.resume_s.append(time.monotonic() - killed)
    return done


def _again(stage: Stage, process: subprocess.Popen[bytes], mlflow_server: Server) -> subprocess.Popen[bytes]:
    """Start the command once more, when the server answers."""
    end_group(process)
    mlflow_server.wait()
    return stage.start()


def compare(stage: Stage, reference: dict[str, dict[str, float]]) -> dict[str, int]:
    """What the stage lost, has twice, or found otherwise."""
    found, counts = stage.metrics(), stage.counts()
    return {
        "lost": len(reference.keys() - found.keys()),
        "duplicated": sum(count > 1 for count in counts.values()),
        "different": sum(found[i] != reference[i] for i in reference.keys() & found.keys()),
    }


def _kill(victim: str, driver: subprocess.Popen[bytes], mlflow_server: Server) -> bool:
    if victim == "server":
        return mlflow_server.kill()
    if victim == "driver":
        os.kill(driver.pid, signal.SIGKILL)
        return True
    for child in psutil.Process(driver.pid).children(recursive=True):
        try:
            if VICTIMS[victim] in " ".join(child.cmdline()):
                child.kill()
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def _wait_for_more(stage: Stage, process: subprocess.Popen[bytes]) -> bool:
    """Wait for one more checkpoint or result; False if the command ended first."""
    before = stage.progress()
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if stage.progress() > before:
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    raise RuntimeError(f"nothing gets on within {PATIENCE_S:g} s; see {stage.home}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 trials and one random kill of each kind")
    quick = parser.parse_args().quick
    trials, kills = (16, 1) if quick else (40, 5)
    with tempfile.TemporaryDirectory(prefix="scalecurves-chaos-") as temporary:
        folder = Path(temporary)
        calm = new_stage(folder, "calm", trials)
        finish(calm)
        reference = calm.metrics()
        print(f"undisturbed: {len(reference)} trials", flush=True)
        pointed = new_stage(folder, "failpoints", trials)
        reached = every_failpoint(pointed)
        at_points = compare(pointed, reference)
        print(f"SIGKILL at {reached} of {len(POINTS)} failpoints, {pointed.starts} starts: {at_points}", flush=True)
        stormy = new_stage(folder, "random", trials, f"http://127.0.0.1:{PORT}")
        done = random_kills(stormy, kills, random.Random(0))
        stormy.tracking_uri = f"sqlite:///{stormy.home / 'mlflow.db'}"
        at_random = compare(stormy, reference)
        repeated = max(pointed.repeated_intervals(), stormy.repeated_intervals())
        print(f"random SIGKILLs {dict(done)}, {stormy.starts} starts: {at_random}; {repeated:.2f} intervals repeated")
    answer = {
        "benchmark": "chaos",
        **{what: at_points[what] + at_random[what] for what in at_points},
        "trials": len(reference),
        "failpoints": reached,
        "kills": {victim: done[victim] for victim in VICTIMS},
        "kills_wanted": kills,
        "repeated_max_intervals": round(repeated, 2),
        "target_repeated_max_intervals": 1,
        "resume_s_max": round(max(stormy.resume_s, default=0.0), 1),
        "target_resume_s_max": 60,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
