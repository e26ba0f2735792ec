"""What a hyper-parameter search tries next. Pure: the same search and the same results give the same proposals.

Proposals come in generations. Each generation is asked of a fresh in-memory Optuna study that holds the results of all
generations before it, in the order of their numbers, with a sampler seeded by the search's seed and the number of the
generation. Nothing else enters: not how many trials run at a time, not the order in which they end, not whether the
driver was restarted in between. Cells share the seed, so that all arms are offered the same first proposals and differ
by their results alone.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search_spaces.tuning import Dimension, Proposal, Tuning
from trainables.validation_metrics import is_better

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

STARTUP_PROPOSALS = 10
"""Random proposals before the tree-structured Parzen estimator is asked; Optuna's default."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A proposal with its result.

    Attributes:
        proposal: What was tried.
        value: Validation value of the primary metric, mean over the search seeds; None if it failed or is not defined,
            which is worse than every number.
    """

    proposal: Proposal
    value: float | None


def next_generation(tuning: Tuning, metric: str, tried: Sequence[Tried]) -> list[Proposal]:
    """The proposals that follow when all before have ended; empty when the budget is spent.

    Args:
        tuning: The search.
        metric: Primary metric; decides whether more is better.
        tried: All proposals so far with their results; whole generations.
    """
    first = len(tried)
    last = min(tuning.trials, first + tuning.generation_size)
    values = _grid(tuning)[first:last] if tuning.sampler == "grid" else _asked(tuning, metric, tried, last - first)
    return [Proposal.of(first + k, each) for k, each in enumerate(values)]


def best(metric: str, tried: Iterable[Tried]) -> Tried | None:
    """The proposal with the best value, of equal ones the first; None if none has a value."""
    found: Tried | None = None
    for each in sorted(tried, key=lambda t: t.proposal.number):
        if is_better(metric, each.value, found.value if found else None):
            found = each
    return found


def _grid(tuning: Tuning) -> list[dict[str, Any]]:
    choices = [dimension.choice or () for dimension in tuning.space.values()]
    return [dict(zip(tuning.space, row, strict=True)) for row in itertools.product(*choices)]


def _asked(tuning: Tuning, metric: str, tried: Sequence[Tried], count: int) -> list[dict[str, Any]]:
    if count <= 0:
        return []
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ascending = is_better(metric, 0.0, 1.0)
    worst = math.inf if ascending else -math.inf
    # Samplers draw field after field, so the order in which a user wrote them must not matter.
    space = {name: _distribution(tuning.space[name]) for name in sorted(tuning.space)}
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(),
        sampler=_sampler(tuning, generation=len(tried) // tuning.generation_size),
        direction="minimize" if ascending else "maximize",
    )
    for each in sorted(tried, key=lambda t: t.proposal.number):
        value = worst if each.value is None else each.value
        params = _as_params(tuning, each.proposal.values)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    return [_as_values(tuning, study.ask(space).params) for _ in range(count)]


def _sampler(tuning: Tuning, generation: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    seed = int.from_bytes(hashlib.sha256(f"{tuning.seed}/{generation}".encode()).digest()[:4])
    if tuning.sampler == "random":
        return RandomSampler(seed=seed)
    # Proposals of one generation do not know of each other's results; the liar keeps them apart.
    return TPESampler(seed=seed, n_startup_trials=STARTUP_PROPOSALS, multivariate=True, constant_liar=True)


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choice is not None:
        return CategoricalDistribution(tuple(range(len(dimension.choice))))
    if dimension.integer is not None:
        return IntDistribution(*dimension.integer)
    low, high = dimension.ends
    return FloatDistribution(low, high, log=dimension.log is not None)


def _as_params(tuning: Tuning, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Optuna has them: a choice is its position, since Optuna's categories cannot be lists."""
    return {name: _position(tuning.space[name], value) for name, value in values.items()}


def _position(dimension: Dimension, value: Any) -> Any:
    if dimension.choice is None:
        return value
    return next(k for k, choice in enumerate(dimension.choice) if _plain(choice) == value)


def _as_values(tuning: Tuning, params: Mapping[str, Any]) -> dict[str, Any]:
    choices = {name: dimension.choice for name, dimension in tuning.space.items()}
    return {name: value if (of := choices[name]) is None else _plain(of[value]) for name, value in params.items()}


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
