"""Which failures of a trial are worth another attempt in the same run."""

from __future__ import annotations

from collections import Counter

from search_spaces.names import FailureClass
from search_spaces.results import Failure

LIMITS = {FailureClass.MEMORY: 1, FailureClass.TRACKING: 2}
"""Class -> further attempts in one run. Lost ranks and nodes are not here: the executor tries those again itself
(``Limits.max_node_retries``). What the user, the data or the trial itself is to blame for would only fail again."""


class Retries:
    """Counts the failures of each trial of a run."""

    def __init__(self) -> None:
        self._failures: Counter[tuple[str, FailureClass]] = Counter()
        self._saving: set[str] = set()

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
            self._saving.add(trial_id)
        return True

    def should_save_memory(self, trial_id: str) -> bool:
        """Whether memory ran out in this trial before."""
        return trial_id in self._saving
