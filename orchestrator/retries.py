"""Which failures of a trial are worth another attempt in the same run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from orchestrator.memory_limits import MemoryLimits
from search_spaces.names import FailureClass
from search_spaces.results import Failure

LIMITS = {FailureClass.MEMORY: 1, FailureClass.TRACKING: 2}
"""Class -> further attempts in one run; with the storage away they wait until it answers (``Outage``). Lost ranks and
nodes are not here: the executor tries those again itself (``Limits.max_node_retries``). What the user, the data or the
trial itself is to blame for would only fail again."""


class Retries:
    """Counts the failures of each trial of a run.

    Args:
        needs: Trial id -> what its need of memory follows from (``memory_limits.memory_need``): where memory ran out
            once, all trials that need the same save it from their start.
    """

    def __init__(self, needs: Callable[[str], str] = lambda trial_id: trial_id) -> None:
        self._needs = needs
        self._failures: Counter[tuple[str, FailureClass]] = Counter()
        self._saving: set[str] = set()
        self._limits: MemoryLimits | None = None

    def remember(self, limits: MemoryLimits) -> None:
        """What earlier runs found out, and where this one writes it."""
        self._limits = limits

    def again(self, trial_id: str, failure: Failure, saved_memory: bool = False) -> bool:
        """Whether a trial that failed like this should be tried once more.

        After memory ran out it is tried with less: activations are computed twice instead of kept, in processes that
        trained nothing before.

        Args:
            trial_id: Its id.
            failure: Of the attempt.
            saved_memory: Whether that attempt saved memory already.
        """
        key = trial_id, failure.failure_class
        self._failures[key] += 1
        memory = failure.failure_class is FailureClass.MEMORY
        if self._failures[key] > LIMITS.get(failure.failure_class, 0) or (memory and saved_memory):
            return False
        if memory:
            self._saving.add(self._needs(trial_id))
        return True

    def helped(self, trial_id: str) -> None:
        """A trial that saved memory is complete: where memory ran out in this run, later runs should save it, too."""
        if self._limits is not None and self._saving and (need := self._needs(trial_id)) in self._saving:
            self._limits.add(need)

    def should_save_memory(self, trial_id: str) -> bool:
        """Whether memory ran out before, in this trial or in one that needs the same."""
        if not self._saving and not self._limits:
            return False
        need = self._needs(trial_id)
        return need in self._saving or (self._limits is not None and need in self._limits)
