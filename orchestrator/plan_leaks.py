"""Whether what a plan scores was trained on before: by the source's own trials, by its weights, or in a near copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from orchestrator.plan_data import Findings, PlanData, chain
from search_spaces.exceptions import DataError
from search_spaces.expand import Trial
from search_spaces.names import Column, Role
from search_spaces.resolve import Resolver
from trainables.evaluation_sets import EvaluationRows, TaskRows
from trainables.image_hashes import ImageHashes, Side, near_copies, remembered_hashes
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.same_patients import ids_compare


@dataclass(slots=True, kw_only=True)
class SeenImages:
    """Images of evaluation sets that were found on the other side.

    Attributes:
        alike: (task, evaluation set, upstream task) with images equal byte for byte.
        apart: (task, evaluation set, upstream task) of two manifests whose patients could be compared, and differ.
        near: Task -> evaluation set -> images that are copies or near copies of training or validation images; a set
            is missing where the hashes of its images are not known.
    """

    alike: set[tuple[str, str, str]] = field(default_factory=set)
    apart: set[tuple[str, str, str]] = field(default_factory=set)
    near: dict[str, dict[str, int]] = field(default_factory=dict)


def find_leaks(data: PlanData, trials: Iterable[Trial], library: TaskLibrary, found: Findings) -> SeenImages:
    """A trial must not start from weights that have seen what it is scored on.

    Patients of one manifest, or of two whose ids compare, and files under one path are a problem; images of equal
    content under other paths are noted, as blank images are equal, too.
    """
    seen = SeenImages()
    targets = [t for t in trials if t.role is Role.TARGET]
    pairs = {(t.cell.task, link.cell.task): None for t in targets for link in chain(t)[1:]}
    images = _Images(library)
    for task, upstream in pairs:
        target, source = data.rows.get(task), data.rows.get(upstream)
        if target is None or source is None or task == upstream:
            continue
        for name, rows in target.sets.items():
            same, alike = images.shared(rows, source)
            place = f"evaluation set {name!r} of task {task!r}"
            if same:
                found.problem(
                    f"{place}: {same} of its {len(rows.positions)} images are of {source.manifest.grouping}s, or in "
                    f"files, that its source's task {upstream!r} trains or selects on. Give {upstream!r} the same "
                    "held_out set or a where that leaves them out, or import both with splits that keep them apart"
                )
                continue
            if ids_compare(rows.manifest, source.manifest):
                seen.apart.add((task, name, upstream))
            if alike:
                seen.alike.add((task, name, upstream))
                found.notes.append(
                    f"{place}: {alike} of its {len(rows.positions)} images are equal, byte for byte, to images that "
                    f"its source's task {upstream!r} trains or selects on"
                )
    for task in dict.fromkeys(t.cell.task for t in targets):
        _find_near_copies(task, data, library, found, seen)
    return seen


def note_contents(resolver: Resolver, trials: Iterable[Trial], found: Findings) -> None:
    """Note which sources may have seen what a task is scored on, by the names of data sets that they declare."""
    notes: dict[tuple[str, str, str], list[str]] = {}
    undeclared: dict[str, None] = {}
    targets = {(t.cell.pretraining_source, t.cell.model_scale, t.cell.task): t for t in trials if t.role is Role.TARGET}
    for (source, _, task), trial in targets.items():
        for name, overlap in resolver.overlaps(trial).items():
            if overlap.overlap is None:
                undeclared.setdefault(source)
            elif overlap.reason:
                sets = notes.setdefault((source, task, overlap.reason), [])
                sets += [name] if name not in sets else []
    for (source, task, reason), sets in notes.items():
        found.notes.append(
            f"source {source!r} may have seen images of task {task!r} ({', '.join(sets)}): {reason}; "
            "what is found with it is held back accordingly"
        )
    if undeclared:
        found.notes.append(
            f"what these sources were trained on is not declared: {', '.join(undeclared)}. Name the data sets in their "
            "contents, or overlap with the tasks counts as possible"
        )


def _find_near_copies(task: str, data: PlanData, library: TaskLibrary, found: Findings, seen: SeenImages) -> None:
    """Note images of evaluation sets that look like images of training or validation, where hashes are known."""
    rows = data.rows.get(task)
    if rows is None:
        return
    manifests = {rows.manifest, *(of_set.manifest for of_set in rows.sets.values())}
    hashes = {manifest: remembered_hashes(library, manifest) for manifest in manifests}
    _note_unchecked(task, rows, hashes, found)
    known = hashes[rows.manifest]
    if known is None:
        return
    learnt = Side(rows.manifest, known, np.concatenate([rows.train, rows.val]))
    for name, of_set in rows.sets.items():
        theirs = hashes[of_set.manifest]
        if theirs is None:
            continue
        try:
            pairs = near_copies(library, Side(of_set.manifest, theirs, of_set.positions), learnt)
        except DataError as error:
            found.problem(str(error))
            continue
        count = int(pairs["row"].nunique())
        seen.near.setdefault(task, {})[name] = count
        if count:
            found.notes.append(
                f"evaluation set {name!r} of task {task!r}: {count} of its {len(of_set.positions)} images are copies "
                "or near copies of images that the task trains or selects on (tasks check names them)"
            )


def _note_unchecked(task: str, rows: TaskRows, hashes: Mapping[Manifest, ImageHashes | None], found: Findings) -> None:
    """Note the evaluation sets in which nobody can look for near copies, and what to run first."""
    sides = {name: (rows.manifest, of_set.manifest) for name, of_set in rows.sets.items()}
    unchecked = [name for name, both in sides.items() if any(hashes[manifest] is None for manifest in both)]
    if not unchecked:
        return
    names = dict.fromkeys(m.name for name in unchecked for m in sides[name] if hashes[m] is None)
    commands = " and ".join(f"python -m orchestrator.tasks check {name}" for name in names)
    found.notes.append(
        f"near copies of training images are not checked in evaluation sets {', '.join(map(repr, unchecked))} of task "
        f"{task!r}: their images have not been read since they were imported or changed. Run {commands} before the "
        "study, or its reports hold back what they say"
    )


class _Images:
    """Where the images of manifests lie and what they hold, looked up once."""

    def __init__(self, library: TaskLibrary) -> None:
        self._library = library
        self._known: dict[tuple[str, str], pd.DataFrame] = {}

    def shared(self, rows: EvaluationRows, source: TaskRows) -> tuple[int, int]:
        """Images of an evaluation set that a task has seen: by patient or place, and by content under other paths."""
        seen = np.concatenate([source.train, source.val])
        own = rows.manifest.key == source.manifest.key
        of_seen = np.zeros(len(rows.positions), dtype=bool)
        if own or ids_compare(rows.manifest, source.manifest):
            patients = rows.manifest.table[Column.PATIENT_ID].iloc[rows.positions].astype(str)
            trained = source.manifest.table[Column.PATIENT_ID].iloc[seen].astype(str)
            of_seen = patients.isin(set(trained)).to_numpy(dtype=bool)
        if own:
            return int(of_seen.sum()), 0
        here = self._of(rows.manifest).iloc[rows.positions]
        there = self._of(source.manifest).iloc[seen]
        same = here["place"].isin(set(there["place"])) | of_seen
        alike = here["sha256"].isin(set(there["sha256"])) & ~same
        return int(same.sum()), int(alike.sum())

    def _of(self, manifest: Manifest) -> pd.DataFrame:
        """Columns place (path and frame) and sha256, a row per image."""
        if manifest.key not in self._known:
            resolved: dict[str, str] = {}
            places = []
            for row in range(len(manifest)):
                file = manifest.file(row)
                folder = resolved.setdefault(str(file.parent), str(file.parent.resolve()))
                places.append(f"{folder}/{file.name}#{manifest.frame(row)}")
            self._known[manifest.key] = self._library.byte_digests(manifest).assign(place=places)
        return self._known[manifest.key]
