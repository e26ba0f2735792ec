"""The data card of a task: what it is trained and scored on, in counts, as JSON for the record and the report.

It holds no file names and no patients: no ids, no notes of imports, no words of checks (which name images), and no
value of a column that a single patient has. ``orchestrator.card_text`` writes it for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.plan import Plan
from orchestrator.plan_labels import label_rows
from search_spaces.names import SCHEMA_VERSION, UNCERTAIN, Column
from search_spaces.trial import ResolvedTask
from trainables.check_memory import remembered_check
from trainables.check_outcomes import Check
from trainables.evaluation_sets import EvaluationRows, TaskRows
from trainables.library import TaskLibrary
from trainables.manifest import Manifest, group_column, group_names
from trainables.release_counts import counts_like
from trainables.same_patients import ids_compare

MOST_GROUPS = 40
"""Values of one subgroup column that a card lists; the others are counted together."""


def data_cards(plan: Plan, library: TaskLibrary) -> dict[str, dict[str, Any]]:
    """Task -> its card, for all tasks of a plan without problems."""
    if plan.resolver is None:
        return {}
    resolver, fractions = plan.resolver, label_rows(plan.subsets)
    return {
        name: data_card(
            resolver.task(name), rows, [f for f in fractions if f["task"] == name], library, resolver.near_copies
        )
        for name, rows in plan.rows.items()
    }


def data_card(
    task: ResolvedTask,
    rows: TaskRows,
    fractions: list[dict[str, Any]],
    library: TaskLibrary,
    near_copies: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """The card of one task, as plain data.

    Args:
        task: The task.
        rows: Its rows.
        fractions: ``label_rows`` of the task.
        library: Where the last check is remembered.
        near_copies: Task -> evaluation set -> images with a near copy in training or validation, where looked for.
    """
    manifest = rows.manifest
    training = EvaluationRows(
        manifest=manifest,
        positions=rows.train,
        columns=rows.val_set.columns,
        raw=rows.train_raw,
        targets=rows.train_targets,
    )
    sets = {"training": training, "validation": rows.val_set, **rows.sets}
    return {
        "schema": SCHEMA_VERSION,
        "task": task.name,
        "manifest": manifest.name,
        "manifest_hash": task.manifest_hash,
        "importer": manifest.importer,
        "kind": task.kind,
        "labels": list(task.labels),
        "label_policy": task.label_policy,
        "blank": task.blank,
        "validation": task.validation,
        "patients_known": manifest.patients_known,
        "grouping": manifest.grouping,
        "left_out": rows.left_out,
        "sets": [_set(name, of, task) for name, of in sets.items()],
        "groups": [row for name, of in sets.items() for row in _groups(name, of, task)],
        "missing": [row for name, of in sets.items() for row in _missing(name, of)],
        "fractions": fractions,
        "shared_patients": _shared_patients(sets),
        "near_copies": {name: near_copies.get(task.name, {}).get(name) for name in rows.sets},
        "set_aside": dict(manifest.set_aside),
        "left_blank": dict(manifest.left_blank),
        "release": _release(manifest),
        "check": _check(library, manifest),
    }


def _release(manifest: Manifest) -> list[dict[str, Any]]:
    """What the release of the data set holds, and what is here; empty where the first is not known."""
    found = counts_like(manifest, manifest.expected)
    return [{"count": name, "released": count, "here": found[name]} for name, count in manifest.expected.items()]


def _check(library: TaskLibrary, manifest: Manifest) -> dict[str, Any] | None:
    """Counts of the last ``tasks check``, and each check's outcome; None if there was none of this content."""
    checked = remembered_check(library, manifest)
    if checked is None:
        return None
    copies = [checked.checks.get(check) for check in (Check.EVALUATION_COPIES, Check.OTHER_COPIES)]
    return {
        "errors": checked.errors,
        "warnings": checked.warnings,
        "identical_sets": None if None in copies else sum(count or 0 for count in copies),
        "near_copies": checked.checks.get(Check.NEAR_COPIES),
        "checks": [
            {"check": check.value, "outcome": _outcome(checked.checks[check]), "found": checked.checks[check]}
            for check in Check
            if check in checked.checks
        ],
    }


def _outcome(found: int | None) -> str:
    if found is None:
        return "not run"
    return "found" if found else "passed"


