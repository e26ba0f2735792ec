"""Work shared out to further processes of this machine, each taking the next piece that nobody has taken.

The processes are started as commands, not by ``multiprocessing``, which would run the caller's main script once more.
What they share is a folder: whoever creates the mark of a piece has taken it. A process that was killed, as for want
of memory, leaves its pieces to the one that started it.

Linear algebra has one thread in each: its threads spin while they wait for each other, which takes many times the CPU
time where processes share the CPUs. Numbers then do not depend on the number of CPUs either.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from threadpoolctl import threadpool_limits

R = TypeVar("R")

_PAYLOAD = "payload.pickle"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_blas_thread() -> AbstractContextManager[Any]:
    """Linear algebra of this process has one thread, as that of its helpers."""
    limited: AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="blas")
    return limited


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
        path = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": path}
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


def shared_out(module: str, payload: object, number: int, work: Callable[[int], R], pieces: int) -> list[R]:
    """What ``work`` gives of each piece 0, 1, ..., whoever did it.

    Args:
        module: As for ``helpers``; its ``main`` calls ``help_out`` with the same work.
        payload: As for ``helpers``.
        number: As for ``helpers``.
        work: Its result can be pickled.
        pieces: Their number.
    """
    with helpers(module, payload, number) as helping:
        own = {piece: work(piece) for piece in range(pieces) if take(helping.folder, piece)}
        helping.wait()
        return [own[n] if n in own else _of_another(helping.folder, n, work) for n in range(pieces)]


def help_out(folder: Path, work: Callable[[int], object], pieces: int) -> None:
    """Work on the pieces that are free, in one of the processes of ``shared_out``."""
    for piece in range(pieces):
        if take(folder, piece):
            partial = folder / f".{piece}.part"
            partial.write_bytes(pickle.dumps(work(piece)))
            partial.replace(_made(folder, piece))  # whole: what has it is done


def _of_another(folder: Path, piece: int, work: Callable[[int], R]) -> R:
    """What another process has made; done here if that was ended, as for want of memory, or failed."""
    path = _made(folder, piece)
    return cast("R", pickle.loads(path.read_bytes())) if path.is_file() else work(piece)


def _made(folder: Path, piece: int) -> Path:
    return folder / f"{piece}.made"
