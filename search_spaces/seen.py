"""What a trial's initial weights have seen, by the names of data sets, and what that means for its evaluation sets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from search_spaces.contents import Overlap, contents_of_tag, shared_contents
from search_spaces.expand import Trial
from search_spaces.identity import Cards
from search_spaces.source_specs import (
    ByScaleSource,
    CheckpointSource,
    GaborSpec,
    RandomSource,
    TimmSource,
    TransformSource,
)
from search_spaces.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What weights were trained on.

    Attributes:
        contents: Names of the data sets of files and published weights.
        tasks: Tasks of the trials that they come from; images of one manifest are compared one by one elsewhere.
        known: Whether the contents are all: declared, or named by timm's tag.
    """

    contents: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    known: bool = True


@dataclass(frozen=True, slots=True)
class SetOverlap:
    """Whether weights may have seen one evaluation set.

    Attributes:
        overlap: None if it cannot be told.
        reason: In words; empty for ``no``.
    """

    overlap: Overlap | None
    reason: str = ""


def seen_by(study: Study, cards: Cards, trial: Trial) -> Seen:
    """What the initial weights of a trial have seen."""
    name, scale = trial.cell.pretraining_source, trial.cell.model_scale
    if trial.upstream is not None:
        before = seen_by(study, cards, trial.upstream)
        tasks = (trial.upstream.cell.task, *before.tasks)
        return Seen(contents=before.contents, tasks=tasks, known=before.known)
    source = study.source(name)
    while isinstance(source, TransformSource):
        source = study.source(source.of)
    if isinstance(source, ByScaleSource):
        source = source.by_scale[scale]
    if isinstance(source, RandomSource | GaborSpec):
        return Seen()
    if not isinstance(source, CheckpointSource | TimmSource):
        return Seen(known=False)
    contents = source.contents
    if not contents and isinstance(source, TimmSource):
        revision = (cards.scales[scale].revision or {}).get(source.timm, "")
        contents = contents_of_tag(source.timm) or contents_of_tag(revision)
    return Seen(contents=contents, known=bool(contents))


def set_overlaps(
    study: Study, cards: Cards, trial: Trial, apart: Collection[tuple[str, str, str]] = ()
) -> dict[str, SetOverlap]:
    """Evaluation set -> whether the initial weights of a trial may have seen its images, by names alone.

    Images of one manifest are told apart by patient when a plan is made, so two tasks of it do not overlap here.

    Args:
        study: The study.
        cards: Facts about its manifests and scales.
        trial: Whose initial weights.
        apart: (task, evaluation set, upstream task) of two manifests whose patients were found to differ.
    """
    seen = seen_by(study, cards, trial)
    task = study.tasks[trial.cell.task]
    found: dict[str, SetOverlap] = {}
    for name, spec in task.evaluate.items():
        manifest = spec.manifest or task.manifest
        targets = data_set_names(study, cards, manifest)
        unsure = [study.tasks[t].manifest for t in seen.tasks if (trial.cell.task, name, t) not in apart]
        others = [n for m in unsure if m != manifest for n in data_set_names(study, cards, m)]
        shared = shared_contents([*seen.contents, *others], targets)
        if shared:
            text = "; ".join(
                f"{s.seen} is what it is tested on" if s.seen == s.target else f"{s.seen} and {s.target} share images"
                for s in shared
            )
            found[name] = SetOverlap(Overlap.POSSIBLE, text)
        elif not seen.known:
            found[name] = SetOverlap(None, "its contents are not declared")
        else:
            found[name] = SetOverlap(Overlap.NO)
    return found


def data_set_names(study: Study, cards: Cards, manifest: str) -> tuple[str, ...]:
    """Names under which a manifest's data set may be known: its own, its map's, its files', and those of tasks."""
    card = cards.tasks.get(manifest)
    declared = [n for task in study.tasks.values() if task.manifest == manifest for n in task.data_sets]
    importer = card.importer.removeprefix(_MAP) if card is not None else ""
    archives = card.archives if card is not None else ()
    says_nothing = importer in _LAYOUTS or importer.startswith(_MADE)
    return tuple(dict.fromkeys([manifest, *([] if says_nothing else [importer]), *archives, *declared]))


_MAP = "map "
"""What an importer's name begins with when a data set's column map follows."""


_LAYOUTS = ("", "csv", "folder", "npz", "test")
"""Importers that say nothing of where images come from."""

_MADE = "phantoms"
"""What the importer of made images begins with: each such manifest is drawn for itself."""
