"""Which failures of a trial are worth another attempt in the same run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from search_spaces.identity import canonical
from search_spaces.names import FailureClass
from search_spaces.results import Failure
from search_spaces.study import GangSpec
from search_spaces.trial import ResolvedTrial

LIMITS = {FailureClass.MEMORY: 1, FailureClass.TRACKING: 2}
"""Class -> further attempts in one run. Lost ranks and nodes are not here: the executor tries those again itself
(``Limits.max_node_retries``). What the user, the data or the trial itself is to blame for would only fail again."""


class Retries:
    """Counts the failures of each trial of a run.

    Args:
        needs: Trial id -> what its need of memory follows from (scale, input size, ghost batch, precision, gang): where
            memory ran out once, all trials that need the same save it from their start.
    """

    def __init__(self, needs: Callable[[str], Hashable] = lambda trial_id: trial_id) -> None:
        self._needs = needs
        self._failures: Counter[tuple[str, FailureClass]] = Counter()
        self._saving: set[Hashable] = set()

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
            self._saving.add(self._needs(trial_id))
        return True

    def should_save_memory(self, trial_id: str) -> bool:
        """Whether memory ran out before in this run, in this trial or in one that needs the same."""
        return bool(self._saving) and self._needs(trial_id) in self._saving


def memory_need(trial: ResolvedTrial, gang: GangSpec) -> Hashable:
    """What the memory of a trial's ghost batch, the smallest unit of computation, follows from."""
    scale, protocol = trial.scale, trial.protocol
    network = (scale.factory, canonical(scale.arguments), scale.input_size, protocol.freeze)
    return (*network, protocol.ghost_batch_size, protocol.precision, protocol.optimizer, gang)
