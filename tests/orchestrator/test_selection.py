"""What ``--only`` leaves out is still part of the study: reports and expectations know it. Training is planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dashboards.data_cards import load_data_cards
from dashboards.planned import load_planned
from dashboards.report import build_report
from orchestrator import api, evaluate_study, further_representations, further_sets, retry_study, run_study
from orchestrator.known_trials import known_trials
from orchestrator.plan import Plan
from orchestrator.plan_whole import whole_of
from orchestrator.record import Record
from search_spaces.home import scalecurves_home
from search_spaces.names import FailureClass
from tests.orchestrator.fake_executor import Planted
from tests.orchestrator.small_runs import call, plan_of
from tests.orchestrator.small_study import raw_study, rewrite_study, write_study
from trainables.library import TaskLibrary

pytest_plugins = ("tests.orchestrator.record_plugin",)

SEEDS = 3
AXES = raw_study()["axes"] | {"pretraining_source": ["random"], "data_fraction": [1.0]}
CHANGED = raw_study()["protocol"] | {"lr": 0.02}
PARAMETERS = 270_000
"""Of every planted trial, as the record has it."""


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tracking_uri: str) -> Planted:
    """Trials end at once; their weights are none, so nothing is made from them."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setattr(further_sets, "score_missing", lambda *_: 0)
    monkeypatch.setattr(further_representations, "keep_missing", lambda *_: None)
    return Planted().install(monkeypatch)


@pytest.fixture
def changed(planted: Planted, tmp_path: Path) -> Path:
    """A study all of whose trials have ended before its learning rate was changed."""
    file = write_study(tmp_path, axes=AXES, seeds=SEEDS)
    run_study(file, out=tmp_path / "before", progress=False)
    return rewrite_study(tmp_path, axes=AXES, seeds=SEEDS, protocol=CHANGED)


def is_of_one_new_trial(page: Path, headlines: tuple[str, ...] | list[str]) -> bool:
    """Whether a report shows one trial of the changed study and sets those of the former one aside."""
    done = f"1 of {SEEDS} planned trials done" in " ".join(headlines)
    return done and f"{SEEDS} finished trials of the record not shown" in page.read_text("utf-8")


def test_a_part_that_is_run_sets_the_former_version_of_the_rest_aside(
    changed: Path, tmp_path: Path, tracking_uri: str
) -> None:
    ran = run_study(changed, only="seed=0", out=tmp_path / "report", progress=False)
    assert (ran.summary.trained, len(ran.plan.targets)) == (1, 1)
    assert ran.report is not None
    assert is_of_one_new_trial(ran.report, ran.headlines)
    planned = load_planned("small", tracking_uri)
    assert planned is not None
    assert {t["trial_id"] for t in planned["targets"]} == {t.trial_id for t in plan_of(changed).targets}
    later = build_report("small", tmp_path / "later", tracking_uri)
    assert is_of_one_new_trial(later.index_html, later.headlines), "from what the record has of the plan"


