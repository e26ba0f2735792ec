"""What the last ``tasks check`` of a task found, check by check, as counts: nothing about single patients."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trainables.library import TaskLibrary
from trainables.manifest import Manifest

_FILE = "check.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSummary:
    """Counts of one ``tasks check``.

    Attributes:
        content_hash: Of the manifest and its images when they were checked; empty if files were missing.
        errors: What must be put right.
        warnings: What limits results.
        checks: Name of each check (``trainables.check_outcomes.Check``) -> number of its findings, 0 where it is
            passed; None where it was not run.
    """

    content_hash: str
    errors: int
    warnings: int
    checks: dict[str, int | None]


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
    is_whole = summary.content_hash != ""
    return summary if is_whole and summary.content_hash == library.content_hash(manifest) else None


def _file(library: TaskLibrary, manifest: Manifest) -> Path:
    return library.folder(manifest.name) / _FILE
