"""Which failures of a trial are worth another attempt in the same run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from orchestrator.memory_limits import MemoryLimits
from search_spaces.names import FailureClass
from search_spaces.results import Failure

LIMITS = {FailureClass.MEMORY: 1, FailureClass.TRACKING: 2}
"""Class -> further attempts in one run. Lost ranks and nodes are not here: the executor tries those again itself
(``Limits.max_node_retries``). What the user, the data or the trial itself is to blame for would only fail again."""


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

    def again(self, trial_id: str, failure: Failure) -> bool:
        """Whether a trial that failed like this should be tried once more.

        After memory ran out it is tried with less: activations are computed twice instead of kept, in processes that
        trained nothing before.
        """
        key = trial_id, failure.failure_class
        self._failures[key] += 1
        if self._failures[key] > LIMITS.get(failure.failure_class, 0):
            return False
        if failure.failure_class is FailureClass.MEMORY:
            need = self._needs(trial_id)
            self._saving.add(need)
            if self._limits is not None:
                self._limits.add(need)
        return True

    def should_save_memory(self, trial_id: str) -> bool:
        """Whether memory ran out before, in this trial or in one that needs the same."""
        if not self._saving and not self._limits:
            return False
        need = self._needs(trial_id)
        return need in self._saving or (self._limits is not None and need in self._limits)