def test_the_note_counts_the_whole_study(planted: Planted, tmp_path: Path) -> None:
    file = write_study(tmp_path, axes=AXES, seeds=SEEDS)
    counts: list[dict[str, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "set_progress", lambda record, found: counts.append(dict(found)))
        for seed in range(2):
            call("run", file, "--only", f"seed={seed}", "--out", tmp_path / "report")
    assert [found["complete"] for found in counts] == [1, 2]


def test_a_part_that_is_tried_again_sets_the_former_version_of_the_rest_aside(
    changed: Path, planted: Planted, tmp_path: Path
) -> None:
    planted.breaks = lambda trial: FailureClass.USER
    run_study(changed, only="seed=0", out=tmp_path / "broken", progress=False)
    planted.breaks = lambda trial: None
    ran = retry_study(changed, failed=True, only="seed=0", out=tmp_path / "report", progress=False)
    assert ran is not None
    assert ran.report is not None
    assert is_of_one_new_trial(ran.report, ran.headlines)


def test_a_part_that_is_scored_sets_the_former_version_of_the_rest_aside(
    changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study(changed, only="seed=0", out=tmp_path / "ran", progress=False)

    def score(plan: Plan, set_name: str, places: Any, console: Any) -> tuple[Record, further_sets.Scored]:
        record = Record(plan.study, places.storage_of("small"), places.tracking_uri)
        record.open(runs=False)
        return record, further_sets.Scored(scored=1, known=0, unfinished=0, without_weights=0)

    monkeypatch.setattr(further_sets, "evaluate_on", score)
    made = evaluate_study(changed, "site_b", only="seed=0", out=tmp_path / "api", progress=False)
    assert is_of_one_new_trial(made.page, made.headlines)
    told = call("evaluate", changed, "--on", "site_b", "--only", "seed=0", "--out", tmp_path / "command")
    assert is_of_one_new_trial(tmp_path / "command" / "index.html", [" ".join(told.split())])


def test_a_part_can_be_run_while_the_rest_has_problems(planted: Planted, tmp_path: Path) -> None:
    tasks = raw_study()["tasks"] | {"lost": {"manifest": "not_there", "primary": "auc"}}
    file = write_study(tmp_path, axes=AXES | {"task": ["spots", "lost"]}, tasks=tasks, seeds=1)
    told = " ".join(call("run", file, "--only", "task=spots", "--out", tmp_path / "report").split())
    assert "1 trials trained" in told
    assert "what --only leaves out cannot be planned, so any of its trials may be in the report: " in told
    assert "not_there" in told
    assert (tmp_path / "report" / "index.html").is_file()


def test_what_a_plan_of_a_part_found_in_images_is_kept_in_that_of_the_whole(tmp_path: Path) -> None:
    part = plan_of(write_study(tmp_path, seeds=1), only="data_fraction=1.0,pretraining_source=random")
    assert part.resolver is not None
    part.resolver.near_copies["spots"] = {"site_b": 3}
    whole = whole_of(part, TaskLibrary(scalecurves_home()))
    assert whole.resolver is not None
    assert len(whole.targets) > len(part.targets)
    assert whole.resolver.near_copies == {"spots": {"site_b": 3}}
    assert set(part.notes) <= set(whole.notes)
    assert whole_of(whole, TaskLibrary(scalecurves_home())) is whole


def test_the_data_card_of_a_task_counts_all_amounts_of_the_study(
    planted: Planted, tmp_path: Path, tracking_uri: str
) -> None:
    file = write_study(tmp_path, axes=AXES | {"data_fraction": [0.3, 1.0]}, seeds=1)
    run_study(file, only="data_fraction=1.0", out=tmp_path / "report", progress=False)
    card = load_data_cards("small", tracking_uri)["spots"]
    assert [row["data_fraction"] for row in card["fractions"]] == ["0.3", "1"]


def test_trials_that_only_leaves_out_say_what_others_take(planted: Planted, tmp_path: Path) -> None:
    file = write_study(tmp_path, axes=AXES, seeds=SEEDS, execution={"gang": {"gpus_per_rank": 1}})
    call("run", file, "--only", "seed=0", "--out", tmp_path / "report")
    [done] = planted.trained
    known = known_trials(plan_of(file, only="seed=1"), api.places_of())
    [elsewhere] = known.elsewhere
    side = raw_study()["scales"]["narrow"]["input_size"]
    assert elsewhere.trial_id == done.trial_id
    assert elsewhere.cost == pytest.approx(elsewhere.images * side**2 * PARAMETERS), "comparable over scales"
    assert known.took == {done.trial_id: pytest.approx(20.0)}
    assert [work.trial_id for work in known.works] == [t.trial_id for t in known.todo]


def test_without_other_trials_in_the_record_the_rest_is_not_planned(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(tmp_path, axes=AXES, seeds=SEEDS)
    call("run", file, "--only", "seed=0", "--out", tmp_path / "report")
    monkeypatch.setattr("orchestrator.known_trials.whole_of", lambda *_: pytest.fail("planned"))
    assert known_trials(plan_of(file, only="seed=0"), api.places_of()).elsewhere == []
