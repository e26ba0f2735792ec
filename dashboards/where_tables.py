"""Where a source helps: at which amounts, where curves cross, and whether the benefit changes with scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboards.cell_tables import TaskView, numbers
from dashboards.curves import Curve, curves
from dashboards.evidence import CellKey, Evidence
from dashboards.pairing import pair
from dashboards.statistics import (
    Estimate,
    Term,
    adjust_p_values,
    adjust_study,
    benefit_crossing,
    classify,
    contrast,
    difference_terms,
    higher_is_better,
    is_lost,
    linear_contrast,
    slope_coefficients,
)

DIFFERENCE = "difference of differences"
SLOPE = "slope per tenfold parameters"
_NO_EFFECT = ("no meaningful difference", "undecided")


def reach_rows(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    """Per curve: the amounts at which the source helps or hurts (Holm over the amounts of the curve), and its crossing.

    Curves cross where the benefit changes its sign; that they do is only said if it is shown on both sides.
    """
    better = higher_is_better(task.estimates.metric)
    for curve in curves(evidence, task):
        amounts = curve.common
        if not amounts:
            continue
        estimates = [contrast(curve.runs[f], curve.base[f], level=1 - evidence.alpha) for f in amounts]
        adjusted = adjust_p_values([e.p for e in estimates], absent=sum(map(is_lost, estimates)))
        words = [
            classify(e, float(p), evidence.delta, alpha=evidence.alpha, higher_is_better=better)
            for e, p in zip(estimates, adjusted, strict=True)
        ]
        helps = [f for f, word in zip(amounts, words, strict=True) if word.startswith("helps")]
        hurts = [f for f, word in zip(amounts, words, strict=True) if word == "hurts"]
        claimed = [e for e, word in zip(estimates, words, strict=True) if word not in _NO_EFFECT] or estimates
        yield {
            "task": task.estimates.task,
            "set": curve.set,
            "model_scale": curve.scale,
            "pretraining_source": curve.source,
            "metric": task.estimates.metric,
            "data_fraction": helps[-1] if helps else "",
            "images": curve.images[helps[-1]] if helps else float("nan"),
            "amounts": len(amounts),
            "largest_amount": amounts[-1],
            "helps_at": ", ".join(helps),
            "hurts_at": ", ".join(hurts),
            "same_at": ", ".join(f for f, w in zip(amounts, words, strict=True) if w == "no meaningful difference"),
            "undecided_at": ", ".join(f for f, w in zip(amounts, words, strict=True) if w == "undecided"),
            "n_seeds": min(e.n_seeds for e in claimed),
            "crossing_shown": bool(helps and hurts),
            **_crossing(evidence, curve, estimates),
        }


def _crossing(evidence: Evidence, curve: Curve, estimates: Sequence[Estimate]) -> dict[str, Any]:
    images = [curve.images[f] for f in curve.common]
    terms: list[list[Term]] = [[(1.0, curve.runs[f]), (-1.0, curve.base[f])] for f in curve.common]
    found = (
        benefit_crossing(images, terms, estimates, alpha=evidence.alpha)
        if len(set(images)) == len(images) and all(n > 0 for n in images)
        else None
    )
    if found is None:
        nothing = dict.fromkeys(("crossing", "crossing_low", "crossing_high"), float("nan"))
        return nothing | {"crossing_left_censored": False, "crossing_right_censored": False}
    return {
        "crossing": found.point,
        "crossing_low": found.low,
        "crossing_high": found.high,
        "crossing_left_censored": found.left_censored,
        "crossing_right_censored": found.right_censored,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ladder:
    """Scales of one ladder at which both sides have an amount, smallest first."""

    name: str
    scales: tuple[str, ...]
    parameters: tuple[float, ...]


def scale_rows(evidence: Evidence, task: TaskView, primary_fractions: Collection[str]) -> Iterator[dict[str, Any]]:
    """Whether the benefit changes with scale, within one ladder: the largest scale against the smallest, and a slope.

    Scales of different ladders differ in more than their size; between them there is no row.
    """
    sources = dict.fromkeys(source for _, source, _ in task.cells if source != evidence.baseline)
    for source in sources:
        for fraction in dict.fromkeys(cell[2] for cell in task.cells):
            for ladder in _ladders(evidence, task, source, fraction):
                for set_name in task.estimates.sets:
                    primary = set_name in evidence.primary_sets and fraction in primary_fractions
                    yield from _scale_effects(evidence, task, source, fraction, ladder, set_name, primary)


def _ladders(evidence: Evidence, task: TaskView, source: str, fraction: str) -> Iterator[_Ladder]:
    scales: dict[str, dict[str, float]] = {}
    for scale, of_source, amount in task.cells:
        both = of_source == source and amount == fraction and (scale, evidence.baseline, fraction) in task.cells
        facts = task.facts[scale, of_source, amount]
        if both and facts["ladder"] and facts["parameters"] > 0:
            scales.setdefault(facts["ladder"], {})[scale] = facts["parameters"]
    for name, sizes in scales.items():
        ordered = sorted(sizes, key=lambda scale: sizes[scale])
        if len(set(sizes.values())) > 1:
            yield _Ladder(name=name, scales=tuple(ordered), parameters=tuple(sizes[s] for s in ordered))


def _scale_effects(
    evidence: Evidence, task: TaskView, source: str, fraction: str, ladder: _Ladder, set_name: str, primary: bool
) -> Iterator[dict[str, Any]]:
    cells: list[CellKey] = [(scale, of, fraction) for scale in ladder.scales for of in (source, evidence.baseline)]
    paired = pair(task, cells, set_name)
    runs = dict(zip(cells, paired.runs, strict=True))
    present = [s for s in ladder.scales if runs[s, source, fraction] and runs[s, evidence.baseline, fraction]]
    sizes = dict(zip(ladder.scales, ladder.parameters, strict=True))
    if len({sizes[s] for s in present}) < 2:
        return
    ends = [present[0], present[-1]]
    questions: list[tuple[str, list[str], Any]] = [(DIFFERENCE, ends, (-1.0, 1.0))]
    if len(present) > 2:
        questions.append((SLOPE, present, slope_coefficients([math.log10(sizes[s]) for s in present])))
    for kind, scales, coefficients in questions:
        mine, base = ([runs[s, of, fraction] for s in scales] for of in (source, evidence.baseline))
        estimate = linear_contrast(difference_terms(mine, base, coefficients), level=1 - evidence.alpha)
        yield {
            "task": task.estimates.task,
            "set": set_name,
            "model_scale": f"{ends[0]} to {ends[1]}" + (f" ({len(scales)} scales)" if kind == SLOPE else ""),
            "ladder": ladder.name,
            "pretraining_source": source,
            "data_fraction": fraction,
            "metric": task.estimates.metric,
            "kind": kind,
            "primary": primary and kind == DIFFERENCE,
            "smallest": ends[0],
            "largest": ends[1],
            **numbers(estimate, name="estimate"),
            "p": estimate.p,
            "delta": evidence.delta,
            "notes": "; ".join(n for n in (paired.note, *estimate.notes) if n),
            "_estimate": estimate,
        }


def decide_scales(evidence: Evidence, table: pd.DataFrame, absent: int = 0) -> pd.DataFrame:
    """Words for the scale effects, corrected together (``adjust_study``): Holm over the differences of differences.

    Args:
        evidence: The study.
        table: All rows of ``scale_rows``.
        absent: Planned differences of differences without a row (``primary_family``); they count in the family.
    """
    if table.empty:
        return table
    adjusted = adjust_study(table, absent, [is_lost(e) for e in table["_estimate"]])
    words = []
    for row in adjusted.to_dict("records"):
        better = higher_is_better(str(row["metric"]))
        word = classify(
            row["_estimate"], float(row["p_adjusted"]), evidence.delta, alpha=evidence.alpha, higher_is_better=better
        )
        words.append(_SCALE_WORDS.get(word, "grows with scale"))
    return adjusted.assign(word=words).drop(columns="_estimate")


_SCALE_WORDS = {
    "hurts": "shrinks with scale",
    "no meaningful difference": "the same at both scales",
    "undecided": "undecided",
}
