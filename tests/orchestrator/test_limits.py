"""Limits of a run, from the command line to what is started; training is planted."""

from __future__ import annotations

import pytest

from orchestrator import api, engine, further_representations, further_sets
from orchestrator.api import run_study
from tests.orchestrator.fake_executor import Planted
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import raw_study, write_study

TRIALS = 4
AXES = raw_study()["axes"] | {"pretraining_source": ["random"]}
GPU = {"gang": {"gpus_per_rank": 1}, "max_concurrent": 7}
GPU_HOURS = 50 / 3600
"""Planted trials take 20 s of one GPU."""


@pytest.fixture
def planted(monkeypatch):
    """A cluster of one GPU in name only; what runs after training is left out."""
    monkeypatch.setattr(engine, "present_and_possible", lambda: [{"Alive": True, "Resources": {"CPU": 8, "GPU": 1}}])
    monkeypatch.setattr(api, "write_report", lambda *_: (None, ()))
    monkeypatch.setattr(further_sets, "score_missing", lambda *_: 0)
    monkeypatch.setattr(further_representations, "keep_missing", lambda *_: None)
    return Planted(slots=1).install(monkeypatch)


def test_what_would_exceed_the_gpu_hours_is_not_started_and_the_exit_code_says_so(planted, tmp_path):
    file = write_study(tmp_path, axes=AXES, execution=GPU)
    told = call("run", file, "--max-gpu-hours", GPU_HOURS, code=3)
    assert len(planted.trained) == 2, "a third would take more than the 10 s that are left"
    assert "2 trials were not started, because they would have exceeded --max-gpu-hours" in told
    assert "2 trials are put off: they would exceed the GPU-hours allowed (0.01 spent)" in told
    assert "2 trials trained, 2 were done before" in call("run", file), "the next run takes them up"
    assert len(planted.trained) == TRIALS


def test_the_python_function_counts_what_was_left(planted, tmp_path):
    ran = run_study(write_study(tmp_path, axes=AXES, execution=GPU), max_gpu_hours=GPU_HOURS, progress=False)
    assert (ran.summary.trained, ran.summary.over_budget) == (2, 2)
    assert not ran.summary.everything_asked_is_true


def test_a_limit_for_trials_without_gpus_is_refused_by_a_run(planted, tmp_path):
    file = write_study(tmp_path, axes=AXES, execution={"gang": {"gpus_per_rank": 0}})
    assert "no trial here uses a GPU" in call("run", file, "--max-gpu-hours", 1, code=1)
    assert planted.trained == []


@pytest.mark.parametrize(("option", "most"), [((), 7), (("--max-concurrent", "3"), 3)])
def test_the_most_trials_at_a_time_reach_the_executor(planted, tmp_path, option, most):
    call("run", write_study(tmp_path, axes=AXES, execution=GPU), *option)
    assert [options["max_concurrent"] for options in planted.asked] == [most]
