"""The rows of all tasks. Those of a large study are worked out by several processes, each taking task after task.

Who has no task left takes blocks of the tasks of others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from dashboards.block_tables import BlockRows, BlockTables
from dashboards.evidence import Evidence, SeenBlock
from dashboards.exchange import Exchange
from dashboards.processes import cpus, help_out, payload_of, shared_out
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
    lazy = isinstance(evidence.predictions, LazyPredictions)
    blocks = evidence.results[["task", "model_scale", "data_fraction"]].drop_duplicates() if tasks else ()
    number = min(cpus(), len(evidence.results) // PER_PROCESS, len(blocks)) - 1 if lazy else 0
    # What was kept for comparing networks is no part of a task's rows, and may not be fit to be sent.
    sent = replace(evidence, representations={})
    return shared_out("dashboards.study_rows", sent, max(number, 0), _work(evidence), len(tasks), _block(evidence))


def _work(evidence: Evidence) -> Callable[[int, Exchange | None], TaskRows]:
    tasks = _tasks(evidence)
    return lambda n, exchange: task_rows(evidence, tasks[n], exchange)


def _block(evidence: Evidence) -> Callable[[tuple[SeenBlock, frozenset[str]]], BlockRows]:
    tables = BlockTables(evidence)
    return lambda asked: tables.rows(*asked)


def _tasks(evidence: Evidence) -> list[str]:
    return [str(task) for task in evidence.results["task"].dropna().unique()] if len(evidence.results) else []


def main() -> None:
    """Work on the tasks of the folder in the first argument that are free."""
    folder = Path(sys.argv[1])
    evidence = cast("Evidence", payload_of(folder))
    help_out(folder, _work(evidence), len(_tasks(evidence)), _block(evidence))


if __name__ == "__main__":
    main()
