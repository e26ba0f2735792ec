"""Make it true: plan, schedule, record, report; the command line. The only writer to MLflow.

From Python: ``run_study``, ``plan_study``, ``study_status`` (``orchestrator.api``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import StudyRun, plan_study, run_study, study_status

__all__ = ["StudyRun", "plan_study", "run_study", "study_status"]


def __getattr__(name: str) -> Any:
    # Ray's workers import modules of this package, and must not import torch and MLflow with it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator import api

    return getattr(api, name)
