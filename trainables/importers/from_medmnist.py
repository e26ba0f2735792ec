"""Import of one file of MedMNIST: what its labels mean follows from its name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search_spaces.exceptions import UserError
from trainables.importers.assemble import counts_to_expect
from trainables.importers.column_map import ColumnMap, NpzSet
from trainables.importers.from_npz import import_npz
from trainables.importers.options import ImportOptions, Tell, silent
from trainables.manifest import Manifest
from trainables.places import is_folder
from trainables.release_counts import counts_like

if TYPE_CHECKING:
    from trainables.places import Place

_SUFFIX = ".npz"


def import_medmnist(column_map: ColumnMap, path: Place, options: ImportOptions, tell: Tell = silent) -> Manifest:
    """The manifest of an npz file, with the class names, kind and counts of the set that the file is named after.

    A name may go on after the set's, as in ``pathmnist_224.npz``. Of a file with another name no more is known than
    ``import_npz`` finds.

    Args:
        column_map: What each set holds.
        path: The file.
        options: What ``import_npz`` takes; ``classes``, ``kind`` and ``positive`` go before those of the set.
        tell: Hears what was detected and decided.

    Raises:
        UserError: It is a folder, or what ``import_npz`` refuses.
    """
    if is_folder(path):
        found = ", ".join(sorted(f.name for f in path.glob(f"*{_SUFFIX}"))) or "none"
        raise UserError(f"{path} is a folder; give one of its {_SUFFIX} files: {found}")
    stem = path.name.removesuffix(_SUFFIX)
    name = stem.partition("_")[0]
    held = column_map.sets.get(name)
    if held is None:
        known = ", ".join(column_map.sets)
        tell(f"{path.name} is named after no set that is known ({known}): --classes names its labels")
        manifest = import_npz(path, options, tell)
        return replace(manifest, notes=(*column_map.about.notes, *manifest.notes))
    tell(f"{path.name} is taken for {held.title}")
    manifest = import_npz(path, _options(held, options), tell)
    return replace(
        manifest,
        importer=f"map {column_map.name}",
        expected=counts_to_expect(_expected(held, manifest), options.split_column),
        notes=(*column_map.about.notes, *held.notes, *manifest.notes),
    )


def _options(held: NpzSet, options: ImportOptions) -> ImportOptions:
    kind = options.kind or held.kind
    if options.classes:
        return replace(options, kind=kind)
    return replace(options, kind=kind, classes=held.classes, positive=options.positive or held.positive)


def _expected(held: NpzSet, manifest: Manifest) -> dict[str, int]:
    """The counts of the version that the file is, of the newest if it is none."""
    versions = [version.flat() for version in held.expected]
    same = (version for version in versions if counts_like(manifest, version) == version)
    return next(same, versions[0] if versions else {})
