"""Where the attempts of a run are and from which step they went on, as their reports say."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from cluster.connection import submitted_job
from search_spaces.names import State
from search_spaces.results import Failure, TrialResult
from search_spaces.trial import ResolvedTrial

JOB = "ray_job"
"""Key of ``TrialResult.extra``: the submission id of the job whose log holds the driver's output."""


_PLACE = ("host", "log")


class Whereabouts:
    """The last report of each attempt, as far as it says where the attempt is."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Any]] = {}

    def reported(self, report: Mapping[str, Any]) -> None:
        """An attempt has reported: keys ``trial_id`` and, if known, ``host``, ``log`` and ``resumed_from``."""
        self._last[str(report["trial_id"])] = {k: report[k] for k in (*_PLACE, "resumed_from") if k in report}

    def ended(self, trial_id: str) -> None:
        """Nothing more is asked about this trial."""
        self._last.pop(trial_id, None)

    def failed_attempt(self, trial: ResolvedTrial, failure: Failure, started_at: float) -> TrialResult:
        """What is recorded of an attempt that failed now; a process that was lost is placed by its last report.

        Args:
            trial: What was asked.
            failure: Why it failed.
            started_at: When it was handed out, Unix seconds.
        """
        last = self._last.get(trial.trial_id, {})
        known = {name: str(last[name]) for name in _PLACE if name in last and not getattr(failure, name)}
        job = submitted_job()
        return TrialResult(
            trial=trial,
            state=State.FAILED,
            failure=failure.model_copy(update=known),
            started_at=started_at,
            finished_at=time.time(),
            resumed_from=int(last.get("resumed_from") or 0),
            extra={JOB: job} if job else {},
        )
