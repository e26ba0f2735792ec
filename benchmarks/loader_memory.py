"""Memory of processes that read one image store: ``python -m benchmarks.loader_memory HOME NAME IMAGES``.

Each process prints its proportional set size, which counts a page that n processes map as 1/n, while all of them are
alive. A process without data is one that reads as many images from a store of a single batch: it does the same work.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from trainables.library import TaskLibrary
from trainables.store import open_store

ROOT = Path(__file__).resolve().parent.parent
SIDE = 224
BATCH_SIZE = 32


def pss_bytes() -> int:
    """Proportional set size of this process."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def together(home: Path, name: str, images: int, processes: int = 4) -> list[int]:
    """Proportional set size of each of some processes, all alive and done with reading."""
    command = [sys.executable, "-m", "benchmarks.loader_memory", str(home), name, str(images)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(processes)
    ]
    try:
        for process in started:
            _expect(process, "ready")
        for process in started:
            _tell(process)
        return [int(_line(process)) for process in started]
    finally:
        for process in started:
            _tell(process)
            process.wait(60)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _expect(process: subprocess.Popen[str], wanted: str) -> None:
    found = _line(process)
    if found != wanted:
        raise RuntimeError(f"a process said {found!r} instead of {wanted!r}")


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    if not process.stdin.closed:
        process.stdin.write("\n")
        process.stdin.flush()


def main(home: Path, name: str, images: int) -> None:
    import torch  # every process of a trial has it

    library, total = TaskLibrary(home), torch.zeros((), dtype=torch.int64)
    store = open_store(library, library.load(name), SIDE)
    for start in range(0, images, BATCH_SIZE):
        rows = np.arange(start, min(start + BATCH_SIZE, images)) % len(store.rows)
        total += torch.from_numpy(store.gather(rows)).sum()
    print("ready", flush=True)
    sys.stdin.readline()  # all are done
    print(pss_bytes(), flush=True)
    sys.stdin.readline()  # all have counted
    del store


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
