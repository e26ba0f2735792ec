"""What a task holds against what the release of its data set holds."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from search_spaces.names import MISSING_CLASS, Column, Split
from trainables.manifest import CLASS_KINDS, Manifest, label_columns

_SHOWN = 6


def release_note(manifest: Manifest) -> str | None:
    """In words, whether this is the whole release; None where it is not known what that holds.

    Validation that was drawn from the release's training images counts as training.
    """
    if not manifest.expected:
        return None
    found = counts_like(manifest, manifest.expected)
    differing = {name: count for name, count in manifest.expected.items() if found[name] != count}
    if not differing:
        return f"all counts as released ({_words(manifest.expected)})"
    shown = [f"{_named(name)} {found[name]} of {count}" for name, count in list(differing.items())[:_SHOWN]]
    more = f", ... ({len(differing)} counts differ)" if len(differing) > _SHOWN else ""
    more_than_released = any(found[name] > count for name, count in differing.items())
    what = "other than the release" if more_than_released else "a partial copy"
    return f"{what}: {', '.join(shown)}{more}"


def counts_like(manifest: Manifest, expected: Mapping[str, int]) -> dict[str, int]:
    """The manifest's counts of what ``expected`` names."""
    splits = manifest.table[Column.SPLIT]
    if f"split.{Split.VAL.value}" not in expected:
        splits = splits.replace({Split.VAL.value: Split.TRAIN.value})
    counts: dict[str, int] = {}
    for name in expected:
        what, _, rest = name.partition(".")
        if what == "images":
            counts[name] = len(manifest)
        elif what == "patients":
            counts[name] = int(manifest.table[Column.PATIENT_ID].nunique())
        elif what == "split":
            counts[name] = int((splits == rest).sum())
        else:
            label, split = (rest, None)
            head, _, tail = rest.rpartition(".")
            if tail in set(Split) and head in manifest.labels:
                label, split = head, tail
            counts[name] = _positives(manifest, label, None if split is None else splits == split)
    return counts


def _positives(manifest: Manifest, label: str, rows: pd.Series[bool] | None) -> int:
    if label not in manifest.labels:
        return 0
    if manifest.kind in CLASS_KINDS:
        positive = manifest.table[Column.Y] == manifest.labels.index(label)
        positive &= manifest.table[Column.Y] != MISSING_CLASS
    elif label_columns(manifest.kind, manifest.labels):
        positive = manifest.table[f"{Column.LABEL_PREFIX}{label}"] == 1
    else:
        return 0
    return int((positive if rows is None else positive & rows).sum())


def _named(name: str) -> str:
    return name.removeprefix("split.").replace("label.", "label ")


def _words(expected: Mapping[str, int]) -> str:
    return ", ".join(f"{_named(name)} {count}" for name, count in list(expected.items())[:_SHOWN])
