"""The question of the study: does a source help? Differences to the baseline, their p-values, verdicts and grades.

Only seeds that both sides have, on the same subset, are paired. Holm's correction runs over the primary family of the
whole study, so that a study of many tasks does not find help by chance in one of them. Lost trials are scored at chance
and the families corrected anew: a verdict that does not survive this is held back.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from dashboards.cell_tables import TaskView, numbers
from dashboards.evidence import CellKey, Evidence
from dashboards.exclusions import Exclusion
from dashboards.gate_facts import contrast_facts, is_external
from dashboards.gate_tables import gate_table
from dashboards.pairing import exclusions_of, pair
from dashboards.planned import CellName
from dashboards.statistics import (
    Comparison,
    Estimate,
    Facts,
    Influence,
    SeedKey,
    Verdict,
    Wording,
    adjust_study,
    classify,
    contrast,
    equivalence_p,
    grade,
    higher_is_better,
    is_lost,
    noninferiority_p,
    open_gates,
    sign_flip_p,
    variance_split,
    verdict_holds,
    what_is_missing,
)
from dashboards.statistics.contrasts import NO_VARIANCE

PlannedSeeds = Mapping[CellName, Collection[SeedKey]]
"""(task, scale, source, amount) -> seeds that were planned."""


def contrast_rows(
    evidence: Evidence,
    task: TaskView,
    primary_fractions: frozenset[str],
    planned: PlannedSeeds,
    exclusions: list[Exclusion],
) -> Iterator[dict[str, Any]]:
    """Each source minus the baseline, at each scale, amount and evaluation set.

    Args:
        evidence: The study.
        task: The task.
        primary_fractions: Amounts of the primary family.
        planned: Cell -> seeds that were planned.
        exclusions: Trials that are no pairs are added.
    """
    for order, cell in enumerate(task.cells):
        scale, source, fraction = cell
        base = (scale, evidence.baseline, fraction)
        if source == evidence.baseline or base not in task.cells:
            continue
        for set_name in task.estimates.sets:
            paired = pair(task, (cell, base), set_name)
            exclusions.extend(exclusions_of(task, (cell, base), paired))
            a, b = paired.runs
            if not a or not b:
                continue
            estimate = contrast(a, b, level=1 - evidence.alpha)
            seeds_only = _sign_flip_note(a, b) if estimate.seeds_only else []
            lost = tuple(_lost(task, side, set_name, planned) for side in (cell, base))
            facts = contrast_facts(evidence, task, cell, base, set_name, estimate, paired, [*lost[0], *lost[1]])
            primary = set_name in evidence.primary_sets and fraction in primary_fractions
            yield {
                **task.coordinates(cell),
                "baseline": evidence.baseline,
                "set": set_name,
                "metric": task.estimates.metric,
                "primary": primary,
                **numbers(estimate, name="estimate"),
                "p": estimate.p,
                "delta": evidence.delta,
                **_margins(evidence, task, estimate),
                **_shares(a, b),
                "images": task.facts[cell]["images"],
                "order": order,
                "_notes": [n for n in (paired.note, *estimate.notes, *seeds_only) if n],
                "_estimate": estimate,
                "_facts": facts,
                "_at_chance": _at_chance(evidence, task, set_name, a, b, lost) if any(lost) else estimate,
            }


def _lost(task: TaskView, cell: CellKey, set_name: str, planned: PlannedSeeds) -> tuple[SeedKey, ...]:
    """Seeds of a cell without a result: planned and diverged, failed or missing; or done, but not usable."""
    scale, source, fraction = cell
    # Of others' results nobody knows the plan, but what was delivered and cannot be used is lost all the same.
    wanted = dict.fromkeys(
        [*planned.get((task.estimates.task, scale, source, fraction), ()), *task.cells.get(cell, ())]
    )
    finished = _defined(task.runs(cell, set_name))
    return tuple(seed for seed in wanted if seed not in finished)


def _sign_flip_note(a: Mapping[SeedKey, Influence], b: Mapping[SeedKey, Influence]) -> list[str]:
    """The test that assumes least of seeds alone, beside Student's t."""
    p = sign_flip_p([a[seed].value - b[seed].value for seed in a if seed in b])
    return [f"exact sign flip over seeds: p = {p:.4g}"] if p == p else []


def _defined(runs: Mapping[SeedKey, Influence]) -> dict[SeedKey, Influence]:
    return {seed: run for seed, run in runs.items() if math.isfinite(run.value)}


def _at_chance(
    evidence: Evidence,
    task: TaskView,
    set_name: str,
    a: Mapping[SeedKey, Influence],
    b: Mapping[SeedKey, Influence],
    lost: tuple[tuple[SeedKey, ...], ...],
) -> Estimate:
    if set_name not in task.estimates.chance:  # numbers without patients: what chance would give is not known
        return contrast({}, {}, level=1 - evidence.alpha)
    comparison = Comparison(
        runs_a=_defined(a),
        runs_b=_defined(b),
        lost_a=lost[0],
        lost_b=lost[1],
        chance=task.estimates.chance[set_name],
    )
    return contrast(*comparison.at_chance(), level=1 - evidence.alpha)


def _margins(evidence: Evidence, task: TaskView, estimate: Estimate) -> dict[str, float]:
    """Tests against the margin: equivalent (two one-sided), and not worse by more than it."""
    better = higher_is_better(task.estimates.metric)
    low, high = estimate.interval(1 - 2 * evidence.alpha)
    return {
        "inner_low": low,
        "inner_high": high,
        "p_equivalent": equivalence_p(estimate, evidence.delta),
        "p_not_worse": noninferiority_p(estimate, evidence.delta, higher_is_better=better),
    }


