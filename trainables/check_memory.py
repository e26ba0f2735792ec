"""What the last ``tasks check`` of a task found, as counts: enough for the record, nothing about single patients."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trainables.library import TaskLibrary
from trainables.manifest import Manifest

_FILE = "check.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSummary:
    """Counts of one check.

    Attributes:
        content_hash: Of the manifest and its images when they were checked; empty if images could not be read.
        errors: What must be put right.
        warnings: What limits results.
        identical_sets: Sets of two and more images in use with equal bytes.
        near_copies: Images of test or external with a near copy, of other bytes, in train or val.
    """

    content_hash: str
    errors: int
    warnings: int
    identical_sets: int | None = None
    near_copies: int | None = None


def remember_check(library: TaskLibrary, manifest: Manifest, summary: CheckSummary) -> None:
    """Keep a check beside the manifest."""
    file = _file(library, manifest)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(summary)), encoding="utf-8")
    partial.replace(file)


def remembered_check(library: TaskLibrary, manifest: Manifest) -> CheckSummary | None:
    """The last check of a manifest whose content is still the same; None if there was none."""
    try:
        summary = CheckSummary(**json.loads(_file(library, manifest).read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # lost, damaged, or of another version: check again
    return summary if summary.content_hash == library.content_hash(manifest) else None


def _file(library: TaskLibrary, manifest: Manifest) -> Path:
    return library.folder(manifest.name) / _FILE
