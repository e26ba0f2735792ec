"""The data card of a task: what it is trained and scored on, in counts. JSON for the report, Markdown for people.

It holds no file names and no patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from orchestrator.plan import Plan
from orchestrator.plan_labels import label_rows, range_text
from search_spaces.identity import digest
from search_spaces.names import SCHEMA_VERSION, UNCERTAIN, Column
from search_spaces.trial import ResolvedTask
from trainables.check_memory import remembered_check
from trainables.evaluation_sets import EvaluationRows, TaskRows
from trainables.library import TaskLibrary
from trainables.manifest import Manifest, group_column, group_names

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
    checked = remembered_check(library, manifest)
    return {
        "schema": SCHEMA_VERSION,
        "task": task.name,
        "manifest": task.manifest,
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
        "groups": [row for name, of in sets.items() for row in _groups(name, of, task.groups)],
        "missing": [row for name, of in sets.items() for row in _missing(name, of)],
        "fractions": fractions,
        "shared_patients": _shared_patients(sets),
        "near_copies": {name: near_copies.get(task.name, {}).get(name) for name in rows.sets},
        "check": None
        if checked is None
        else {
            "errors": checked.errors,
            "warnings": checked.warnings,
            "identical_sets": checked.identical_sets,
            "near_copies": checked.near_copies,
        },
    }


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


def _groups(name: str, of: EvaluationRows, asked: Iterable[str]) -> Iterable[dict[str, Any]]:
    """Sex, age band, site, and the columns that the study asks for: others may hold what is nobody's business."""
    table = of.manifest.table.iloc[of.positions]
    wanted = {Column.SEX, Column.AGE_BAND, Column.SITE, *(a.removeprefix(Column.GROUP_PREFIX) for a in asked)}
    for column in (c for c in group_names(of.manifest.table) if c in wanted):
        values = group_column(table, column)
        counts = values.value_counts()
        for value, images in counts.head(MOST_GROUPS).items():
            patients = int(table[Column.PATIENT_ID][values == value].nunique())
            yield {"set": name, "column": column, "group": str(value), "images": int(images), "patients": patients}
        if len(counts) > MOST_GROUPS:
            rest = int(counts.iloc[MOST_GROUPS:].sum())
            yield {
                "set": name,
                "column": column,
                "group": f"{len(counts) - MOST_GROUPS} more",
                "images": rest,
                "patients": None,
            }


def _missing(name: str, of: EvaluationRows) -> Iterable[dict[str, Any]]:
    table = of.manifest.table.iloc[of.positions]
    for column in map(str, table):
        is_group = column.startswith(Column.GROUP_PREFIX)
        if is_group or column in (Column.SEX, Column.AGE_YEARS, Column.SITE, Column.STUDY_ID):
            plain = column.removeprefix(Column.GROUP_PREFIX)
            yield {"set": name, "column": plain, "missing": int(table[column].isna().sum()), "images": len(table)}


def _shared_patients(sets: Mapping[str, EvaluationRows]) -> list[dict[str, Any]]:
    """Patients that two sets share, where it is not nothing.

    Patients of two manifests are the same where their ids and the manifests' keys are equal.
    """
    patients = {name: _patient_ids(of.manifest, of.positions) for name, of in sets.items()}
    names = list(patients)
    pairs = ((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    found = ((a, b, len(patients[a] & patients[b])) for a, b in pairs)
    return [{"sets": [a, b], "patients": n} for a, b, n in found if n]


def _patient_ids(manifest: Manifest, positions: Any) -> set[tuple[str, str]]:
    ids = manifest.table[Column.PATIENT_ID].iloc[positions].astype(str)
    key = digest("|".join(manifest.key))
    return {(key, patient) for patient in set(ids)}


def card_markdown(card: Mapping[str, Any]) -> str:
    """The card for people."""
    known = "" if card["patients_known"] else " Patients are not known: every image counts as its own."
    lines = [
        f"# Data of task {card['task']}",
        "",
        f"{card['kind']}, labels {', '.join(card['labels'])}. Manifest {card['manifest']} ({card['manifest_hash']}), "
        f"made by importer {card['importer']}.{known}",
        "",
        f"Uncertain labels in training: {_policy_text(card['label_policy'])}; blank ones: {card['blank']}. Evaluation "
        f"masks both. Validation: {card['validation']}.",
        "",
        _check_text(card),
        "",
        "## Sets",
        "",
        *_table(
            ["set", "images", "patients", "label", "positive", "negative", "uncertain", "blank", "prevalence"],
            _set_rows(card),
        ),
        "## Amounts",
        "",
        "Ranges are over subset seeds. Validation images are labels, too. Prevalence is the share of the training "
        "images of a subset.",
        "",
        *_table(
            ["data_fraction", "images", "patients", "forced", "validation", "labels in all", "prevalence"],
            _fraction_rows(card),
        ),
        "## Subgroups",
        "",
        *_table(
            ["set", "column", "group", "images", "patients"],
            [[g["set"], g["column"], g["group"], g["images"], g["patients"]] for g in card["groups"]],
        ),
        "## Missing metadata",
        "",
        *_table(
            ["set", "column", "missing", "of"],
            [[m["set"], m["column"], m["missing"], m["images"]] for m in card["missing"]],
        ),
        "## Left out, and on both sides",
        "",
        *(f"- {why}: {count} images" for why, count in card["left_out"].items()),
        *(f"- {s['sets'][0]} and {s['sets'][1]} share {s['patients']} patients" for s in card["shared_patients"]),
        *(
            f"- {name}: {'not looked for (tasks check)' if count is None else count} near copies of training images"
            for name, count in card["near_copies"].items()
        ),
        "",
    ]
    return "\n".join(lines)


def _policy_text(policy: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in policy.items()) if isinstance(policy, Mapping) else str(policy)


def _check_text(card: Mapping[str, Any]) -> str:
    check = card["check"]
    if check is None:
        return "`tasks check` has not been run on this content."
    return (
        f"`tasks check`: {check['errors']} errors, {check['warnings']} warnings; {check['identical_sets']} sets of "
        f"identical images, {check['near_copies']} images of an evaluation set with a near copy in training."
    )


def _set_rows(card: Mapping[str, Any]) -> list[list[Any]]:
    rows = []
    for of in card["sets"]:
        for label in of["labels"]:
            known = label["positive"] + label["negative"]
            share = f"{100 * label['positive'] / known:.1f} %" if known else ""
            counts = [label[k] for k in ("positive", "negative", "uncertain", "blank")]
            rows.append([of["set"], of["images"], of["patients"], label["label"], *counts, share])
    return rows


def _fraction_rows(card: Mapping[str, Any]) -> list[list[Any]]:
    names = ("images", "patients", "forced_patients", "val_images", "labelled_images")
    return [
        [
            row["data_fraction"],
            *(range_text(row[name]) for name in names),
            ", ".join(f"{k} {range_text([100 * v for v in share], 1)} %" for k, share in row["prevalence"].items()),
        ]
        for row in card["fractions"]
    ]


def _table(header: list[str], rows: Iterable[list[Any]]) -> list[str]:
    """A Markdown table; bars in cells are escaped."""
    cells = [["" if c is None else str(c).replace("|", "\\|") for c in row] for row in rows]
    if not cells:
        return ["Nothing.", ""]
    ruled = [header, ["---"] * len(header), *cells]
    return [*(f"| {' | '.join(row)} |" for row in ruled), ""]
