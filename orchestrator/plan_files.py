"""The weight files that a plan needs: their hashes, and all that are missing with where they come from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.plan_data import Findings
from search_spaces.catalogue import find_entry, how_to_get, other_hash
from search_spaces.exceptions import UserError
from search_spaces.expand import Trial
from search_spaces.files import unset_variables
from search_spaces.source_specs import ByScaleSource, CheckpointSource, TransformSource
from search_spaces.study import Study


def file_hashes(study: Study, trials: Iterable[Trial], found: Findings) -> dict[str, str]:
    """File -> sha256 of all checkpoints that trials start from.

    Args:
        study: Names the files.
        trials: Those of the plan.
        found: Takes one problem per file that is missing or cannot be read, with where published ones come from, and
            notes of files that are not, byte for byte, those published.
    """
    hashes: dict[str, str] = {}
    wanted: dict[str, tuple[str, CheckpointSource]] = {}
    for source, scale in dict.fromkeys((t.cell.pretraining_source, t.cell.model_scale) for t in trials):
        if (named := _checkpoint(study, source, scale)) is not None:
            wanted.setdefault(named[1].file, named)
    for file, (where, checkpoint) in wanted.items():
        try:
            hashes[file] = _hash(file, where)
        except UserError as error:
            found.problem(f"{error}{_origin(checkpoint)}")
            continue
        if other := other_hash(checkpoint.catalogue, hashes[file]):
            found.notes.append(f"{where}: {other}")
    return hashes


def _hash(file: str, where: str) -> str:
    from trainables.hashing import file_sha256

    if unset := unset_variables(file):
        raise UserError(f"{where}: file {file}: environment variable {', '.join(unset)} is not set")
    return file_sha256(Path(file), where)


def _origin(checkpoint: CheckpointSource) -> str:
    """Where a published file comes from, if it is not there."""
    if checkpoint.catalogue is None or Path(checkpoint.file).exists():
        return ""
    return f". {how_to_get(find_entry(checkpoint.catalogue))}"


def _checkpoint(study: Study, name: str, scale: str) -> tuple[str, CheckpointSource] | None:
    """What names the file that a source starts from, transforms followed, and how it is read; None if there is none."""
    source: Any = study.source(name)
    if isinstance(source, TransformSource):
        return _checkpoint(study, source.of, scale)
    if isinstance(source, ByScaleSource):
        source = source.by_scale[scale]
    if not isinstance(source, CheckpointSource):
        return None
    return f"sources.{name} for scale {scale}", source
