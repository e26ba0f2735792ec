"""The parts of a report that are text: caveats, methods, facts and provenance."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd

from dashboards.evidence import Evidence
from dashboards.exclusions import not_used
from dashboards.reported import (
    PAIRED_AS_REPORTED,
    PROTOCOL_AS_REPORTED,
    all_numbers,
    only_numbers,
    reported_caveats,
    reported_methods,
)
from dashboards.statistics.gates import RISING_SHARE
from dashboards.style import amount_text, count, metric_label, plural, seconds_text
from dashboards.tables import Tables
from dashboards.tuning_tables import tuning_caveats
from search_spaces.amounts import expand_seeds
from search_spaces.names import SCIENCE_VERSION

FEW_SEEDS = 5
"""Below this many seeds the report says that its intervals may be too narrow."""

_INTERVALS = (
    "Intervals are {level} and cover two sources of chance together: other test patients and other seeds. The variance "
    "over patients is that of the mean over seeds, with patients, not images, as the unit: for an AUC the clustered "
    "placement values of DeLong (1988) and Obuchowski (1997), for means over images the patients' sums. The variance "
    "over seeds is added, and degrees of freedom follow Satterthwaite. Intervals of a single cell are symmetric on the "
    "logit scale for metrics in [0, 1]. A t-test over seeds alone would ignore that all seeds share one test set."
)

_PAIRED = "the same seed has the same training subset, and the same patients are scored"

_PACKAGES = ("scalecurves", "numpy", "scipy", "pandas", "plotly")


def caveats(evidence: Evidence, tables: Tables, problems: Iterable[str]) -> tuple[str, ...]:
    """What a reader must know before quoting a number, most important first.

    Args:
        evidence: The study.
        tables: Its tables.
        problems: Things that went wrong while reading the record.
    """
    lines = [
        *problems,
        *reported_caveats(evidence),
        *_unfinished(tables.completeness),
        *_unknown_patients(evidence.results),
        *_rising(tables.cells),
        *regime_caveats(evidence.results),
        *image_size_caveats(evidence.results),
        *_seeds(evidence),
        *tuning_caveats(tables.tuning),
        *_mixed(evidence.results),
        *_left_out(tables),
        *_unrecorded(tables),
        *_excluded(tables),
    ]
    return tuple(lines)


def _unfinished(completeness: pd.DataFrame) -> list[str]:
    if completeness.empty:
        return []
    lines = []
    failed, missing = int(completeness["failed"].sum()), int(completeness["missing"].sum())
    if failed:
        lines.append(
            f"{plural(failed, 'trial')} failed. Failures are not missing at random: a verdict that does not hold with "
            "them scored at chance says “seems to”."
        )
    if missing:
        cells = int((completeness["missing"] > 0).sum())
        lines.append(f"{plural(missing, 'planned trial')} in {plural(cells, 'cell')} not run yet; findings may change.")
    excluded = int((completeness["reason"] != "").sum())
    if excluded:
        lines.append(f"{plural(excluded, 'cell')} excluded by the study, with reasons in the table of completeness.")
    return lines


def _unknown_patients(results: pd.DataFrame) -> list[str]:
    if results.empty:
        return []
    without = set(only_numbers(results).index)
    known = results.loc[[i for i in results.index if i not in without]]
    unknown = sorted({str(t) for t in known.loc[known["patients_known"].isin([False]), "task"]})
    if not unknown:
        return []
    return [
        f"Patients are not known for {', '.join(unknown)}: each image counts as a patient there, and intervals are too "
        "narrow if patients have several images."
    ]


def _rising(cells: pd.DataFrame) -> list[str]:
    if cells.empty:
        return []
    rising = cells[cells["primary"] & (cells["still_rising"] >= RISING_SHARE)]
    cells_rising = rising[["task", "model_scale", "pretraining_source", "data_fraction"]].drop_duplicates()
    if cells_rising.empty:
        return []
    by_source = cells_rising["pretraining_source"].value_counts()
    listed = ", ".join(f"{source} ({n})" for source, n in by_source.items())
    return [
        f"In {plural(len(cells_rising), 'cell')} validation was still improving when training stopped, by source: "
        f"{listed}. At equal steps “pretraining helps” may then mean that the other had not finished."
    ]


def regime_caveats(results: pd.DataFrame) -> list[str]:
    """Curves along which a rule of the recipe jumps."""
    if results.empty or "regime" not in results:
        return []
    lines = []
    for task, rows in results[results["regime"].notna()].groupby("task", observed=True):
        names = rows["regime"].unique()
        if len(names) > 1:
            lines.append(
                f"{task}: the rule of the recipe (BiT-HyperRule) jumps in the curve ({', '.join(sorted(names))}): "
                "steps, warm-up, decay and mixup differ there, too, so a step in the curve is not one of labels alone."
            )
    return lines


def image_size_caveats(results: pd.DataFrame) -> list[str]:
    """Curves over scales along which the size of images changes, too."""
    if results.empty or "image_size" not in results:
        return []
    lines = []
    for task, rows in results[results["image_size"].notna()].groupby("task", observed=True):
        by_size = rows.groupby("image_size", observed=True)["model_scale"].unique()
        if len(by_size) > 1:
            listed = "; ".join(f"{size} px for {', '.join(map(str, scales))}" for size, scales in by_size.items())
            lines.append(
                f"{task}: images are resized and cropped differently for different scales ({listed}), so a difference "
                "between these scales is not one of scale alone."
            )
    return lines


def _seeds(evidence: Evidence) -> list[str]:
    results = evidence.results
    if results.empty:
        return []
    seeds = int(results.groupby(["task", "model_scale", "pretraining_source", "data_fraction"])["seed"].nunique().max())
    lines = []
    if seeds == 1:
        lines.append("One seed: every interval is conditional on this run and holds patients only.")
    elif seeds < FEW_SEEDS:
        lines.append(
            f"{seeds} seeds: intervals may be too narrow (in the worst case 92 % instead of 95 %); 5 are advised."
        )
    crossed = not (results["seed_subset"] == results["seed_init"]).all()
    if seeds > 1 and not crossed:
        lines.append(
            "A seed changes the training subset and the optimisation together: its variance is that of subset + "
            "optimisation, confounded."
        )
    if seeds > 1 and (results["data_fraction"].astype(str) == "1").any():
        lines.append(
            "With all labels every seed trains on the same images: the spread over seeds there is that of "
            "optimisation only."
        )
    return lines


def _mixed(results: pd.DataFrame) -> list[str]:
    lines = []
    for column, what in (("device", "devices"), ("commit", "versions of the code")):
        values = sorted({str(v) for v in results[column].dropna()}) if column in results else []
        if len(values) > 1:
            lines.append(f"Trials ran on {len(values)} different {what}: {', '.join(values[:6])}.")
    return lines


def _left_out(tables: Tables) -> list[str]:
    return [
        f"On {place} the macro average leaves out {', '.join(labels)}: too few patients with or without it to be "
        "tested. So does the metric in MLflow, unless an earlier version recorded the mean over all classes. "
        "A loss on a shifted set is over the labels of both sets."
        for place, labels in tables.left_out.items()
    ]


def _unrecorded(tables: Tables) -> list[str]:
    places: dict[str, list[str]] = {}
    for (task, name), columns in tables.unrecorded.items():
        for column in columns:
            places.setdefault(column, []).append(f"{task}, {name}")
    return [
        f"Subgroups by {column} are asked for, but it is not recorded for any patient of {'; '.join(where)}: nothing "
        "is said of harm by it there."
        for column, where in places.items()
    ]


def _excluded(tables: Tables) -> list[str]:
    """Every kind of result that is not used, used in part or doubtful, with its count."""
    lines = []
    for reason, rows in tables.exclusions.groupby("reason", sort=False):
        places = "; ".join(f"{r['task']}, {r['set']}: {r['trials']}" for r in rows.to_dict("records"))
        lines.append(f"{not_used(plural(int(rows['trials'].sum()), 'result'), str(reason))} ({places}).")
    return lines


def methods(evidence: Evidence, tables: Tables) -> tuple[str, ...]:
    """How the numbers were made, for a methods section."""
    level = f"{100 * (1 - evidence.alpha):g} %"
    primary = tables.contrasts[tables.contrasts["primary"]] if len(tables.contrasts) else tables.contrasts
    fractions = (
        ", ".join(amount_text(str(f)) for f in dict.fromkeys(primary["data_fraction"])) if len(primary) else "none"
    )
    size = plural(len(primary), "comparison")
    inner = f"{100 * (1 - 2 * evidence.alpha):g} %"
    return (
        *reported_methods(evidence),
        *([] if all_numbers(evidence.results) else [_INTERVALS.format(level=level)]),
        f"Comparisons are paired: {PAIRED_AS_REPORTED if evidence.ingested else _PAIRED}. "
        f"A source is compared with {evidence.baseline} at the same model scale, amount and task. The primary family "
        f"holds every such comparison on the test set at the declared amounts ({fractions}): {size}, corrected by Holm "
        "over the whole study. All else is exploratory.",
        f"Words: “helps” needs Holm's p below {evidence.alpha:g} and an interval above 0, “meaningfully” an interval "
        f"above {evidence.delta:g}; “no meaningful difference” a {inner} interval inside ±{evidence.delta:g}; else it "
        "is undecided, which is not the same as equal. “Seems to” marks verdicts that a gate holds back: fewer than "
        "five seeds, unknown patients, a source that may have seen the task, lost trials with which at chance the "
        "verdict changes, an opponent whose validation was still improving (all gates: Why believe it). "
        "Below 20 patients per class nothing is tested.",
        "All of this is conditional on the pool of training images and on the protocol: "
        f"{PROTOCOL_AS_REPORTED if evidence.ingested else _protocol_words(tables)}. Two draws of a large share of "
        "one pool overlap, so their spread shrinks by construction. Macro averages run over the classes that the "
        "evaluation set defines. This is not a clinical trial, and no causal claim is made.",
    )


def _protocol_words(tables: Tables) -> str:
    if tables.tuning.empty:
        same = "the recipe, its budget and its hyper-parameters are the same for all sources"
        return f"{same} unless the study says otherwise"
    return (
        "the recipe and its budget are the same for all sources unless the study says otherwise, and some of its "
        "hyper-parameters were chosen for each cell by a search of equal budget, on validation alone and with other "
        "seeds (see Tuning)"
    )


def facts(evidence: Evidence, tables: Tables) -> tuple[tuple[str, str], ...]:
    """The study in numbers."""
    results, completeness = evidence.results, tables.completeness
    planned = int(completeness["planned"].sum()) if len(completeness) else 0
    done = int(completeness["done"].sum()) if len(completeness) else len(results)
    others = evidence.ingested is not None
    shown = [("trials", count(done))] if others else [("trials done", f"{count(done)} of {count(planned)}")]
    if len(completeness) and completeness["failed"].sum():
        shown.append(("trials failed", count(completeness["failed"].sum())))
    if len(evidence.searches):
        shown.append(("search trials done", count(len(evidence.searches))))
    if results.empty:
        return tuple(shown)
    shown += [
        (label, count(results[column].nunique()))
        for label, column in (("tasks", "task"), ("model scales", "model_scale"), ("sources", "pretraining_source"))
    ]
    shown.append(("seeds", count(results["seed"].nunique())))
    if "seconds" in results and results["seconds"].notna().any():
        shown.append(("training time, all trials", seconds_text(float(results["seconds"].sum()))))
    return tuple(shown)


def provenance(evidence: Evidence, tracking_uri: str) -> tuple[tuple[str, str], ...]:
    """Where the numbers come from.

    Args:
        evidence: The study.
        tracking_uri: The record, without password.
    """
    results = evidence.results
    rows = [("study", evidence.name), ("record", tracking_uri)]
    if evidence.ingested:
        origin = evidence.ingested.ingested
        rows.append(("table of others' results", f"{origin.file}, {origin.rows} rows, sha256 {origin.sha256[:16]}"))
    if evidence.study:
        primaries = ", ".join(f"{name}: {metric_label(task.primary)}" for name, task in evidence.study.tasks.items())
        seeds = ", ".join(seed.label for seed in expand_seeds(evidence.study.seeds))
        rows += [("primary metrics", primaries), ("seeds", seeds)]
    for label, column in (("device", "device"), ("ranks per trial", "ranks"), ("commit of the code", "commit")):
        if values := _values(results, column):
            rows.append((label, values))
    if "manifest_hash" in results and len(results):
        pairs = results[["task", "manifest_hash"]].dropna().drop_duplicates().to_dict("records")
        rows += [(f"manifest of {pair['task']}", str(pair["manifest_hash"])) for pair in pairs]
    if "started_at" in results and results["started_at"].notna().any():
        first, last = (
            datetime.fromtimestamp(float(f), UTC) for f in (results["started_at"].min(), results["started_at"].max())
        )
        what = "table written" if evidence.ingested else "trials started"
        rows.append((what, f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"))
    installed = ", ".join(f"{name} {v}" for name in _PACKAGES if (v := _version(name)))
    rows += [("report made by", installed), ("science version", str(SCIENCE_VERSION))]
    rows.append(("report made at", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"))
    return tuple(rows)


def _values(results: pd.DataFrame, column: str) -> str:
    if column not in results:
        return ""
    values: list[Any] = list(dict.fromkeys(results[column].dropna()))
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values[:8])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
