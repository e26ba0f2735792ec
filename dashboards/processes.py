"""Work shared out to further processes of this machine, each taking the next piece that nobody has taken.

The processes are started as commands, not by ``multiprocessing``, which would run the caller's main script once more.
What they share is a folder: whoever creates the mark of a piece has taken it. A process that was killed, as for want
of memory, leaves its pieces to the one that started it.

Linear algebra has one thread in each: its threads spin while they wait for each other, which takes many times the CPU
time where processes share the CPUs. Numbers then do not depend on the number of CPUs either.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from threadpoolctl import threadpool_limits

from dashboards.exchange import Exchange, held, made, mark_of, read_whole, serve, take, write_whole

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
            write_whole(found.folder / _PAYLOAD, payload)
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
    return cast("object", read_whole(folder / _PAYLOAD))


def shared_out(
    module: str,
    payload: object,
    number: int,
    work: Callable[[int, Exchange | None], R],
    pieces: int,
    part: Callable[[Any], object] | None = None,
) -> list[R]:
    """What ``work`` gives of each piece 0, 1, ..., whoever did it.

    Args:
        module: As for ``helpers``; its ``main`` calls ``help_out`` with the same work.
        payload: As for ``helpers``.
        number: As for ``helpers``.
        work: Its result can be pickled. It may hand on parts of a piece, unless it gets None for an exchange.
        pieces: Their number.
        part: Makes what is asked for of a part that was handed on; None if there are no such parts.
    """
    with helpers(module, payload, number) as helping:
        own = dict(_taken(helping.folder, work, pieces))
        if part is not None:
            serve(helping.folder, pieces, part)
        helping.wait()
        return [own[n] if n in own else _of_another(helping.folder, n, work) for n in range(pieces)]


def help_out(
    folder: Path,
    work: Callable[[int, Exchange | None], object],
    pieces: int,
    part: Callable[[Any], object] | None = None,
) -> None:
    """Work on the pieces that are free, then on parts of others, in one of the processes of ``shared_out``."""
    for piece, value in _taken(folder, work, pieces):
        write_whole(made(folder, piece), value)
    if part is not None:
        serve(folder, pieces, part)


def _taken(folder: Path, work: Callable[[int, Exchange | None], R], pieces: int) -> Iterator[tuple[int, R]]:
    """The pieces that are nobody else's, and what was made of them."""
    for piece in range(pieces):
        if take(folder, piece):
            with held(mark_of(folder, piece)):
                value = work(piece, Exchange(folder, piece))
            yield piece, value


def _of_another(folder: Path, piece: int, work: Callable[[int, Exchange | None], R]) -> R:
    """What another process has made; done here if that was ended, as for want of memory, or failed."""
    path = made(folder, piece)
    return cast("R", read_whole(path)) if path.is_file() else work(piece, None)
