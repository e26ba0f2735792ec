"""Whoever dies, wherever: the command is started again, and its study is what it would have been."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("ray")

from benchmarks.chaos import compare, every_failpoint
from benchmarks.chaos_stage import finish, new_stage, study_of
from search_spaces.failpoints import POINTS
from tests.orchestrator.in_process import InProcess

TRIALS = 2


def stage_of(folder: Path, name: str) -> InProcess:
    made = new_stage(folder, name, TRIALS)
    study = study_of(TRIALS)
    study["scales"]["small"]["arguments"]["step_s"] = 0.0
    study["protocol"] |= {"budget": {"steps": 6}, "evaluations": 3}
    study["execution"]["gang"] = {"ranks": 1, "gpus_per_rank": 0}
    (made.home / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return InProcess(made.home, made.tracking_uri)


@pytest.mark.slow
def test_a_kill_at_every_failpoint_changes_no_result_and_loses_none(tmp_path: Path) -> None:
    calm, pointed = stage_of(tmp_path, "calm"), stage_of(tmp_path, "pointed")
    finish(calm)
    reference = calm.metrics()
    assert len(reference) == TRIALS
    assert all(reference.values())
    assert calm.starts == 1
    assert every_failpoint(pointed) == len(POINTS)
    assert compare(pointed, reference) == {"lost": 0, "duplicated": 0, "different": 0}
    assert pointed.starts == len(POINTS) + 1, "each point ended one process"
