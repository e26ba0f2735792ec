"""The facts behind the gates of a contrast: what the record and the study file know, and nothing assumed.

Whether a source has seen a task's images, and whether images of a set have near copies in training, is what ``plan``
noted with each trial. Where it noted nothing, as in older records, overlap is read off the names of data sets that the
study declares (``contents``). A trial of this study as a source needs no declaration: ``plan`` refuses one that trains
on patients or files of an evaluation set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, Literal

from dashboards.cell_tables import TaskView
from dashboards.evidence import IN_DOMAIN, CellKey, Evidence
from dashboards.pairing import Paired
from dashboards.statistics import Estimate, Facts, Metric, SeedKey, higher_is_better
from search_spaces.names import Split
from search_spaces.source_specs import (
    ByScaleSource,
    CheckpointSource,
    GaborSpec,
    RandomSource,
    TimmSource,
    TransformSource,
    TrialSource,
)
from search_spaces.study import Study

Overlap = Literal["no", "possible", "yes"]

_OVER_IMAGES = (Metric.ACCURACY, Metric.NLL, Metric.BRIER)
_LEAST_NAME = 4
"""Least letters of a name that, as the start of another, is taken for the same data set: ``chexpert_5k``."""


def contrast_facts(
    evidence: Evidence,
    task: TaskView,
    cell: CellKey,
    base: CellKey,
    set_name: str,
    estimate: Estimate,
    paired: Paired,
    lost: Collection[SeedKey],
) -> Facts:
    """What is known of a contrast, all but what only the whole family can tell (``external``, ``holds_at_chance``).

    Args:
        evidence: The study.
        task: The task.
        cell: The source's cell.
        base: The baseline's.
        set_name: Evaluation set.
        estimate: Source minus baseline.
        paired: Its runs.
        lost: Planned trials of both sides without a result; one entry per trial.
    """
    sign = 1 if higher_is_better(task.estimates.metric) else -1
    loser = base if sign * estimate.value > 0 else cell
    classes = {run.classes for runs in paired.runs for run in runs.values()}
    return Facts(
        n_seeds=estimate.n_seeds,
        min_patients=_rarest_patients(task, set_name, estimate),
        seeds_only=estimate.seeds_only,
        patients_known=_both([task.facts[side]["patients_known"] for side in (cell, base)]),
        shared_patients=task.estimates.shared_patients.get(set_name),
        near_copies=_near_copies(task, (cell, base), set_name),
        upstream_overlap=_worst([_overlap(evidence.study, task, c, set_name) for c in (cell, base)]),
        paired=True if paired.sure else None,
        class_set_frozen=len(classes) == 1,
        selected_on="validation" if _has_validation(task, cell) and _has_validation(task, base) else None,
        lost_trials=len(lost),
        losing_side=loser[1],
        still_rising=_known(task.facts[loser]["still_rising"]),
        seeds_added=evidence.seeds_added,
    )


def _rarest_patients(task: TaskView, set_name: str, estimate: Estimate) -> int:
    """Patients of the rarest class; a mean over all images counts none by class, so for it the set's design does."""
    of_design = task.estimates.sizes[set_name].get("rarest_patients")
    if not estimate.n_seeds and of_design is not None:  # no pair of runs says nothing of the set
        return int(of_design)
    over_images = task.estimates.metric.partition(".")[0] in _OVER_IMAGES
    return min(estimate.min_patients, of_design) if over_images and of_design is not None else estimate.min_patients


def _both(known: Sequence[bool | None]) -> bool | None:
    """False if it is not so on a side, None if that is not known of a side, else True."""
    if False in known:
        return False
    return None if None in known else True


def _has_validation(task: TaskView, cell: CellKey) -> bool:
    """Trials select on their validation images alone; results of others without any do not say what they chose on."""
    return bool(task.facts[cell]["val_images"] > 0)


def _recorded(task: TaskView, cell: CellKey, set_name: str, column: str) -> list[Any]:
    """What the plan noted about a set, of each trial of a cell; None where it noted nothing."""
    notes = task.estimates.rows.loc[list(task.cells[cell].values()), column]
    return [note.get(set_name) if isinstance(note, dict) else None for note in notes]


def _near_copies(task: TaskView, cells: Sequence[CellKey], set_name: str) -> int | None:
    """The most that is recorded; None if nobody looked for one of the trials."""
    found = [count for cell in cells for count in _recorded(task, cell, set_name, "near_copies")]
    return None if None in found else max(found)


def _overlap(study: Study | None, task: TaskView, cell: CellKey, set_name: str) -> Overlap | None:
    """As the plan knew it; where it did not, by what the study declares now."""
    known = _worst(_recorded(task, cell, set_name, "upstream_overlap"))
    return known or upstream_overlap(study, cell[1], cell[0], task.estimates.task)


def _known(share: float) -> float | None:
    return None if math.isnan(share) else share


def upstream_overlap(study: Study | None, source: str, scale: str, task: str) -> Overlap | None:
    """Whether a source may have seen the task's images, as far as the study declares what it was trained on.

    Args:
        study: The study file; without it nothing is known.
        source: Name of the source.
        scale: Its scale.
        task: Name of the task.

    Returns:
        ``no``, ``possible`` (a declared data set has the name of one of the task's manifests), or None (not declared).
    """
    if study is None or task not in study.tasks:
        return None
    contents = declared_contents(study, source, scale)
    if contents is None:
        return None
    spec = study.tasks[task]
    ours = {spec.manifest, *(of.manifest for of in spec.evaluate.values() if of.manifest)}
    return "possible" if any(_same_data_set(a, b) for a in contents for b in ours) else "no"


def declared_contents(study: Study, source: str, scale: str) -> frozenset[str] | None:
    """Names of the data sets that weights have seen beside the study's own tasks; None if nothing is declared."""
    try:
        found = study.source(source)
    except KeyError:
        return None
    if isinstance(found, RandomSource | GaborSpec):  # drawn from no image
        return frozenset()
    if isinstance(found, TransformSource):
        return declared_contents(study, found.of, scale)
    if isinstance(found, TrialSource):
        upstream = found.trial.model_scale
        return declared_contents(study, found.trial.pretraining_source, scale if upstream == "same" else upstream)
    if isinstance(found, ByScaleSource):
        if scale not in found.by_scale:
            return None
        found = found.by_scale[scale]
    assert isinstance(found, CheckpointSource | TimmSource)
    return frozenset(found.contents) or None


def _same_data_set(a: str, b: str) -> bool:
    first, second = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (a, b))
    shorter, longer = sorted((first, second), key=len)
    return first == second or (len(shorter) >= _LEAST_NAME and longer.startswith(shorter))


def _worst(overlaps: list[Overlap | None]) -> Overlap | None:
    if "yes" in overlaps:
        return "yes"
    if "possible" in overlaps:
        return "possible"
    return None if None in overlaps else "no"


def is_external(study: Study | None, task: str, set_name: str) -> bool:
    """Whether a set holds patients of another site: another manifest, rows of a site, or the split ``external``."""
    if study is None or task not in study.tasks or set_name == IN_DOMAIN:
        return False
    spec = study.tasks[task].evaluate.get(set_name)
    if spec is None:
        return False
    other = spec.manifest not in (None, study.tasks[task].manifest)
    return other or "site" in spec.where or spec.split == (str(Split.EXTERNAL),)
