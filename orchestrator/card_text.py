"""The data card of a task for people, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.plan_labels import range_text


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
        "## Sets",
        "",
        *_table(
            ["set", "images", "patients", "label", "positive", "negative", "uncertain", "blank", "prevalence"],
            _set_rows(card),
        ),
        "## Amounts",
        "",
        "Ranges are over subset seeds. Validation images are labels, too. Prevalence is the share of the "
        "positive among images whose label is known, here and in the sets.",
        "",
        *_table(
            ["data_fraction", "images", "patients", "forced", "validation", "labels in all", "prevalence"],
            _fraction_rows(card),
        ),
        "## Subgroups",
        "",
        *_table(
            ["set", "column", "group", "images", "patients", "positive images"],
            _group_rows(card),
        ),
        "## Missing metadata",
        "",
        *_table(
            ["set", "column", "missing", "of"],
            [[m["set"], m["column"], m["missing"], m["images"]] for m in card["missing"]],
        ),
        "## Checks",
        "",
        _check_text(card),
        "",
        *(_table(["check", "outcome", "found"], _check_rows(card)) if card["check"] else []),
        *_release_lines(card),
        "## Left out, and on both sides",
        "",
        *(f"- {why}: {count} images" for why, count in card["left_out"].items()),
        *(f"- set aside, {why}: {count} rows of the data set" for why, count in card["set_aside"].items()),
        *(f"- {why}: {count} rows" for why, count in card["left_blank"].items()),
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


def _check_rows(card: Mapping[str, Any]) -> list[list[Any]]:
    return [[c["check"], c["outcome"], c["found"] or ""] for c in card["check"]["checks"]]


def _release_lines(card: Mapping[str, Any]) -> list[str]:
    if not card["release"]:
        return ["## Release", "", "What the release of the data set holds is not known here.", ""]
    rows = [[r["count"], r["released"], r["here"], r["here"] - r["released"] or ""] for r in card["release"]]
    return ["## Release", "", *_table(["count", "released", "here", "difference"], rows)]


def _group_rows(card: Mapping[str, Any]) -> list[list[Any]]:
    names = ("set", "column", "group", "images", "patients")
    return [
        [*(group[name] for name in names), ", ".join(f"{of['label']} {of['positive']}" for of in group["labels"])]
        for group in card["groups"]
    ]


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
