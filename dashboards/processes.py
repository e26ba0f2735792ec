"""Work shared out to further processes of this machine, each taking the next piece that nobody has taken.

The processes are started as commands, not by ``multiprocessing``, which would run the caller's main script once more.
What they share is a folder: whoever creates the mark of a piece has taken it. A process that was killed, as for want
of memory, leaves its pieces to the one that started it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_PAYLOAD = "payload.pickle"


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Helpers:
    """Processes that run along, and the folder that they share."""

    folder: Path
    running: list[subprocess.Popen[bytes]]

    def wait(self) -> None:
        """Until all have ended, well or not."""
        for process in self.running:
            process.wait()


@contextmanager
def helpers(module: str, payload: object, number: int, *arguments: str) -> Iterator[Helpers]:
    """Processes ``python -m MODULE FOLDER [ARGUMENT ...]`` that run along; the folder is gone at the end.

    Args:
        module: Its ``main`` gets its work from ``payload_of(FOLDER)``.
        payload: Anything that can be pickled.
        number: Of processes; 0 for none.
        arguments: Further arguments of each.
    """
    with tempfile.TemporaryDirectory(prefix="scalecurves-") as temporary:
        found = Helpers(Path(temporary), [])
        if number:
            (found.folder / _PAYLOAD).write_bytes(pickle.dumps(payload))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        command = [sys.executable, "-m", module, temporary, *arguments]
        try:
            for _ in range(number):
                found.running.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
            yield found
        except BaseException:
            for process in found.running:
                process.terminate()
            raise
        finally:
            found.wait()


def payload_of(folder: Path) -> object:
    """What ``helpers`` was given, read in one of them."""
    return pickle.loads((folder / _PAYLOAD).read_bytes())


def take(folder: Path, piece: int | str) -> bool:
    """Whether a piece is nobody else's; it is then the caller's."""
    with suppress(FileExistsError):
        os.close(os.open(folder / f"{piece}.taken", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return True
    return False
