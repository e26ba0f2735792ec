"""How many labels each amount of each task costs: what is trained on, and what selects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.plan_data import Drawn
from search_spaces.amounts import Amount

Subsets = Mapping[tuple[str, Amount], Mapping[int, Drawn]]
_COUNTS = ("images", "patients", "forced_patients", "val_images")


def label_rows(subsets: Subsets) -> list[dict[str, Any]]:
    """One row per task and amount: number of subset seeds, then least and largest of each count over them.

    ``labelled_images`` are training and validation images together: validation selects, so its labels are used.
    """
    rows = []
    for (task, amount), by_seed in subsets.items():
        drawn = list(by_seed.values())
        counts = {name: _range(getattr(d, name) for d in drawn) for name in _COUNTS}
        rows.append(
            {"task": task, "data_fraction": amount.label, "seeds": len(drawn)}
            | counts
            | {"labelled_images": _range(d.images + d.val_images for d in drawn)}
            | {"prevalence": _prevalence(drawn)}
        )
    return rows


def range_text(least_and_largest: Iterable[float], digits: int = 0) -> str:
    """``12``, or ``12-14`` where seeds differ."""
    least, largest = (f"{value:.{digits}f}" for value in least_and_largest)
    return least if least == largest else f"{least}-{largest}"


def _prevalence(drawn: list[Drawn]) -> dict[str, list[float]]:
    """Label -> least and largest share of positive images, of the training images of a subset whose label is known."""
    return {
        label: _range(d.positives[label] / (d.positives[label] + d.negatives[label]) for d in drawn)
        for label in drawn[0].positives
    }


def _range(values: Iterable[float]) -> list[Any]:
    known = list(values)
    return [min(known), max(known)]
