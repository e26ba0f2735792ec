"""Errors that carry their failure class and are shown to the user as one message, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from search_spaces.names import FailureClass


class ScalecurvesError(Exception):
    """An error with a failure class. The message says what was got, what is allowed and where to look."""

    failure_class = FailureClass.USER


class UserError(ScalecurvesError):
    """The user must change something: the study, the command line, a path."""

    failure_class = FailureClass.USER


class OtherSchemaError(UserError):
    """A record was written by a version of scalecurves whose records look different."""


class UnselectedWeightsError(UserError):
    """The weights that were kept are not those that a trial was scored with."""


class Paused(KeyboardInterrupt):
    """One Ctrl-C has stopped a run: what ran has written its checkpoint, and nothing goes on."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: a stopped job or an evicted pod, which is to be seen as not done."""


class DataError(ScalecurvesError):
    """Images or labels are not what the manifest promises."""

    failure_class = FailureClass.DATA


class DivergenceError(ScalecurvesError):
    """Training produced a non-finite loss. Never retried."""

    failure_class = FailureClass.DIVERGENCE


class MemoryLimitError(ScalecurvesError):
    """A ghost batch does not fit the device."""

    failure_class = FailureClass.MEMORY


class TrackingError(ScalecurvesError):
    """MLflow or the storage cannot be reached."""

    failure_class = FailureClass.TRACKING


class StorageError(TrackingError, OSError):
    """A remote storage does not answer or refuses; an ``OSError``, too, for those who go on without it."""


def unknown(what: str, got: str, known: Iterable[str], where: str = "") -> str:
    """One sentence for an unknown name: what was got, the nearest known one, what is allowed.

    Args:
        what: The kind of thing, such as ``"study key"``.
        got: The name that is not known.
        known: All allowed names.
        where: Where the name was read, such as ``"axes.task"``; empty if obvious.
    """
    known = sorted(known)
    near = difflib.get_close_matches(got, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    place = f" in {where}" if where else ""
    listed = ", ".join(known[:30]) + (f", ... ({len(known)} in all)" if len(known) > 30 else "")
    return f"unknown {what} {got!r}{place}.{hint} Known: {listed or 'none'}."
