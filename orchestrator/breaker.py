"""Stops asking for more of what keeps failing alike, so that one mistake does not cost a whole grid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.names import FailureClass
from search_spaces.results import Failure

ALIKE = 5
"""Failures of one class and message after which no more trials of their kind are started."""

_OUTCOMES = (FailureClass.DIVERGENCE,)
"""Classes that say something about the trial, not about what it runs on."""

_CHANGING = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?([eE][+-]?\d+)?|'[^']*'|/\S+")
"""Parts of a message that differ between failures of one cause: numbers, names in quotes, paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Trials with these axis values.

    Attributes:
        values: Axis -> value; empty for all trials.
    """

    values: Mapping[str, str]

    def holds(self, coordinates: Mapping[str, str]) -> bool:
        """Whether a trial with these coordinates is of this kind."""
        return all(coordinates.get(axis) == value for axis, value in self.values.items())

    @property
    def label(self) -> str:
        """Short text: ``model_scale=resnet50, task=chest``."""
        return ", ".join(f"{axis}={value}" for axis, value in self.values.items()) or "the whole study"


class Breaker:
    """Counts failures and tells when a kind of trials should be left.

    A kind is what the axis values of enough failed trials have in common, of all of them or of those that share a value
    with the last one; it is left only if none of it was completed.

    Args:
        alike: Failures of one class and message that are enough.
    """

    def __init__(self, alike: int = ALIKE) -> None:
        self._alike = alike
        self._failed: dict[tuple[FailureClass, str], list[Mapping[str, str]]] = {}
        self._completed: list[Mapping[str, str]] = []

    def completed(self, coordinates: Mapping[str, str]) -> None:
        """A trial at these coordinates has its result."""
        self._completed.append(coordinates)

    def failed(self, coordinates: Mapping[str, str], failure: Failure) -> Kind | None:
        """A trial at these coordinates has failed.

        Returns:
            The kind of trials to leave from now on; None for none.
        """
        if failure.failure_class in _OUTCOMES:
            return None
        key = (failure.failure_class, _CHANGING.sub("·", failure.message))
        alike = self._failed.setdefault(key, [])
        alike.append(coordinates)
        sharing = [[a for a in alike if a.get(axis) == value] for axis, value in coordinates.items()]
        kinds = [_common(some) for some in (alike, *sharing) if len(some) >= self._alike]
        return next((k for k in kinds if not any(k.holds(done) for done in self._completed)), None)


def _common(several: Sequence[Mapping[str, str]]) -> Kind:
    first, *others = several
    return Kind(values={a: v for a, v in first.items() if all(o.get(a) == v for o in others)})
