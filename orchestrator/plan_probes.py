"""What a plan says of trials whose network stays fixed: linear probes and kNN."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from orchestrator.plan_data import Findings
from search_spaces.expand import Trial
from search_spaces.identity import draws_weights
from search_spaces.names import Role
from search_spaces.resolve import Resolver


class SharedPasses:
    """The pass over the images that trials with the same features share, in equal parts.

    Args:
        resolver: Of the study.
        trials: That are planned together.
    """

    def __init__(self, resolver: Resolver, trials: Iterable[Trial]) -> None:
        self._resolver = resolver
        self._sharing = Counter(self._features(t) for t in trials if not resolver.protocol_of(t).trains)

    def images(self, trial: Trial, of_task: Mapping[str, int]) -> float:
        """This trial's part of the images that are passed forward.

        Args:
            trial: One of those that are planned.
            of_task: Images of ``train``, ``val`` and each evaluation set of its task.
        """
        return sum(of_task.values()) / max(1, self._sharing[self._features(trial)])

    def _features(self, trial: Trial) -> tuple[str, str, str, str | None, int | None]:
        cell = trial.cell
        upstream = self._resolver.trial_id(trial.upstream) if trial.upstream else None
        source = self._resolver.source(cell.pretraining_source, cell.model_scale, upstream)
        seed = trial.seed.init if draws_weights(source) else None
        return cell.model_scale, cell.pretraining_source, cell.task, upstream, seed


def refuse_untrained_upstream(resolver: Resolver, trials: Iterable[Trial], found: Findings) -> None:
    """A problem for every cell whose trained weights others start from, but which trains none.

    Args:
        resolver: Of the study.
        trials: That are planned.
        found: Takes the problems.
    """
    said: dict[str, None] = {}
    for trial in trials:
        start = trial if trial.role is Role.UPSTREAM else trial.upstream
        if start is None or resolver.protocol_of(start).trains:
            continue
        cell = start.cell
        method = resolver.protocol_of(start).method
        said[
            f"other trials start from the weights of {cell.label}, but its protocol is {method}, which trains none; "
            f"give it another one: overrides: [{{when: {{task: {cell.task}}}, set: {{base: finetune}}}}]"
        ] = None
    found.problems.extend(said)
