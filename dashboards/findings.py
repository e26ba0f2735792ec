"""The result in sentences, and the same as data (``verdict.json``)."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pandas as pd

from dashboards.evidence import Evidence
from dashboards.page import Finding, FindingList
from dashboards.plots import records
from dashboards.style import amount_text, direction, metric_label, p_value, plural, sample_text, signed
from dashboards.tables import Tables

VERDICT_SCHEMA = 1
SHOWN_IF_NOTHING_IS_DECIDED = 3
MAX_HEADLINES = 12
"""Comparisons that a terminal is shown in full."""

_TONES = {
    "helps, meaningfully": "good",
    "helps": "good",
    "hurts": "bad",
    "no meaningful difference": "even",
    "undecided": "open",
}
_CLAIMS = {
    "helps, meaningfully": ("{source} helps, meaningfully, {where}", "{source} seems to help {where}"),
    "helps": ("{source} helps {where}", "{source} seems to help {where}"),
    "hurts": ("{source} hurts {where}", "{source} seems to hurt {where}"),
    "no meaningful difference": (
        "{source} makes no meaningful difference {where}",
        "{source} seems to make no meaningful difference {where}",
    ),
    "undecided": ("Undecided whether {source} helps {where}", "Undecided whether {source} helps {where}"),
}


def findings(evidence: Evidence, tables: Tables) -> tuple[FindingList, ...]:
    """What the study found: the primary comparisons per task, then the exploratory rest."""
    blocks = [*_contrast_blocks(evidence, tables.contrasts), _shift_block(tables), _deficit_block(tables)]
    return tuple(block for block in blocks if block is not None)


def summary(evidence: Evidence, tables: Tables) -> str:
    """The result and its completeness in two or three sentences."""
    primary = _primary(tables.contrasts)
    parts = []
    if primary.empty:
        parts.append(f"There is no primary comparison with {evidence.baseline} yet.")
    else:
        words = Counter(primary["verdict"])
        helps = words["helps"] + words["helps, meaningfully"]
        listed = [
            f"{helps} help{'s' if helps == 1 else ''}",
            f"{words['hurts']} hurt{'s' if words['hurts'] == 1 else ''}",
            f"{words['no meaningful difference']} make no meaningful difference",
            f"{words['undecided']} {'is' if words['undecided'] == 1 else 'are'} undecided",
        ]
        count = plural(len(primary), "primary comparison")
        parts.append(f"Of {count} with {evidence.baseline}, {', '.join(listed[:-1])} and {listed[-1]}.")
    if not tables.completeness.empty:
        planned, done, failed = (int(tables.completeness[c].sum()) for c in ("planned", "done", "failed"))
        missing = planned - done - failed
        rest = [f"{failed} failed"] * bool(failed) + [f"{missing} not run yet"] * bool(missing)
        parts.append(f"{done} of {plural(planned, 'planned trial')} done{', ' if rest else ''}{', '.join(rest)}.")
    return " ".join(parts)


def headlines(evidence: Evidence, tables: Tables) -> list[str]:
    """The findings for a terminal: decided ones in full as far as they are not too many, undecided ones counted."""
    lines = [summary(evidence, tables)]
    primary = _primary(tables.contrasts)
    if not primary.empty:
        decided = [r for r in records(primary) if r["verdict"] != "undecided"]
        decided.sort(key=lambda r: r["verdict"] == "no meaningful difference")
        lines += [contrast_sentence(r) for r in decided[:MAX_HEADLINES]]
        if len(decided) > MAX_HEADLINES:
            lines.append(f"{len(decided) - MAX_HEADLINES} more decided comparisons are in the report.")
    for block in (_shift_block(tables), _deficit_block(tables)):
        lines += [f.text for f in block.findings if f.tone == "bad"] if block else []
    return lines


def contrast_sentence(row: dict[str, Any]) -> str:
    """``natural helps on ham10000 at 5 % (resnet20): +0.041 macro AUC (95 % CI ...; Holm p = 0.012; 3 seeds, ...).``"""
    where = f"on {row['task']} at {amount_text(str(row['data_fraction']))} ({row['model_scale']})"
    if row["set"] != "test":
        where += f", evaluated on {row['set']}"
    claim = _CLAIMS[row["verdict"]][1 if row["cap"] else 0].format(source=row["pretraining_source"], where=where)
    adjusted = "Holm" if row["primary"] else "exploratory, Benjamini-Hochberg"
    evidence = [
        _interval_text(row["low"], row["high"], row["level"]),
        f"{adjusted} {p_value(row['p_adjusted'])}" if math.isfinite(row["p_adjusted"]) else "not tested",
        sample_text(row["n_seeds"], row["n_patients"]),
    ]
    return f"{claim}: {signed(row['estimate'])} {metric_label(row['metric'])} ({'; '.join(evidence)})."


def verdict(evidence: Evidence, tables: Tables) -> dict[str, Any]:
    """Every comparison with its word, as JSON data; numbers that do not exist are null."""
    completeness = tables.completeness
    counts = (
        {c: int(completeness[c].sum()) for c in ("planned", "done", "failed", "missing")} if len(completeness) else {}
    )
    return {
        "schema": VERDICT_SCHEMA,
        "study": evidence.name,
        "statistics": {
            "baseline": evidence.baseline,
            "delta": evidence.delta,
            "alpha": evidence.alpha,
            "family": "Holm over the primary contrasts of the whole study",
        },
        "trials": counts,
        "summary": summary(evidence, tables),
        "contrasts": [_verdict_row(r) for r in records(tables.contrasts)],
        "shifted_sets": [_plain(r) for r in records(tables.shift_summary)],
        "subgroups": [_plain(r) for r in records(tables.deficits)],
        "not_assessable": _not_assessable(tables.subgroups),
    }


def _verdict_row(row: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in row.items() if k not in ("cap", "caveats", "order")}
    lists = {"caveats": _listed(row["caveats"]), "suggests_only_because": _listed(row["cap"])}
    return (
        _plain(kept) | {"wording": "suggests" if row["cap"] else "states", "sentence": contrast_sentence(row)} | lists
    )


def _listed(text: str) -> list[str]:
    return [part for part in text.split("; ") if part]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: _json_value(v) for k, v in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, bool | str) or value is None:
        return value
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _primary(contrasts: pd.DataFrame) -> pd.DataFrame:
    return contrasts if contrasts.empty else contrasts[contrasts["primary"]]


def _contrast_blocks(evidence: Evidence, contrasts: pd.DataFrame) -> list[FindingList]:
    blocks = []
    primary = _primary(contrasts)
    for task in dict.fromkeys(primary["task"]) if not primary.empty else ():
        rows = records(primary[primary["task"] == task])
        ordered = sorted(rows, key=lambda r: r["verdict"] == "undecided")
        undecided = sum(r["verdict"] == "undecided" for r in rows)
        blocks.append(
            FindingList(
                heading=f"{task}: does pretraining help?",
                intro=f"Each source against {evidence.baseline}, test set, primary comparisons.",
                findings=tuple(_contrast_finding(r) for r in ordered),
                open=max(len(rows) - undecided, min(len(rows), SHOWN_IF_NOTHING_IS_DECIDED)),
                rest=f"{undecided} undecided, and what is missing to decide them",
            )
        )
    return blocks


def _contrast_finding(row: dict[str, Any]) -> Finding:
    word = str(row["verdict"])
    suggests = row["cap"] and word != "undecided"
    details = [f"Suggests only: {row['cap']}."] if suggests else []
    if row["missing"]:
        details.append(f"{row['missing'][0].upper()}{row['missing'][1:]}.")
    return Finding(
        badge=f"suggests: {word}" if suggests else word,
        tone="open" if suggests else _TONES[word],
        text=contrast_sentence(row),
        detail=" ".join(details),
    )


def _shift_block(tables: Tables) -> FindingList | None:
    if tables.shift_summary.empty:
        return None
    return FindingList(
        heading="Away from the test set",
        intro="Performance on test minus performance on the other set, averaged over scales and sources at the largest "
        "amount; p adjusted by Holm over these rows. Exploratory.",
        findings=tuple(_shift_finding(r) for r in records(tables.shift_summary)),
    )


def _shift_finding(row: dict[str, Any]) -> Finding:
    tone = _tone(row, "drop")
    claims = {
        "bad": "performance is worse than on test",
        "good": "performance is better than on test",
        "open": "no clear change to test",
    }
    return Finding(
        badge={"bad": "worse", "good": "better", "open": "undecided"}[tone],
        tone=tone,
        text=f"{row['task']} on {row['set']}, {amount_text(str(row['data_fraction']))} of the labels: {claims[tone]}; "
        f"{_change_text(row, 'drop')}, {plural(int(row['cells']), 'cell')}).",
    )


def _deficit_block(tables: Tables) -> FindingList | None:
    missing = _not_assessable(tables.subgroups)
    if tables.deficits.empty and not missing:
        return None
    found = [_deficit_finding(r) for r in records(tables.deficits)]
    found.sort(key=lambda f: ("bad", "good", "open").index(f.tone))
    listed = "; ".join(f"{m['task']} {m['set']} {m['column']}={m['group']} {m['note']}" for m in missing)
    rest = [Finding(badge="not assessable", tone="open", text=f"Too few patients: {listed}.")] if missing else []
    return FindingList(
        heading="Subgroups",
        intro="Each subgroup against all other patients of the set, averaged over scales and sources at the largest "
        "amount; p adjusted by Holm over these rows. Exploratory.",
        findings=(*found, *rest),
    )


def _deficit_finding(row: dict[str, Any]) -> Finding:
    tone = _tone(row, "deficit")
    claims = {"bad": "worse than", "good": "better than", "open": "not shown to differ from"}
    return Finding(
        badge={"bad": "worse", "good": "better", "open": "undecided"}[tone],
        tone=tone,
        text=f"{row['task']} on {row['set']}, {row['column']} = {row['group']}: {claims[tone]} all other patients; "
        f"{_change_text(row, 'deficit')}, {plural(int(row['cells']), 'cell')}).",
    )


def _change_text(row: dict[str, Any], name: str) -> str:
    """``macro AUC −0.159 (95 % CI −0.222 to −0.096; Holm p < 0.001; 3 seeds``; a loss is turned into a change."""
    sign = -direction(row["metric"])
    ends = sorted([sign * row[f"{name}_low"], sign * row[f"{name}_high"]])
    interval = _interval_text(ends[0], ends[1], row["level"])
    p = f"Holm {p_value(row['p_holm'])}" if math.isfinite(row["p_holm"]) else "not tested"
    change = f"{metric_label(row['metric'])} {signed(sign * row[name])}"
    return f"{change} ({interval}; {p}; {plural(int(row['n_seeds']), 'seed')}"


def _tone(row: dict[str, Any], name: str) -> str:
    if not row["p_holm"] < 1 - row["level"]:
        return "open"
    return "bad" if row[name] > 0 else "good"


def _not_assessable(subgroups: pd.DataFrame) -> list[dict[str, Any]]:
    if subgroups.empty:
        return []
    rows = subgroups[~subgroups["sufficient"].astype(bool)]
    return records(rows[["task", "set", "column", "group", "note"]].drop_duplicates())


def _interval_text(low: float, high: float, level: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"{100 * level:g} % CI {signed(low)} to {signed(high)}"
