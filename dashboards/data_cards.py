"""Data cards as the record has them, and the tables that the report makes of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dashboards import tracking
from dashboards.tracking import RecordArtifact
from search_spaces.exceptions import DataError

Card = Mapping[str, Any]


def load_data_cards(study: str, tracking_uri: str | None = None) -> dict[str, Card]:
    """Task -> card, from the study's parent run; empty where it has none.

    Raises:
        UserError: There is no record of the study.
        TrackingError: MLflow is away.
        DataError: A card is damaged.
    """
    uri = tracking.resolve_tracking_uri(tracking_uri)
    client = tracking.connect(uri)
    experiment = tracking.find_experiment(client, study, uri)
    cards: dict[str, Card] = {}
    with tracking.tracking(uri), tempfile.TemporaryDirectory(prefix="scalecurves-data-") as folder:
        for parent in tracking.find_parents(client, experiment.experiment_id)[:1]:
            for item in client.list_artifacts(parent.info.run_id, RecordArtifact.DATA):
                if item.path.endswith(".json"):
                    path = client.download_artifacts(parent.info.run_id, item.path, folder)
                    card = _read(Path(path))
                    cards[str(card["task"])] = card
    return cards


def _read(path: Path) -> Card:
    try:
        card = json.loads(path.read_text("utf-8"))
        if not isinstance(card, dict) or "task" not in card:
            raise ValueError("it names no task")
    except ValueError as error:
        raise DataError(f"data card {path.name} of the record cannot be read, so no card is shown: {error}") from error
    return card


def card_tables(cards: Mapping[str, Card]) -> dict[str, pd.DataFrame]:
    """Heading -> table over all tasks: sets, subgroups and their labels, missing metadata, checks with their outcomes,
    what the release holds, rows that are not used, copies and shared patients.

    Cards of earlier versions lack some of it.
    """
    tables = {
        "Sets": [row for card in cards.values() for row in _sets(card)],
        "Subgroups": [row for card in cards.values() for row in _groups(card)],
        "Labels in subgroups": [row for card in cards.values() for row in _group_labels(card)],
        "Missing metadata": [{"task": c["task"], **m} for c in cards.values() for m in c["missing"] if m["missing"]],
        "Checks": [_checks(card) for card in cards.values()],
        "Outcome of each check": [row for card in cards.values() for row in _outcomes(card)],
        "Counts of the release": [{"task": c["task"], **r} for c in cards.values() for r in c.get("release", ())],
        "Rows that are not used": [row for card in cards.values() for row in _unused(card)],
        "Images and patients on both sides": [row for card in cards.values() for row in _both_sides(card)],
    }
    return {heading: pd.DataFrame(rows) for heading, rows in tables.items() if rows}


def _sets(card: Card) -> list[dict[str, Any]]:
    rows = []
    for of in card["sets"]:
        for label in of["labels"]:
            known = label["positive"] + label["negative"]
            rows.append(
                {"task": card["task"], "set": of["set"], "images": of["images"], "patients": of["patients"]}
                | {"scored_by": of["aggregation"], **label}
                | {"prevalence": label["positive"] / known if known else float("nan")}
            )
    return rows


_GROUP = ("set", "column", "group", "images", "patients")


def _groups(card: Card) -> list[dict[str, Any]]:
    return [{"task": card["task"], **{name: group[name] for name in _GROUP}} for group in card["groups"]]


def _group_labels(card: Card) -> list[dict[str, Any]]:
    rows = []
    for group in card["groups"]:
        for label in group.get("labels", ()):
            known = label["positive"] + label["negative"]
            rows.append(
                {"task": card["task"], **{name: group[name] for name in _GROUP[:3]}, **label}
                | {"prevalence": label["positive"] / known if known else float("nan")}
            )
    return rows


def _outcomes(card: Card) -> list[dict[str, Any]]:
    return [{"task": card["task"], **outcome} for outcome in (card["check"] or {}).get("checks", ())]


def _unused(card: Card) -> list[dict[str, Any]]:
    """Rows that the study leaves out, that an import or a check set aside, and cells that were left blank."""
    kinds = (("left_out", "left out by the study"), ("set_aside", "set aside"), ("left_blank", "cell left blank"))
    return [
        {"task": card["task"], "what": what, "why": why, "rows": count}
        for kind, what in kinds
        for why, count in card.get(kind, {}).items()
    ]


def _checks(card: Card) -> dict[str, Any]:
    check = card["check"] or {}
    names = ("errors", "warnings", "identical_sets", "near_copies")
    state = "tasks check has not been run on this content" if not check else "checked"
    row = {"task": card["task"], "importer": card["importer"], "label_policy": str(card["label_policy"])}
    return row | {"validation": card["validation"], "check": state} | {name: check.get(name) for name in names}


def _both_sides(card: Card) -> list[dict[str, Any]]:
    rows = [
        {"task": card["task"], "what": f"patients in {s['sets'][0]} and {s['sets'][1]}", "number": s["patients"]}
        for s in card["shared_patients"]
    ]
    rows += [
        {"task": card["task"], "what": f"images of {name} with a near copy in training", "number": count}
        for name, count in card["near_copies"].items()
        if count
    ]
    return rows
