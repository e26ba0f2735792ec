"""Whether every scale of a plan can be built and filled from its sources, and how large its networks are.

What has been trained needs no proof: networks of which every trial is finished are not built again, and their sizes are
those that the record holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from orchestrator.known_models import KnownModels
from orchestrator.plan_data import Findings
from search_spaces.expand import Trial
from search_spaces.resolve import Resolver
from search_spaces.study import Study
from search_spaces.trial import UpstreamNet, Workspace

Sizes = dict[tuple[str, bool], int]
"""(scale, whether as a U-Net) -> numbers of its network."""

Trained = Callable[[], Mapping[str, int]]
"""Gives the finished trials -> numbers of their networks; asked once, when that is needed, as it reads the record."""

Note = Callable[[str], None]


def check_weights(
    resolver: Resolver,
    trials: Iterable[Trial],
    models: KnownModels,
    trained: Trained,
    import_paths: tuple[str, ...],
    found: Findings,
    note: Note,
) -> Sizes:
    """Build each scale and load each source into it once, unless all that needs it is finished.

    Args:
        resolver: Of the study.
        trials: Those of the plan.
        models: Builds, and remembers.
        trained: Finished trials.
        import_paths: Folders in which a user's module is looked up first.
        found: Takes problems.
        note: Told what is being loaded.
    """
    alike: dict[tuple[str, int, str, str | None, bool], list[Trial]] = {}
    for trial in trials:
        cell = trial.cell
        side, frozen = resolver.scale(cell).input_size, resolver.protocol(cell).freeze
        dense = resolver.task(cell.task).is_dense
        alike.setdefault((cell.model_scale, side, cell.pretraining_source, frozen, dense), []).append(trial)
    sizes: Sizes = {}
    trained = functools.cache(trained)
    for (scale, _, source, _, dense), several in alike.items():
        note(f"loading {source} into {scale}")
        size = found.attempt(_check, resolver, several, models, trained, import_paths)
        if size is not None:
            sizes[scale, dense] = size
    return sizes


def _check(
    resolver: Resolver,
    alike: Sequence[Trial],
    models: KnownModels,
    trained: Trained,
    import_paths: tuple[str, ...],
) -> int:
    nowhere = Workspace(home="", storage="", import_paths=import_paths)
    resolved = resolver.resolved(alike[0], "plan", nowhere)
    return models.check_source(
        resolved.scale,
        resolved.source,
        len(resolved.task.labels),
        import_paths,
        resolver.protocol(alike[0].cell).freeze,
        resolved.task.is_dense,
        _upstream_net(resolver, alike[0]),
        trained=lambda: _size_of_trained(resolver, alike, trained()),
    )


def _upstream_net(resolver: Resolver, trial: Trial) -> UpstreamNet | None:
    if trial.upstream is None:
        return None
    cell = trial.upstream.cell
    task = resolver.task(cell.task)
    return UpstreamNet(scale=resolver.scale(cell), num_outputs=len(task.labels), dense=task.is_dense)


def _size_of_trained(resolver: Resolver, alike: Iterable[Trial], trained: Mapping[str, int]) -> int | None:
    """Numbers of a network of which all trials are finished, and agree; else None."""
    sizes = {trained.get(resolver.trial_id(trial)) for trial in alike}
    return sizes.pop() if len(sizes) == 1 else None


def check_scales(
    study: Study,
    trials: Iterable[Trial],
    models: KnownModels,
    import_paths: tuple[str, ...],
    found: Findings,
) -> None:
    """Build each scale, whatever else is wrong with the study, so that all problems are told at once."""
    for name in dict.fromkeys(t.cell.model_scale for t in trials):
        found.attempt(models.check_scale, name, study.scale(name), import_paths)
