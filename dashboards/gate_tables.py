"""Which gates the contrasts of a source pass, with the reason where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dashboards.statistics import Facts, Gate, GateName, open_gates

QUESTIONS = {
    GateName.LEAKAGE: "no patient in both training and evaluation",
    GateName.COPIES: "no image a near copy of one in training",
    GateName.UPSTREAM: "the source has not seen the task's data",
    GateName.SELECTION: "models chosen on validation alone",
    GateName.PATIENTS: "patients known",
    GateName.PAIRING: "paired by task, subset order and seed",
    GateName.CLASS_SET: "averaged classes frozen before results",
    GateName.LADDER: "scales of one ladder",
    GateName.WAIVED: "nothing waived",
    GateName.LOST_TRIALS: "holds with lost trials at chance",
    GateName.CONVERGENCE: "the losing side had levelled off",
    GateName.SIZE: "enough patients of each class",
    GateName.SEEDS: "enough seeds",
    GateName.EXTERNAL: "tested on patients of another site",
    GateName.LOOKS: "no seeds added after test results were read",
}
"""Gate -> what passes it."""


def gate_table(contrasts: pd.DataFrame, facts: Sequence[Facts]) -> pd.DataFrame:
    """One row per task, source, evaluation set and gate.

    Args:
        contrasts: Decided contrasts.
        facts: The facts of each.

    Returns:
        Columns task, pretraining_source, set, gate, question, contrasts (all), passed, reasons (of those that do not
        pass), cap (best grade that is left; blank if all pass).
    """
    groups: dict[tuple[str, str, str], list[dict[GateName, Gate]]] = {}
    for row, known in zip(contrasts.to_dict("records"), facts, strict=True):
        key = (str(row["task"]), str(row["pretraining_source"]), str(row["set"]))
        groups.setdefault(key, []).append({gate.name: gate for gate in open_gates(known)})
    rows: list[dict[str, Any]] = []
    for (task, source, set_name), gates in groups.items():
        for name, question in QUESTIONS.items():
            failed = [of[name] for of in gates if name in of]
            reasons = dict.fromkeys(gate.reason for gate in failed)
            rows.append(
                {"task": task, "pretraining_source": source, "set": set_name, "gate": str(name), "question": question}
                | {"contrasts": len(gates), "passed": len(gates) - len(failed), "reasons": "; ".join(reasons)}
                | {"cap": max((str(gate.cap) for gate in failed), default="")}
            )
    return pd.DataFrame(rows)
