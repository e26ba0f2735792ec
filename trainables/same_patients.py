"""Whether the patient ids of two manifests mean the same persons, so that they can be compared."""

from __future__ import annotations

from search_spaces.names import Column
from trainables.manifest import Manifest

_MAP = "map "
"""What an importer's name begins with when the name of a data set's column map follows."""


def ids_compare(one: Manifest, other: Manifest) -> bool:
    """Whether equal ids of two manifests mean one patient, and different ids two.

    So it is where one column map read both: a release names its patients once, whatever labels or views were chosen. So
    it is, too, for tables of one folder if images that both name are of the same patient in both. Elsewhere nothing is
    known: ``p1`` of two hospitals are two persons.
    """
    if not (one.patients_known and other.patients_known) or one.grouping != other.grouping:
        return False
    if one.importer != other.importer:
        return False
    return one.importer.startswith(_MAP) or (str(one.root) == str(other.root) and _shared_images_agree(one, other))


def _shared_images_agree(one: Manifest, other: Manifest) -> bool:
    columns = [Column.PATH, Column.PATIENT_ID]
    shared = one.table[columns].drop_duplicates().merge(other.table[columns].drop_duplicates(), on=Column.PATH)
    left, right = (shared[f"{Column.PATIENT_ID}{suffix}"].astype(str) for suffix in ("_x", "_y"))
    return bool(len(shared)) and bool((left == right).all())
