"""Whether what a study wants to keep of its networks can be kept, how large it is, and what can be told from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.known_models import KnownModels
from orchestrator.plan_data import Findings, PlanData
from search_spaces.exceptions import UserError, unknown
from search_spaces.expand import Trial
from search_spaces.names import Role, Split
from search_spaces.representations import BYTES_PER_NUMBER, MOST_BYTES, KeptRepresentations
from search_spaces.resolve import Resolver
from search_spaces.study import Study

IMAGES_PER_DIMENSION = 10
"""Canonical correlations need so many (``dashboards.statistics.similarity``)."""

MOMENTS = 2

KeptBytes = dict[tuple[str, str], int]
"""(scale, task) -> bytes of the activations of one trial."""


def kept_by(study: Study, trial: Trial, resolver: Resolver) -> KeptRepresentations | None:
    """What a trial keeps: only those that the axes ask for and that train their network keep anything."""
    if study.representations is None or trial.role is not Role.TARGET:
        return None
    if not resolver.written_protocol(trial.cell).trains:
        return None
    return study.representations.kept(trial.cell.model_scale, trial.seed)


def check_representations(
    study: Study,
    resolver: Resolver,
    trials: Iterable[Trial],
    models: KnownModels,
    data: PlanData,
    import_paths: Sequence[str],
    found: Findings,
) -> KeptBytes:
    """Look up every layer and count the probe; problems and notes go to ``found``.

    Args:
        study: The study.
        resolver: Its trials.
        trials: Those of the plan.
        models: Builds each scale once.
        data: What the trials read.
        import_paths: Folders of a user's factories.
        found: Takes problems and notes.
    """
    sizes: KeptBytes = {}
    probes: dict[str, int] = {}
    small: dict[str, list[str]] = {}
    trials = [t for t in trials if t.role is Role.TARGET]
    for trial in trials:
        kept, cell = kept_by(study, trial, resolver), trial.cell
        if kept is None or (cell.model_scale, cell.task) in sizes:
            continue
        images = probes.setdefault(cell.task, found.attempt(_probe_images, kept, cell.task, data) or 0)
        scale, task = resolver.scale(cell), resolver.task(cell.task)
        asked = (len(task.labels), kept.layers, kept.positions, import_paths, task.is_dense)
        layers = found.attempt(models.layer_sizes, scale, *asked)
        if layers is None or not images:
            continue
        small[cell.model_scale] = _not_estimable(layers, kept, images)
        found.attempt(_refuse_large, cell.model_scale, cell.task, layers, images)
        sizes[cell.model_scale, cell.task] = _bytes(layers, images)
    fixed = {t.cell for t in trials if not resolver.written_protocol(t.cell).trains}
    if study.representations is not None and fixed:
        found.notes.append(
            f"no representations of {len(fixed)} cell(s): their protocol leaves the network as it starts"
        )
    _note(study, probes, small, found)
    return sizes


def _probe_images(kept: KeptRepresentations, task: str, data: PlanData) -> int:
    """Images of a task's probe.

    Raises:
        UserError: The task has no such set.
    """
    sets: Mapping[str, int] = {name: n for name, n in data.images.get(task, {}).items() if name != Split.TRAIN}
    for name in kept.probe.sets:
        if name not in sets:
            raise UserError(unknown("set", name, sets, f"representations.probe.sets, which task {task!r} has not"))
    return min(kept.probe.images, sum(sets[name] for name in kept.probe.sets))


def _bytes(layers: Mapping[str, int], images: int) -> int:
    return sum(layers.values()) * images * BYTES_PER_NUMBER * MOMENTS


def _refuse_large(scale: str, task: str, layers: Mapping[str, int], images: int) -> None:
    size = _bytes(layers, images)
    if size > MOST_BYTES:
        widest = max(layers, key=lambda name: layers[name])
        raise UserError(
            f"representations of scale {scale!r} on task {task!r} take {size / 1e6:.0f} MB per trial ({len(layers)} "
            f"layers, {widest!r} the widest with {layers[widest]} numbers per image, {images} images); at most "
            f"{MOST_BYTES / 1e6:.0f} MB are kept: name fewer layers, or lower representations.probe.images"
        )


def _not_estimable(layers: Mapping[str, int], kept: KeptRepresentations, images: int) -> list[str]:
    per = kept.positions or 1
    return [name for name, numbers in layers.items() if images < IMAGES_PER_DIMENSION * max(1, numbers // per)]


def _note(study: Study, probes: Mapping[str, int], small: Mapping[str, list[str]], found: Findings) -> None:
    asked = study.representations
    if asked is None or not probes:
        return
    drawn = ", ".join(f"{task}: {images}" for task, images in probes.items())
    found.notes.append(
        f"representations are kept of {' and '.join(asked.probe.sets)} images drawn with seed {asked.probe.seed} "
        f"({drawn}), the same for every trial of a task; they change no trial's identity and no result"
    )
    wide = {scale: names for scale, names in small.items() if names}
    if wide and asked.components is None:
        listed = "; ".join(f"{scale}: {', '.join(names)}" for scale, names in wide.items())
        found.notes.append(
            f"fewer than {IMAGES_PER_DIMENSION} images per dimension, so canonical correlations of these layers will "
            f"not be estimable without a reduction (SVCCA, or representations.components): {listed}"
        )
