"""Import of a folder with one subfolder per class, with or without a level of splits above."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd

from search_spaces.exceptions import UserError
from search_spaces.names import Column
from trainables.importers.assemble import SPLIT_NAMES, Found, assemble, files_under
from trainables.importers.labels import labels_from_cells
from trainables.importers.options import ImportOptions, Tell, silent
from trainables.manifest import Manifest, checked_root
from trainables.places import below

if TYPE_CHECKING:
    from trainables.places import Place


def import_folder(path: Place, options: ImportOptions, tell: Tell = silent) -> Manifest:
    """The manifest of ``<class>/**/<image>`` or ``<split>/<class>/**/<image>``.

    The first level holds splits if all its folders are named like splits (train, val, test, ...).

    Args:
        path: The folder.
        options: ``classes``, ``positive``, ``kind``, ``patient_pattern``, ``split``; columns do not apply.
        tell: Hears what was detected and decided.

    Raises:
        UserError: No folder, no images, images outside class folders only, or splits beside classes.
    """
    root = checked_root(path)
    images, others = files_under(root)
    parts = [tuple(below(image, root).split("/")) for image in images]
    first = {p[0] for p in parts if len(p) > 1}
    if not first:
        raise UserError(f"{path} has no images in subfolders; expected {path}/<class>/<image>")
    splits = {name for name in first if name.lower() in SPLIT_NAMES}
    if splits and splits != first:
        other = ", ".join(sorted(first - splits))
        raise UserError(
            f"{path} mixes splits ({', '.join(sorted(splits))}) and other folders ({other}); "
            "expected only classes or only splits"
        )
    level = 1 if splits else 0
    used = [(image, p) for image, p in zip(images, parts, strict=True) if len(p) > level + 1]
    _tell_left_out(len(images) - len(used), others, tell)
    if not used:
        raise UserError(f"{path} has splits but no classes; expected {path}/<split>/<class>/<image>")
    rows = pd.DataFrame({Column.IMAGE_ID: ["/".join(p) for _, p in used], Column.PATH: ["/".join(p) for _, p in used]})
    if splits:
        tell(f"split: folders {', '.join(sorted(splits))}")
        rows[Column.SPLIT] = [SPLIT_NAMES[p[0].lower()].value for _, p in used]
    classes = pd.Series([p[level] for _, p in used], dtype="str").astype(object)
    labels = labels_from_cells(classes, "class folder", options, tell)
    return assemble(Found(rows=rows, labels=labels, root=root, importer="folder"), options, tell)


def _tell_left_out(outside: int, others: Counter[str], tell: Tell) -> None:
    if outside:
        tell(f"{outside} images outside class folders are left out")
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        tell(f"{others.total()} files that are no images are left out ({kinds})")
    if others[".csv"]:
        tell("there is a table among them: with labels in a table, use the format csv")
