"""Whether the images of an evaluation set can be scored by examination or patient."""

from __future__ import annotations

from typing import Any

import pandas as pd
from numpy.typing import NDArray

from search_spaces.exceptions import UserError
from search_spaces.names import MISSING_CLASS, Column, Kind, Unit
from search_spaces.study import EvaluationSetSpec
from trainables.manifest import Manifest


def check_units(
    spec: EvaluationSetSpec, manifest: Manifest, positions: NDArray[Any], targets: NDArray[Any], kind: Kind, place: str
) -> None:
    """Refuse what has no answer.

    Args:
        spec: The evaluation set as written.
        manifest: Whose rows are scored.
        positions: These rows.
        targets: Their truth; (images,) classes or (images, labels).
        kind: The task's kind.
        place: Of the set in the study, for messages.

    Raises:
        UserError: The manifest does not know patients or examinations, or a unit has images of several classes.
    """
    if spec.aggregate is Unit.IMAGE:
        return
    if not manifest.patients_known:
        raise UserError(f"{place}.aggregate: {spec.aggregate}: manifest {manifest.name!r} does not know patients")
    table = manifest.table.iloc[positions]
    keys = [Column.PATIENT_ID]
    if spec.aggregate is Unit.STUDY:
        if Column.STUDY_ID not in table:
            raise UserError(
                f"{place}.aggregate: study: manifest {manifest.name!r} has no examinations; import it with "
                "--study-column, or aggregate by patient"
            )
        if blank := int(table[Column.STUDY_ID].isna().sum()):
            raise UserError(f"{place}.aggregate: study: {blank} of its {len(table)} images have no examination")
        keys.append(Column.STUDY_ID)
    if kind is Kind.MULTICLASS:
        _refuse_mixed(table[keys].assign(y=targets), keys, spec, place)


def _refuse_mixed(rows: pd.DataFrame, keys: list[str], spec: EvaluationSetSpec, place: str) -> None:
    classes = rows[rows["y"] != MISSING_CLASS].groupby(keys)["y"].nunique()
    if mixed := int((classes > 1).sum()):
        unit = "examinations" if spec.aggregate is Unit.STUDY else "patients"
        raise UserError(
            f"{place}.aggregate: {spec.aggregate}: {mixed} of {len(classes)} {unit} have images of several classes, so "
            "they have no class as a whole; aggregate by what has one, or score images"
        )