def _set(name: str, of: EvaluationRows, task: ResolvedTask) -> dict[str, Any]:
    spec = task.evaluate.get(name)
    patients = of.manifest.table[Column.PATIENT_ID].iloc[of.positions]
    return {
        "set": name,
        "manifest": of.manifest.name,
        "aggregation": spec.aggregation if spec else "none",
        "images": len(of.positions),
        "patients": int(patients.nunique()),
        "labels": [
            {
                "label": label,
                "positive": int((truth == 1).sum()),
                "negative": int((truth == 0).sum()),
                "positive_patients": int(patients[truth == 1].nunique()),
                "uncertain": int((truth == UNCERTAIN).sum()),
                "blank": int(np.isnan(truth).sum()),
            }
            for label, truth in _by_label(of.raw, task)
        ],
    }


def _by_label(raw: Any, task: ResolvedTask) -> Iterable[tuple[str, Any]]:
    """Label -> 1, 0, -1 and NaN of each image; a class against all others."""
    for k, label in enumerate(task.labels):
        yield label, np.where(raw < 0, np.nan, raw == k).astype(float) if raw.ndim == 1 else raw[:, k]


def _groups(name: str, of: EvaluationRows, task: ResolvedTask) -> Iterable[dict[str, Any]]:
    """Sex, age band, site, and the columns that the study asks for: others may hold what is nobody's business.

    A value that one patient alone has may be his name, so such values are counted together.
    """
    wanted = {Column.SEX, Column.AGE_BAND, Column.SITE, *(a.removeprefix(Column.GROUP_PREFIX) for a in task.groups)}
    table = of.manifest.table
    for column in (c for c in group_names(table) if c in wanted):
        values = group_column(table, column)
        named = _many_patients(values, table) if column not in (Column.SEX, Column.AGE_BAND) else set(values)
        own = values.iloc[of.positions]
        counts = own.value_counts()
        shown = [value for value in counts.index if value in named][:MOST_GROUPS]
        for value in shown:
            yield {"set": name, "column": column, "group": str(value), **_group(of, own == value, task)}
        rest = ~own.isin(shown)
        if rest.any():
            several = len(counts) - len(shown)
            yield {"set": name, "column": column, "group": f"{several} more", **_group(of, rest, task)}


def _many_patients(values: pd.Series[str], table: pd.DataFrame) -> set[str]:
    """Values that more than one patient of the manifest has."""
    pairs = pd.DataFrame({"value": values, "patient": table[Column.PATIENT_ID]}).drop_duplicates()
    patients = pairs["value"].value_counts()
    return set(patients.index[patients > 1])


def _group(of: EvaluationRows, rows: pd.Series[bool], task: ResolvedTask) -> dict[str, Any]:
    """Images, patients, and positive and negative images of each label, of some rows of a set."""
    inside = rows.to_numpy(dtype=bool)
    patients = of.manifest.table[Column.PATIENT_ID].iloc[of.positions[inside]]
    return {
        "images": int(inside.sum()),
        "patients": int(patients.nunique()),
        "labels": [
            {"label": label, "positive": int((truth == 1).sum()), "negative": int((truth == 0).sum())}
            for label, truth in _by_label(of.raw[inside], task)
        ],
    }


def _missing(name: str, of: EvaluationRows) -> Iterable[dict[str, Any]]:
    table = of.manifest.table.iloc[of.positions]
    for column in map(str, table):
        is_group = column.startswith(Column.GROUP_PREFIX)
        if is_group or column in (Column.SEX, Column.AGE_YEARS, Column.SITE, Column.STUDY_ID):
            plain = column.removeprefix(Column.GROUP_PREFIX)
            yield {"set": name, "column": plain, "missing": int(table[column].isna().sum()), "images": len(table)}


def _shared_patients(sets: Mapping[str, EvaluationRows]) -> list[dict[str, Any]]:
    """Patients that two sets share, where it is not nothing; of two manifests only where their ids compare."""
    patients = {name: _patient_ids(of) for name, of in sets.items()}
    names = list(patients)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if _comparable(sets[a], sets[b])]
    found = ((a, b, len(patients[a] & patients[b])) for a, b in pairs)
    return [{"sets": [a, b], "patients": n} for a, b, n in found if n]


def _comparable(a: EvaluationRows, b: EvaluationRows) -> bool:
    one, other = a.manifest, b.manifest
    return one is other or one.key == other.key or ids_compare(one, other)


def _patient_ids(of: EvaluationRows) -> set[str]:
    return set(of.manifest.table[Column.PATIENT_ID].iloc[of.positions].astype(str))
