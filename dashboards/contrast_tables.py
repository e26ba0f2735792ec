"""The question of the study: does a source help? Differences to the baseline, their p-values and their verdicts.

Only seeds that both sides have, on the same subset, are paired. Holm's correction runs over the primary family of the
whole study, so that a study of many tasks does not find help by chance in one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from dashboards.cell_tables import CellKey, TaskView, numbers
from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.statistics import (
    Estimate,
    Facts,
    GateName,
    Influence,
    SeedKey,
    Wording,
    adjust_study,
    classify,
    contrast,
    higher_is_better,
    open_gates,
    sign_flip_p,
    what_is_missing,
)

_CHECKED_GATES = (GateName.SEEDS, GateName.PATIENTS, GateName.CONVERGENCE, GateName.LOST_TRIALS)
"""Gates whose facts the tables hold."""


def contrast_rows(
    evidence: Evidence, task: TaskView, primary_fractions: frozenset[str], failed: Mapping[tuple[str, ...], int]
) -> Iterator[dict[str, Any]]:
    """Each source minus the baseline, at each scale, amount and evaluation set.

    Args:
        evidence: The study.
        task: The task.
        primary_fractions: Amounts of the primary family.
        failed: (task, scale, source, amount) -> failed trials.
    """
    for order, cell in enumerate(task.cells):
        scale, source, fraction = cell
        base = (scale, evidence.baseline, fraction)
        if source == evidence.baseline or base not in task.cells:
            continue
        for set_name in task.estimates.sets:
            a, b, unpaired = _paired(task, cell, base, set_name)
            if not a or not b:
                continue
            estimate = contrast(a, b, level=1 - evidence.alpha)
            caps = _caps(task, cell, base, estimate, failed)
            seeds_only = _sign_flip_note(a, b) if estimate.seeds_only else []
            yield {
                **task.coordinates(cell),
                "baseline": evidence.baseline,
                "set": set_name,
                "metric": task.estimates.metric,
                "primary": set_name == IN_DOMAIN and fraction in primary_fractions,
                **numbers(estimate, name="estimate"),
                "p": estimate.p,
                "delta": evidence.delta,
                "images": task.facts[cell]["images"],
                "order": order,
                "caveats": "; ".join([*unpaired, *estimate.notes, *seeds_only, *caps]),
                "cap": "; ".join(caps),
                "_estimate": estimate,
            }


def _paired(
    task: TaskView, cell: CellKey, base: CellKey, set_name: str
) -> tuple[dict[SeedKey, Influence], dict[SeedKey, Influence], list[str]]:
    """Runs of both cells; seeds whose subsets differ are taken out, for they are not pairs."""
    a, b = task.runs(cell, set_name), task.runs(base, set_name)
    hashes = task.estimates.rows["subset_hash"]
    odd = [s for s in a if s in b and _differ(hashes[task.cells[cell][s]], hashes[task.cells[base][s]])]
    names = ", ".join(str(getattr(s, "label", s)) for s in odd)
    note = [f"seeds left out, trained on different subsets: {names}"] if odd else []
    return {s: r for s, r in a.items() if s not in odd}, {s: r for s, r in b.items() if s not in odd}, note


def _sign_flip_note(a: Mapping[SeedKey, Influence], b: Mapping[SeedKey, Influence]) -> list[str]:
    """The test that assumes least of seeds alone, beside Student's t."""
    p = sign_flip_p([a[seed].value - b[seed].value for seed in a if seed in b])
    return [f"exact sign flip over seeds: p = {p:.4g}"] if p == p else []


def _differ(a: Any, b: Any) -> bool:
    return isinstance(a, str) and isinstance(b, str) and a != b


def _caps(
    task: TaskView, cell: CellKey, base: CellKey, estimate: Estimate, failed: Mapping[tuple[str, ...], int]
) -> list[str]:
    """Reasons why a verdict is at most "suggests"."""
    sign = 1 if higher_is_better(task.estimates.metric) else -1
    loser = base if sign * estimate.value > 0 else cell
    facts = Facts(
        n_seeds=estimate.n_seeds,
        min_patients=estimate.min_patients,
        seeds_only=estimate.seeds_only,
        patients_known=task.facts[cell]["patients_known"],
        lost_trials=sum(failed.get((task.estimates.task, *side), 0) for side in (cell, base)),
        losing_side=loser[1],
        still_rising=task.facts[loser]["still_rising"],
    )
    gates = [gate for gate in open_gates(facts) if gate.name in _CHECKED_GATES]
    return [gate.reason for gate in gates if gate.wording is not Wording.STATES]


def decide(evidence: Evidence, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Adjusted p (``adjust_study``) and verdicts, once all tasks are known.

    Args:
        evidence: The study.
        contrasts: All rows of ``contrast_rows``.
    """
    if contrasts.empty:
        return contrasts
    table = adjust_study(contrasts)
    judged = [_judge(evidence, row) for row in table.to_dict("records")]
    table["verdict"] = [word for word, _ in judged]
    table["missing"] = [missing for _, missing in judged]
    return table.drop(columns="_estimate")


def _judge(evidence: Evidence, row: Mapping[Any, Any]) -> tuple[str, str]:
    estimate: Estimate = row["_estimate"]
    better = higher_is_better(str(row["metric"]))
    word = classify(estimate, float(row["p_adjusted"]), evidence.delta, alpha=evidence.alpha, higher_is_better=better)
    return word, _what_would_decide(evidence, estimate) if word == "undecided" else ""


def _what_would_decide(evidence: Evidence, estimate: Estimate) -> str:
    missing = what_is_missing(estimate, evidence.delta, alpha=evidence.alpha)
    if missing is None:
        return "no interval yet: more seeds or more test patients are needed"
    ways = []
    if missing.n_seeds is not None and missing.n_seeds > estimate.n_seeds:
        ways.append(f"{missing.n_seeds} seeds with these patients")
    if missing.n_patients is not None and missing.n_patients > estimate.n_patients:
        ways.append(f"{missing.n_patients} test patients with these seeds")
    if not ways:
        need = "more seeds and more test patients together"
        return f"{need} would be needed to resolve {evidence.delta:g}; {missing.dominated_by} dominate the uncertainty"
    return f"to resolve {evidence.delta:g}: {' or '.join(ways)}; {missing.dominated_by} dominate the uncertainty"