def _shares(a: Mapping[SeedKey, Influence], b: Mapping[SeedKey, Influence]) -> dict[str, Any]:
    """What the uncertainty is made of; blank where it is not known."""
    split = variance_split([(1.0, a), (-1.0, b)]) if set(a) & set(b) else None
    names = ("patients", "seeds", "subset", "initialisation", "interaction")
    shares = {f"share_{name}": getattr(split, name) if split else None for name in names}
    known = {name: math.nan if share is None else float(share) for name, share in shares.items()}
    return {"seed_design": str(split.design) if split else "", **known}


def decide(evidence: Evidence, contrasts: pd.DataFrame, absent: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Adjusted p (``adjust_study``), verdicts and grades, once all tasks are known.

    Args:
        evidence: The study.
        contrasts: All rows of ``contrast_rows``.
        absent: Planned comparisons of the primary family without a row (``primary_family``); they count in it.

    Returns:
        The contrasts; and every gate with the number of contrasts that pass it (``gate_tables``).
    """
    if contrasts.empty:
        return contrasts, contrasts
    table = adjust_study(contrasts, absent, [is_lost(e) for e in contrasts["_estimate"]])
    chance = list(contrasts["_at_chance"])
    at_chance = adjust_study(contrasts.assign(p=[e.p for e in chance]), absent, [is_lost(e) for e in chance])
    rows = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    external = {_cell_of(row) for row in rows if row["p"] == row["p"] and _elsewhere(evidence, row)}
    judged = []
    for row, p in zip(rows, at_chance["p_adjusted"], strict=True):
        row["_facts"] = replace(row["_facts"], external=_cell_of(row) in external)
        judged.append(_judge(evidence, row, float(p)))
    hidden = [c for c in table if str(c).startswith("_")]
    decided = pd.concat([table.drop(columns=hidden), pd.DataFrame(judged, index=table.index)], axis=1)
    facts = [
        replace(row["_facts"], holds_at_chance=found["holds_at_chance"])
        for row, found in zip(rows, judged, strict=True)
    ]
    return decided, gate_table(decided, facts)


def _cell_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[c]) for c in ("task", "model_scale", "pretraining_source", "data_fraction"))


def _elsewhere(evidence: Evidence, row: Mapping[str, Any]) -> bool:
    return is_external(evidence.study, str(row["task"]), str(row["set"]))


def _judge(evidence: Evidence, row: Mapping[str, Any], p_at_chance: float) -> dict[str, Any]:
    estimate: Estimate = row["_estimate"]
    better = higher_is_better(str(row["metric"]))

    def word(of: Estimate, p: float) -> Verdict:
        return classify(of, p, evidence.delta, alpha=evidence.alpha, higher_is_better=better)

    verdict = word(estimate, float(row["p_adjusted"]))
    holds = verdict_holds(verdict, word(row["_at_chance"], p_at_chance))
    facts: Facts = replace(row["_facts"], holds_at_chance=holds)
    found, caps = grade(facts), _caps(facts)
    missing = what_is_missing(estimate, evidence.delta, alpha=evidence.alpha)
    return {
        "verdict": verdict,
        "grade": str(found.letter),
        "wording": str(found.wording),
        "words": found.words(verdict),
        "cap": "; ".join(caps),
        "reasons": "; ".join(found.reasons),
        "caveats": "; ".join([*row["_notes"], *caps]),
        "lost_trials": facts.lost_trials,
        "holds_at_chance": holds,
        "missing": _what_would_decide(evidence, estimate) if verdict == "undecided" else "",
        "needed_seeds": _count(missing.n_seeds if missing else None),
        "needed_patients": _count(missing.n_patients if missing else None),
    }


def _count(n: int | None) -> float:
    return math.nan if n is None else float(n)


def _caps(facts: Facts) -> list[str]:
    """Reasons why a verdict is at most "suggests", or none at all."""
    return [gate.reason for gate in open_gates(facts) if gate.wording is not Wording.STATES]


def _what_would_decide(evidence: Evidence, estimate: Estimate) -> str:
    if not estimate.n_seeds:
        return "no seed has a defined result on both sides: see the seeds left out, and results not used"
    if NO_VARIANCE in estimate.notes:
        return "all seeds differ by exactly as much: rounded numbers, or copies, give no interval"
    missing = what_is_missing(estimate, evidence.delta, alpha=evidence.alpha)
    if missing is None:
        return "no interval yet: more seeds or more test patients are needed"
    ways = []
    if missing.n_seeds is not None and missing.n_seeds > estimate.n_seeds:
        ways.append(f"{missing.n_seeds} seeds with these patients")
    if not ways and estimate.seeds_only:
        return f"more seeds would be needed to resolve {evidence.delta:g}; patients are not known"
    if missing.n_patients is not None and missing.n_patients > estimate.n_patients:
        ways.append(f"{missing.n_patients} test patients with these seeds")
    if not ways:
        need = "more seeds and more test patients together"
        return f"{need} would be needed to resolve {evidence.delta:g}; {missing.dominated_by} dominate the uncertainty"
    return f"to resolve {evidence.delta:g}: {' or '.join(ways)}; {missing.dominated_by} dominate the uncertainty"
