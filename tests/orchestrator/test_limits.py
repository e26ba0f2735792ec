"""Limits of a run, from the command line to what is started; training is planted."""

from __future__ import annotations

import pytest

from orchestrator import api, further_representations, further_sets
from orchestrator.api import run_study
from orchestrator.record import Record
from search_spaces.exceptions import TrackingError
from search_spaces.names import FailureClass
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
    monkeypatch.setattr(api, "write_report", lambda *_: (None, ()))
    monkeypatch.setattr(further_sets, "score_missing", lambda *_: 0)
    monkeypatch.setattr(further_representations, "keep_missing", lambda *_: None)
    return Planted(slots=1, nodes=[{"Alive": True, "Resources": {"CPU": 8, "GPU": 1}}]).install(monkeypatch)


def test_what_would_exceed_the_gpu_hours_is_not_started_and_the_exit_code_says_so(planted, tmp_path):
    file = write_study(tmp_path, axes=AXES, execution=GPU)
    told = call("run", file, "--max-gpu-hours", GPU_HOURS, code=3)
    assert len(planted.trained) == 2, "a third would take more than the 10 s that are left"
    assert "2 trials were not started, because they would have exceeded --max-gpu-hours" in told
    assert "2 trials are put off: they would exceed the GPU-hours allowed (0.01 spent)" in told
    assert "2 trials trained, 2 were done before" in call("run", file), "the next run takes them up"
    assert len(planted.trained) == TRIALS


def test_a_retry_is_limited_by_what_the_whole_study_has_taken(planted, tmp_path):
    file = write_study(tmp_path, axes=AXES, execution=GPU)
    planted.breaks = lambda trial: FailureClass.USER if len(planted.trained) > 2 else None
    call("run", file, code=3)
    planted.breaks = lambda trial: None
    before = len(planted.trained)
    told = call("retry", file, "--failed", "--yes", "--max-gpu-hours", 15 / 3600, code=3)
    assert len(planted.trained) == before, "20 s are more than the 15 allowed"
    assert "2 trials were not started" in told


def test_what_resumed_trials_took_before_is_not_spent_and_yet_expected_of_others(planted, tmp_path):
    planted.earlier_s = lambda trial: 180.0 if len(planted.trained) == 1 else 0.0
    ran = run_study(write_study(tmp_path, axes=AXES, execution=GPU), max_gpu_hours=100 / 3600, progress=False)
    assert (ran.summary.trained, ran.summary.over_budget) == (1, 3), "20 s are spent, and others will take 200"


def test_a_part_of_a_study_is_limited_by_what_the_rest_has_taken(planted, tmp_path):
    file = write_study(tmp_path, axes=AXES, execution=GPU)
    call("run", file, "--only", "seed=0")
    before = len(planted.trained)
    told = call("run", file, "--only", "seed=1", "--max-gpu-hours", 15 / 3600, code=3)
    assert len(planted.trained) == before == 2, "20 s are more than the 15 allowed"
    assert "2 trials were not started" in told


def test_the_python_function_counts_what_was_left(planted, tmp_path):
    ran = run_study(write_study(tmp_path, axes=AXES, execution=GPU), max_gpu_hours=GPU_HOURS, progress=False)
    assert (ran.summary.trained, ran.summary.over_budget) == (2, 2)
    assert not ran.summary.everything_asked_is_true


def test_a_limit_for_trials_without_gpus_is_refused_by_a_run(planted, tmp_path):
    file = write_study(tmp_path, axes=AXES, execution={"gang": {"gpus_per_rank": 0}})
    assert "no trial here uses a GPU" in call("run", file, "--max-gpu-hours", 1, code=1)
    assert planted.trained == []


def test_what_the_record_does_not_take_is_told_why_and_never_trained_again(planted, tmp_path, monkeypatch):
    file = write_study(tmp_path, axes=AXES)

    def away(self, entry):
        raise TrackingError("the artifact store is full")

    with monkeypatch.context() as patch:
        patch.setattr(Record, "_deliver", away)
        told = call("run", file, code=3)
        assert f"{TRIALS} results wait in the storage for the next run" in told
        assert "the artifact store is full" in told
        again = call("run", file, code=1)
        assert f"{TRIALS} attempts of earlier runs wait in the storage" in again
        assert "the artifact store is full" in again
    last = call("run", file)
    assert f"delivered {TRIALS} attempts that were waiting" in last
    assert f"0 trials trained, {TRIALS} were done before" in last
    assert len(planted.trained) == TRIALS


@pytest.mark.parametrize(("option", "most"), [((), 7), (("--max-concurrent", "3"), 3)])
def test_the_most_trials_at_a_time_reach_the_executor(planted, tmp_path, option, most):
    call("run", write_study(tmp_path, axes=AXES, execution=GPU), *option)
    assert [options["max_concurrent"] for options in planted.asked] == [most]


def test_where_memory_ran_out_later_runs_save_it_from_the_start_on_the_same_devices(planted, tmp_path):
    planted.breaks = lambda trial: None if trial.workspace.save_memory else FailureClass.MEMORY
    planted.nodes[0]["Resources"]["accelerator_type:A100"] = 1.0
    call("run", write_study(tmp_path, axes=AXES, execution=GPU))
    saved = [trial.workspace.save_memory for trial in planted.trained]
    assert saved == [False, *[True] * TRIALS], "one of them found out"

    planted.trained.clear()
    call("run", write_study(tmp_path, axes=AXES, execution=GPU, seeds=3))
    assert [trial.workspace.save_memory for trial in planted.trained] == [True] * (TRIALS // 2)

    planted.trained.clear()
    planted.breaks = lambda trial: None
    planted.nodes[0]["Resources"] = {"CPU": 8, "GPU": 1, "accelerator_type:H200": 1.0}
    call("run", write_study(tmp_path, axes=AXES, execution=GPU, seeds=4))
    assert [trial.workspace.save_memory for trial in planted.trained] == [False] * (TRIALS // 2), "others may hold it"
