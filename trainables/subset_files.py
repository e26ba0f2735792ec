"""The subsets that trials were trained on, kept once in the storage for all scales, sources and initialisations.

``subsets/<task>-<order hash>.parquet`` holds the order of the patients, ``<task>-<order hash>-<subset hash>.json``
which of them a subset takes; ``trial.json`` names both hashes. They hold what follows from their names, as trials of
several seeds, amounts and label policies share them; all else about a subset is in ``trial.json``. Where validation is
scaled, what is drawn of it is kept in the same way, and ``trial.json`` names its subset hash (``val_hash``). Patients
are keyed hashes, the same as in predictions.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search_spaces.identity import SUBSET_RULE
from search_spaces.names import Column
from trainables.manifest import Manifest
from trainables.storage import Storage
from trainables.subsets import PatientOrder, Subset


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnSubset:
    """A subset with what it was drawn from.

    Attributes:
        manifest: Whose patients they are.
        manifest_hash: Its content hash.
        order: Of the patients.
        subset: The subset.
    """

    manifest: Manifest
    manifest_hash: str
    order: PatientOrder
    subset: Subset


def keep_subset(storage: Storage, drawn: DrawnSubset) -> None:
    """Write the files of a subset, unless they are there; their content follows from their names.

    Raises:
        OSError: The storage cannot be written.
    """
    order = f"{drawn.manifest_hash[:16]}-{drawn.order.order_hash}"
    storage.put_subset(f"{order}.parquet", lambda: _order_bytes(drawn))
    storage.put_subset(f"{order}-{drawn.subset.subset_hash}.json", lambda: _subset_bytes(drawn))


def _order_bytes(drawn: DrawnSubset) -> bytes:
    hashed = [drawn.manifest.hashed(patient) for patient in drawn.order.patients]
    facts = {"rule": SUBSET_RULE, "order_hash": drawn.order.order_hash}
    table = pa.table({Column.PATIENT_ID: hashed})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"scalecurves": json.dumps(facts)}), buffer)
    return buffer.getvalue()


def _subset_bytes(drawn: DrawnSubset) -> bytes:
    """``prefix`` patients from the start of the order, and the further places (from 0) that are taken in as well."""
    subset = drawn.subset
    outside = np.flatnonzero(subset.places != np.arange(len(subset.places)))
    prefix = int(outside[0]) if len(outside) else len(subset.places)
    facts = {
        "rule": SUBSET_RULE,
        "order_hash": subset.order_hash,
        "subset_hash": subset.subset_hash,
        "prefix": prefix,
        "further": subset.places[prefix:].tolist(),
        "patients": subset.patients,
        "images": len(subset.rows),
        "pool_patients": subset.pool_patients,
    }
    return json.dumps(facts, indent=2).encode()
