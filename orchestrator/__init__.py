"""Make it true: plan, schedule, record, report; the command line. The only writer to MLflow.

From Python: a function per command on a study, such as ``run_study`` (``orchestrator.api``, ``orchestrator.study_api``,
``orchestrator.record_api``; docs/python.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import StudyRun, plan_study, run_study, study_status
    from orchestrator.record_api import StudyIngestion, export_study, ingest_study
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
    "StudyIngestion",
    "StudyReport",
    "StudyRun",
    "cancel_study",
    "evaluate_study",
    "export_study",
    "ingest_study",
    "plan_study",
    "prune_study",
    "report_study",
    "retry_study",
    "run_study",
    "study_status",
    "why_study",
]

_MODULES = {
    **dict.fromkeys(("StudyRun", "plan_study", "run_study", "study_status"), "api"),
    **dict.fromkeys(("StudyIngestion", "export_study", "ingest_study"), "record_api"),
}
"""Where a name is, if not in ``study_api``."""


def __getattr__(name: str) -> Any:
    # Ray's workers import modules of this package, and must not import torch and MLflow with it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"orchestrator.{_MODULES.get(name, 'study_api')}"), name)
