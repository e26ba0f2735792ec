"""Memory of processes that read one image store: ``python -m benchmarks.loader_memory HOME NAME IMAGES [--copy]``.

Each process prints its ``Footprint`` while all of them are alive. A page that n processes map counts as 1/n. Pages of
program libraries do not count: whoever else runs on the machine maps them, too, so their share changes by 100 MB with
what other people do; for the same reason nothing is imported that reading does not need. A process without data is one
that reads as many images from a store of a single batch: it does the same work.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from trainables.library import TaskLibrary
from trainables.store import open_store

ROOT = Path(__file__).resolve().parent.parent
SIDE = 224
BATCH_SIZE = 32

_ALLOCATED = re.compile(r"^(?:Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Proportional memory of one process, in bytes.

    Attributes:
        store: Pages of the store's files.
        allocated: All memory that is no file's, whether private, shared or swapped out: copies of the store show here.
    """

    store: int
    allocated: int

    @property
    def both(self) -> int:
        """What reading the store takes."""
        return self.store + self.allocated


def footprint(store: Path) -> Footprint:
    """Of this process, with the store in this folder."""
    mapped, folder = psutil.Process().memory_maps(grouped=True), str(store.resolve())
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return Footprint(
        store=sum(int(files.pss) for files in mapped if files.path.rpartition("/")[0] == folder),
        allocated=sum(int(kib) for kib in _ALLOCATED.findall(rollup)) * 1024,
    )


def together(home: Path, name: str, images: int, processes: int = 4, copies: bool = False) -> list[Footprint]:
    """Footprint of each of some processes, all alive and done with reading.

    Args:
        home: With the task and its store.
        name: Of the task.
        images: How many each process reads, from the first on and from the start again.
        processes: Their number.
        copies: Each keeps what it has read, as a process with images of its own does.
    """
    command = [sys.executable, "-m", "benchmarks.loader_memory", str(home), name, str(images)]
    started = [
        subprocess.Popen(
            [*command, *(["--copy"] if copies else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(processes)
    ]
    try:
        for process in started:
            _expect(process, "ready")
        for process in started:
            _tell(process)
        return [Footprint(**json.loads(_line(process))) for process in started]
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("home", type=Path)
    parser.add_argument("name")
    parser.add_argument("images", type=int)
    parser.add_argument("--copy", action="store_true", help="keep what has been read")
    given = parser.parse_args(arguments)
    library, kept = TaskLibrary(given.home), list[NDArray[np.uint8]]()
    store = open_store(library, library.load(given.name), SIDE)
    for start in range(0, given.images, BATCH_SIZE):
        rows = np.arange(start, min(start + BATCH_SIZE, given.images)) % len(store.rows)
        batch = store.gather(rows)
        batch.sum()
        if given.copy:
            kept.append(batch)
    print("ready", flush=True)
    sys.stdin.readline()  # all are done
    print(json.dumps(asdict(footprint(store.path))), flush=True)
    sys.stdin.readline()  # all have counted
    del store


if __name__ == "__main__":
    main()
