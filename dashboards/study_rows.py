"""The rows of all tasks. Those of a large study are worked out by several processes, each taking task after task."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

from dashboards.evidence import Evidence
from dashboards.processes import cpus, helpers, payload_of, take
from dashboards.record_files import LazyPredictions
from dashboards.task_rows import TaskRows, task_rows

PER_PROCESS = 150
"""Least trials that are worth a process of their own, which takes two seconds to start."""


def study_rows(evidence: Evidence) -> list[TaskRows]:
    """The rows of each task, in the order of the results.

    Args:
        evidence: The study. If its predictions are in memory, one process does all.
    """
    tasks = _tasks(evidence)
    number = min(cpus(), len(tasks), len(evidence.results) // PER_PROCESS) - 1
    # What was kept for comparing networks is no part of a task's rows, and may not be fit to be sent.
    sent = replace(evidence, representations={})
    lazy = isinstance(evidence.predictions, LazyPredictions)
    with helpers("dashboards.study_rows", sent, max(number, 0) if lazy else 0) as helping:
        own = {n: task_rows(evidence, task) for n, task in enumerate(tasks) if take(helping.folder, n)}
        helping.wait()
        return [
            own.get(n) or _of_another(helping.folder, n) or task_rows(evidence, task) for n, task in enumerate(tasks)
        ]


def _tasks(evidence: Evidence) -> list[str]:
    return [str(task) for task in evidence.results["task"].dropna().unique()] if len(evidence.results) else []


def _of_another(folder: Path, number: int) -> TaskRows | None:
    """What another process has made; None of one that was ended, as for want of memory, or that failed."""
    path = _made(folder, number)
    return cast("TaskRows", pickle.loads(path.read_bytes())) if path.is_file() else None


def _made(folder: Path, number: int) -> Path:
    return folder / f"{number}.rows"


def main() -> None:
    """Work on the tasks of the folder in the first argument that are free."""
    folder = Path(sys.argv[1])
    evidence = cast("Evidence", payload_of(folder))
    for number, task in enumerate(_tasks(evidence)):
        if take(folder, number):
            partial = folder / f".{number}.part"
            partial.write_bytes(pickle.dumps(task_rows(evidence, task)))
            partial.replace(_made(folder, number))  # whole: what has it is done


if __name__ == "__main__":
    main()
