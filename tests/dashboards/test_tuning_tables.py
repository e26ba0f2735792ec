"""What a report says of tuned cells, and which finished trials belong to a tuned plan."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest

from dashboards.evidence import Evidence
from dashboards.planned import current_trials, make_plan
from dashboards.tuning_tables import tuning_caveats, tuning_intro, tuning_table
from tests.dashboards.synthetic import make_study

TUNING: dict[str, Any] = {
    "trials": 6,
    "space": {
        "lr": {"log": [1e-4, 1.0]},
        "momentum": {"uniform": [0.0, 0.9]},
        "augmentation.crop_scale": {"choice": [[0.5, 1.0], [1.0, 1.0]]},
    },
}
CELL = {"task": "skin", "model_scale": "small", "pretraining_source": "natural", "data_fraction": "0.2"}


def final(
    seed: int = 0, lr: float = 0.0123456, momentum: float = 0.5, search: str = "s1", **more: Any
) -> dict[str, Any]:
    values = {"lr": lr, "momentum": momentum, "augmentation.crop_scale": [0.5, 1.0]}
    row = CELL | {"trial_id": f"{search}-{seed}", "seed": str(seed), "started_at": float(seed)}
    return row | {"search_id": search, "search_number": 2, "tuned": json.dumps(values)} | more


def evidence(*finals: dict[str, Any]) -> Evidence:
    tried = [{"search_id": s, "search_number": k, "best_value": 0.5 + 0.1 * k} for s in ("s1", "s2") for k in range(4)]
    failed = [{"search_id": "s1", "trial_id": f"f{k}"} for k in range(2)]
    return Evidence(
        name="synthetic",
        results=pd.DataFrame(list(finals)),
        predictions={},
        failures=pd.DataFrame(),
        study=make_study(tuning=TUNING),
        searches=pd.DataFrame(tried),
        search_failures=pd.DataFrame(failed),
    )


def test_one_row_per_cell_with_the_values_and_what_they_were_chosen_from():
    table = tuning_table(evidence(final(0), final(1), final(0, search="s2", task="brain")))
    assert table["task"].tolist() == ["skin", "brain"]
    row = table.iloc[0]
    assert (row["search_trials"], row["failed"], row["proposal"]) == (6, 2, 2)
    assert row["chosen"] == "lr 0.0123, momentum 0.5, augmentation.crop_scale [0.5, 1]"
    assert json.loads(row["tuned"])["lr"] == 0.0123456
    assert row["validation"] == pytest.approx(0.7)
    assert row["validation_median"] == pytest.approx(0.65)
    assert (table.iloc[1]["search_trials"], table.iloc[1]["failed"]) == (4, 0)


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ({"lr": 1.2e-4}, "lr"),
        ({"lr": 0.1}, ""),
        ({"lr": 0.99, "momentum": 0.01}, "lr, momentum"),
        ({"momentum": 0.06}, ""),
    ],
)
def test_a_value_at_the_edge_of_its_range_is_named(values, edges):
    table = tuning_table(evidence(final(**values)))
    assert table["at_edge"].tolist() == [edges]
    lines = tuning_caveats(table)
    assert "leaves out what another search would have chosen" in lines[0]
    assert [line for line in lines[1:] if f"the chosen {edges} lies at the edge" in line] == lines[1:]
    assert bool(edges) == (len(lines) == 2)


def test_a_study_without_search_says_nothing():
    plain = evidence({**CELL, "trial_id": "t", "seed": "0", "search_id": None})
    assert tuning_table(plain).empty
    assert tuning_caveats(tuning_table(plain)) == []


def test_values_are_shown_although_the_search_trials_are_gone():
    one = evidence(final(search="lost"))
    row = tuning_table(one).iloc[0]
    assert (row["search_trials"], math.isnan(row["validation"])) == (0, True)
    intro = tuning_intro(one.study.tuning if one.study else None, tuning_table(one))
    assert "6 proposals (tpe) over lr, momentum, augmentation.crop_scale, each trained with 1 search seed" in intro


def test_trials_of_another_search_are_no_part_of_the_plan():
    target = {**CELL, "seed": "0", "trial_id": None, "search_id": "s2"}
    plan = make_plan(None, {"targets": [target, {**target, "seed": "1"}]})
    results = pd.DataFrame([final(0, search="s1", started_at=9.0), final(0, search="s2"), final(1, search="s1")])
    shown, stale = current_trials(results, plan)
    assert shown["trial_id"].tolist() == ["s2-0"]
    assert stale == 2
