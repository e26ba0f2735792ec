"""What the driver keeps of trials that have ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.tune.experiment import Trial

from orchestrator.brake import Brake
from orchestrator.pilot import Pilot, TrialOutcome


def reported(trial: Trial, **result: Any) -> dict[str, Any]:
    filled = {"training_iteration": 1, "trial_id": trial.trial_id, "time_total_s": 1.0, "config": dict(trial.config)}
    trial.update_last_result({**filled, **result})
    return {**filled, **result}


def test_of_a_trial_that_has_ended_tune_keeps_what_it_asks_for_and_little_else() -> None:
    outcomes: list[TrialOutcome] = []
    brake = Brake(None, 1.0, lambda: None)
    pilot = Pilot(None, brake, lambda report: None, outcomes.append, set())
    payload = json.dumps({"trial_id": "a", "attempt_id": "a-1", "rest": "x" * 10_000})
    trial = Trial("any", config={"broker": "b", "trial": payload}, stub=True)
    reported(trial, report="{}")
    ended = {"ending": json.dumps({"stopped": True}), "done": True}
    pilot._to_stop = {"a"}
    pilot.on_trial_result(0, [trial], trial, reported(trial, **ended))
    assert [o.trial_id for o in outcomes] == ["a"]
    assert len(str(trial.last_result)) > 10_000
    pilot.on_trial_complete(0, [trial], trial)
    assert trial.last_result["training_iteration"] == 1
    assert trial.config == {"broker": "b"}
    assert sum(map(len, trial.get_json_state())) < 5_000
    assert trial.metric_analysis == {}
