"""One task by cell, and the table of cells with intervals over patients and seeds together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboards.amounts import amount_ranks, mean_images
from dashboards.evidence import IN_DOMAIN, CellKey, Evidence, TaskEstimates, trials_by_cell
from dashboards.statistics import Estimate, Influence, SeedKey, combined_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task's estimates by cell.

    Attributes:
        cells: Cell -> its trial ids by seed, in the study's order.
        facts: Cell -> images and patients (NaN if not known), place of its amount, share still rising and the like.
        hashes: Trial id -> hash of its subset order and of its subset; None where one is not known.
    """

    estimates: TaskEstimates
    cells: dict[CellKey, dict[SeedKey, str]]
    facts: dict[CellKey, dict[str, Any]]
    hashes: dict[str, tuple[str | None, str | None]]

    def runs(self, cell: CellKey, set_name: str, metric: str | None = None) -> dict[SeedKey, Influence]:
        """Seed -> estimate; seeds without one are left out."""
        values, name = self.estimates.values, metric or self.estimates.metric
        trials = self.cells.get(cell, {})
        return {s: values[t, set_name, name] for s, t in trials.items() if (t, set_name, name) in values}

    def shifted_runs(self, cell: CellKey, set_name: str) -> tuple[dict[SeedKey, Influence], dict[SeedKey, Influence]]:
        """Seed -> primary metric in domain, and on a shifted set: of a macro average over the labels of both sets."""
        estimates = self.estimates
        if estimates.shared_classes.get(set_name) == ():
            return {}, {}
        trials = self.cells.get(cell, {})
        pairs = {s: estimates.on_shared[t, set_name] for s, t in trials.items() if (t, set_name) in estimates.on_shared}
        if pairs:
            return {s: near for s, (near, _) in pairs.items()}, {s: far for s, (_, far) in pairs.items()}
        return self.runs(cell, IN_DOMAIN), self.runs(cell, set_name)

    def coordinates(self, cell: CellKey) -> dict[str, Any]:
        """The cell's axes, as columns."""
        scale, source, fraction = cell
        return {
            "task": self.estimates.task,
            "model_scale": scale,
            "pretraining_source": source,
            "data_fraction": fraction,
        }


def view(evidence: Evidence, estimates: TaskEstimates) -> TaskView:
    """Arrange a task's estimates by cell."""
    cells = trials_by_cell(estimates.rows)
    order = _axis_order(evidence, estimates.rows)
    cells = dict(sorted(cells.items(), key=lambda item: tuple(order[a].get(v, 0) for a, v in enumerate(item[0]))))
    facts = {
        key: _cell_facts(estimates.rows.loc[list(trials.values())]) | {"amount_rank": order[2][key[2]]}
        for key, trials in cells.items()
    }
    return TaskView(estimates=estimates, cells=cells, facts=facts, hashes=subset_hashes(estimates.rows))


def subset_hashes(rows: pd.DataFrame) -> dict[str, tuple[str | None, str | None]]:
    """Trial id -> hash of its subset order and of its subset; None where one is not known."""
    return {
        str(row["trial_id"]): (_text(row["order_hash"]), _text(row["subset_hash"]))
        for row in rows[["trial_id", "order_hash", "subset_hash"]].to_dict("records")
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _axis_order(evidence: Evidence, rows: pd.DataFrame) -> list[dict[str, float]]:
    """Position of each scale, source and amount: as in the study, amounts by images, the baseline first."""
    scales = dict.fromkeys([*evidence.plan.axis_values("model_scale"), *rows["model_scale"].astype(str)])
    sources = dict.fromkeys([*evidence.plan.axis_values("pretraining_source"), *rows["pretraining_source"].astype(str)])
    amounts = amount_ranks(rows["data_fraction"].astype(str), mean_images(rows))
    ranked = [s for s in sources if s == evidence.baseline] + [s for s in sources if s != evidence.baseline]
    return [*({str(name): float(i) for i, name in enumerate(names)} for names in (scales, ranked)), amounts]


def _cell_facts(rows: pd.DataFrame) -> dict[str, Any]:
    known = rows["patients_known"].dropna()
    rising = rows["still_rising"].dropna()
    return {
        "images": float(rows["n_images"].mean()),
        "patients": float(rows["n_patients"].mean()),
        "val_images": float(rows["n_val_images"].mean()),
        "val_patients": float(rows["n_val_patients"].mean()),
        "device_seconds": _device_seconds(rows),
        "still_rising": float(rising.astype(float).mean()) if len(rising) else float("nan"),
        "parameters": float(rows["parameters"].mean()),
        "ladder": next((str(v) for v in rows["ladder"].dropna() if v), ""),
        "patients_known": bool(known.astype(bool).all()) if len(known) == len(rows) else _not_all_known(known),
    }


def _not_all_known(known: pd.Series[bool]) -> bool | None:
    """Of a cell some of whose trials do not say: False if any says no, else None."""
    return None if known.astype(bool).all() else False


def _device_seconds(rows: pd.DataFrame) -> float:
    """Training seconds times ranks, mean over trials; NaN where it was not recorded."""
    if "train_s" not in rows:
        return float("nan")
    ranks = rows["ranks"].astype("Float64").astype(float).fillna(1.0) if "ranks" in rows else 1.0
    return float((rows["train_s"].astype("Float64").astype(float) * ranks).mean())


def cell_rows(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    """Each cell on each evaluation set, primary and secondary metrics, with intervals."""
    metrics = dict.fromkeys([task.estimates.metric, *(metric for _, _, metric in task.estimates.values)])
    for cell, facts in task.facts.items():
        for set_name in task.estimates.sets:
            for metric in metrics:
                if not (runs := task.runs(cell, set_name, metric)):
                    continue
                estimate = combined_interval(runs, level=1 - evidence.alpha)
                sizes = task.estimates.sizes[set_name]
                yield {
                    **task.coordinates(cell),
                    "set": set_name,
                    "metric": metric,
                    "primary": metric == task.estimates.metric,
                    **numbers(estimate),
                    "images": facts["images"],
                    "train_patients": facts["patients"],
                    "val_images": facts["val_images"],
                    "test_images": sizes["images"],
                    "n_pos": sizes["n_pos"],
                    "rarest_label": sizes["rarest_label"],
                    "still_rising": facts["still_rising"],
                    "parameters": facts["parameters"],
                    "ladder": facts["ladder"],
                    "notes": "; ".join(estimate.notes),
                }


def numbers(estimate: Estimate, name: str = "value") -> dict[str, Any]:
    """An estimate as columns; its value under ``name``."""
    return {
        name: estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "level": estimate.level,
        "se": estimate.se,
        "df": estimate.df,
        "v_case": estimate.v_case,
        "v_seed": estimate.v_seed,
        "n_seeds": estimate.n_seeds,
        "n_patients": estimate.n_patients,
    }


def named_interval(name: str, estimate: Estimate | None) -> dict[str, float]:
    """An estimate and its interval as columns ``name``, ``name_low``, ``name_high``; NaN without one."""
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
