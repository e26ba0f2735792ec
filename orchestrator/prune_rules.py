"""What ``prune`` may be asked for."""

from __future__ import annotations

from enum import StrEnum


class WeightsRule(StrEnum):
    """Which weights may be deleted; each rule includes the ones before it.

    Attributes:
        FAILED: Those of trials that the record does not hold as done.
        NOT_UPSTREAM: Those of done trials from which no trial of the study starts.
        ALL: Those of every done trial from which no trial of the study still has to start.
    """

    FAILED = "failed"
    NOT_UPSTREAM = "not-upstream"
    ALL = "all"


class RepresentationsRule(StrEnum):
    """Which representations may be deleted; each rule includes the one before it.

    Attributes:
        UNUSED: Those of trials that are not in the study, or that the study as it stands asks none of.
        ALL: Those of every trial.
    """

    UNUSED = "unused"
    ALL = "all"
