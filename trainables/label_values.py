"""From the label columns of a manifest to what a task trains and is scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exceptions import UserError, unknown
from search_spaces.label_maps import joined_labels
from search_spaces.label_policy import SMOOTHED, BlankPolicy, LabelPolicy, PolicyName, policy_of
from search_spaces.names import MISSING_CLASS, UNCERTAIN, Column, Kind
from trainables.manifest import CLASS_KINDS, Manifest

Columns = Mapping[str, str | None]
"""Label (class) of the task -> label (class) of the manifest that says so; None where it says nothing."""


def matched_labels(
    labels: Sequence[str], kind: Kind, manifest: Manifest, label_map: str | Mapping[str, str] | None, where: str
) -> dict[str, str | None]:
    """Which label of a manifest stands for each label of a task.

    Args:
        labels: The task's labels (classes).
        kind: The task's kind.
        manifest: Whose labels are looked up.
        label_map: The task's label -> the manifest's; or the name of a shipped map, of which the labels count that
            both sides have; equal names if not given.
        where: What asks, for messages.

    Raises:
        UserError: A label of a written map that either side lacks, no shared label, a shipped map the wrong way round,
            or kinds that cannot be compared.
    """
    _refuse_other_kind(kind, manifest, where)
    named = _named_labels(labels, manifest, label_map, where)
    columns = {label: named.get(label) for label in labels}
    if not any(columns.values()):
        raise UserError(
            f"{where}: no shared labels. The task has {', '.join(labels)}; manifest {manifest.name!r} "
            f"({manifest.kind}) has {', '.join(manifest.labels)}. Join them with label_map: {{task label: its label}}"
        )
    used = [other for other in columns.values() if other is not None]
    if kind in CLASS_KINDS and manifest.kind in CLASS_KINDS and len(set(used)) < len(used):
        twice = sorted({other for other in used if used.count(other) > 1})
        raise UserError(f"{where}: label_map gives {', '.join(twice)} to several classes; each may be given once")
    return columns


def _refuse_other_kind(kind: Kind, manifest: Manifest, where: str) -> None:
    if kind in CLASS_KINDS and manifest.kind not in CLASS_KINDS:
        raise UserError(
            f"{where}: a {kind} task cannot be scored on manifest {manifest.name!r}, which is {manifest.kind}: "
            "its images have no single class"
        )
    if (kind is Kind.SEGMENTATION) != (manifest.kind is Kind.SEGMENTATION):
        raise UserError(
            f"{where}: a {kind} task cannot be scored on manifest {manifest.name!r}, which is {manifest.kind}: masks "
            "and labels of images do not compare"
        )


def _named_labels(
    labels: Sequence[str], manifest: Manifest, label_map: str | Mapping[str, str] | None, where: str
) -> Mapping[str, str]:
    """The task's label -> the manifest's, as a map says; of a shipped one both sides may lack some."""
    if label_map is None:
        return {label: label for label in manifest.labels}
    if isinstance(label_map, str):
        try:
            return joined_labels(label_map, labels, manifest.labels)
        except ValueError as error:
            raise UserError(f"{where}.label_map: {error}") from error
    for label, other in label_map.items():
        if label not in labels:
            raise UserError(unknown("label of the task", label, labels, f"{where}.label_map"))
        if other not in manifest.labels:
            raise UserError(
                unknown(f"label of manifest {manifest.name!r}", other, manifest.labels, f"{where}.label_map")
            )
    return label_map


def raw_values(
    manifest: Manifest, columns: Columns, kind: Kind, presence: NDArray[np.float32] | None = None
) -> NDArray[Any]:
    """Labels as the manifest has them, in the task's order, for all its rows.

    Args:
        manifest: Whose labels.
        columns: See ``matched_labels``.
        kind: The task's kind.
        presence: Of a manifest of masks: what they show, see ``trainables.mask_labels.mask_presence``.

    Returns:
        Of a binary or multilabel task (rows, labels) float32: 1, 0, -1 (uncertain), NaN (blank, or no such label); of a
        segmentation task the same of what the masks show.
        Of a multiclass or ordinal task (rows,) int64: position in the task's classes, -1 for any other or none.
    """
    if kind in CLASS_KINDS:
        positions = np.full(len(manifest.labels) + 1, MISSING_CLASS, dtype=np.int64)
        for position, other in enumerate(columns.values()):
            if other is not None:
                positions[manifest.labels.index(other)] = position
        # The table's unknown class, -1, reads the last entry.
        return np.asarray(positions[manifest.table[Column.Y].to_numpy(dtype=np.int64)])
    values = np.full((len(manifest), len(columns)), np.nan, dtype=np.float32)
    for k, other in enumerate(columns.values()):
        if other is not None:
            values[:, k] = (
                _one_label(manifest, other) if presence is None else presence[:, manifest.labels.index(other)]
            )
    return values


def _one_label(manifest: Manifest, label: str) -> NDArray[np.float32]:
    """A column of a label; of a manifest of classes, whether the image is of that class."""
    if manifest.kind not in CLASS_KINDS:
        return manifest.table[Column.LABEL_PREFIX + label].to_numpy(dtype=np.float32)
    y = manifest.table[Column.Y].to_numpy()
    return np.where(y == MISSING_CLASS, np.nan, y == manifest.labels.index(label)).astype(np.float32)


def scored_values(raw: NDArray[Any]) -> NDArray[Any]:
    """Targets of an evaluation: uncertain labels are masked, whatever the policy in training."""
    return raw if raw.ndim == 1 else np.where(raw == UNCERTAIN, np.float32(np.nan), raw)


_STANDS_FOR: dict[PolicyName, float] = {
    "ignore": np.nan,
    "ones": 1.0,
    "zeros": 0.0,
    **{policy: (low + high) / 2 for policy, (low, high) in SMOOTHED.items()},
}
"""Target of an uncertain label; U-Ignore, U-Ones and U-Zeros of Irvin et al. 2019. Of a label that is drawn at each
access the middle of the draws, which ``trainables.soft_labels`` draws around."""


def trained_values(
    raw: NDArray[Any], labels: Sequence[str], policy: LabelPolicy, blank: BlankPolicy = "mask"
) -> NDArray[Any]:
    """Targets of training.

    Args:
        raw: As ``raw_values`` gives them.
        labels: Of the columns of ``raw``.
        policy: What an uncertain label is.
        blank: Whether a blank one is masked or 0.
    """
    if raw.ndim == 1:
        return raw
    stands_for = np.array([_STANDS_FOR[policy_of(policy, label)] for label in labels], dtype=np.float32)
    known = np.where(np.isnan(raw), np.float32(0), raw) if blank == "zero" else raw
    return np.where(raw == UNCERTAIN, stands_for, known)


def any_known(targets: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows have at least one label that is not masked, shape (rows,)."""
    return np.asarray(targets != MISSING_CLASS if targets.ndim == 1 else ~np.isnan(targets).all(axis=1))
