"""Make it true: plan, schedule, record, report; the command line. The only writer to MLflow.

From Python: a function per command on a study, such as ``run_study`` (``orchestrator.api``, ``orchestrator.study_api``;
docs/python.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import StudyRun, plan_study, run_study, study_status
    from orchestrator.study_api import (
        StudyReport,
        cancel_study,
        evaluate_study,
        prune_study,
        report_study,
        retry_study,
        why_study,
    )

__all__ = [
    "StudyReport",
    "StudyRun",
    "cancel_study",
    "evaluate_study",
    "plan_study",
    "prune_study",
    "report_study",
    "retry_study",
    "run_study",
    "study_status",
    "why_study",
]

_API = ("StudyRun", "plan_study", "run_study", "study_status")


def __getattr__(name: str) -> Any:
    # Ray's workers import modules of this package, and must not import torch and MLflow with it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("orchestrator.api" if name in _API else "orchestrator.study_api"), name)
