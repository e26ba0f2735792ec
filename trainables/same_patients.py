"""Whether the patient ids of two manifests mean the same persons, so that they can be compared."""

from __future__ import annotations

from search_spaces.names import Column
from trainables.manifest import Manifest

_MAP = "map "
"""What an importer's name begins with when the name of a data set's column map follows."""


def ids_compare(one: Manifest, other: Manifest) -> bool:
    """Whether equal ids of two manifests mean one patient, and different ids two.

    So it is where one shipped column map read both: a release names its patients once, whatever labels or views were
    chosen. A map of a user's own may read the exports of many hospitals: what it read compares within one folder, and
    elsewhere if images that both name are of the same patient in both. Other tables need both, the folder and such
    images. Elsewhere nothing is known: ``p1`` of two hospitals are two persons.
    """
    if not (one.patients_known and other.patients_known) or one.grouping != other.grouping:
        return False
    if one.importer != other.importer:
        return False
    from trainables.importers.catalogue import shipped_names  # here, as `status` needs none of the importers

    one_folder = str(one.root) == str(other.root)
    if one.importer.startswith(_MAP):
        shipped = one.importer.removeprefix(_MAP) in shipped_names()
        return shipped or one_folder or _shared_images_agree(one, other)
    return one_folder and _shared_images_agree(one, other)


def _shared_images_agree(one: Manifest, other: Manifest) -> bool:
    columns = [Column.PATH, Column.PATIENT_ID]
    shared = one.table[columns].drop_duplicates().merge(other.table[columns].drop_duplicates(), on=Column.PATH)
    left, right = (shared[f"{Column.PATIENT_ID}{suffix}"].astype(str) for suffix in ("_x", "_y"))
    return bool(len(shared)) and bool((left == right).all())
