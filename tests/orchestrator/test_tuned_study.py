"""A study whose cells are tuned, from its first run to its extension; training is planted, all else is real."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dashboards import load_failures, load_results
from dashboards.planned import load_planned
from dashboards.report import build_report
from orchestrator.cancel import selected_keys
from orchestrator.costing import CostOptions, costed
from orchestrator.drivers import DriverNote
from orchestrator.engine import Engine, Places, RunSummary
from orchestrator.estimate import estimate
from orchestrator.known_trials import known_trials
from orchestrator.plan import Plan, make_plan
from orchestrator.plan_text import plan_json
from orchestrator.prune import Prunable, find
from orchestrator.prune_rules import WeightsRule
from orchestrator.retry import choose_failed, retry_options
from orchestrator.run_terms import RunOptions
from orchestrator.status import study_status
from orchestrator.why import explain, print_explanation
from search_spaces.files import load_study
from search_spaces.home import scalecurves_home
from search_spaces.names import FailureClass, Role
from search_spaces.trial import ResolvedTrial
from tests.orchestrator.fake_executor import DIVERGES_FROM, Planted, value_of
from tests.orchestrator.small_study import raw_study, rewrite_study, write_study
from trainables.library import TaskLibrary

pytest_plugins = ("tests.orchestrator.record_plugin",)

TRIALS, CELLS, SEEDS = 5, 2, 2
TUNING: dict[str, Any] = {"trials": TRIALS, "generation_size": 2, "space": {"lr": {"log": [1e-5, 1.0]}}}
SEARCH_TRIALS = TRIALS * CELLS
UPSTREAM = SEEDS + 1
"""Of the study's seeds and of the search's."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_study(tmp_path)
    return tmp_path


class Study:
    """A tuned study of two cells, one of which starts from upstream trials."""

    def __init__(self, folder: Path, tracking_uri: str, name: str = "tuned") -> None:
        self.folder, self.name = folder, name
        self.places = Places(home=scalecurves_home(), storage=str(folder / "storage"), tracking_uri=tracking_uri)

    def plan(self, only: str | None = None, **changes: Any) -> Plan:
        axes = raw_study()["axes"] | {"data_fraction": [1.0]}
        raw = {"name": self.name, "axes": axes, "tuning": TUNING, "protocol": raw_study()["protocol"] | {"lr": 1e-5}}
        file = rewrite_study(self.folder, **raw | changes)
        return make_plan(load_study(str(file)), TaskLibrary(scalecurves_home()), only, load_weights=False)

    def run(self, only: str | None = None, **changes: Any) -> RunSummary:
        return Engine(self.plan(only, **changes), self.places, Console(quiet=True)).run()

    def status(self, **changes: Any) -> dict[str, Any]:
        return study_status(self.plan(**changes), self.places)


@pytest.fixture
def study(folder: Path, tracking_uri: str) -> Study:
    return Study(folder, tracking_uri)


def roles(trained: list[ResolvedTrial]) -> Counter[Role]:
    return Counter(trial.role for trial in trained)


def ids(trained: list[ResolvedTrial]) -> set[str]:
    return {trial.trial_id for trial in trained}


def test_final_trials_are_trained_with_what_is_best_on_validation(study, monkeypatch):
    planted = Planted().install(monkeypatch)
    summary = study.run()
    searched = [t for t in planted.trained if t.role is Role.SEARCH]
    finals = [t for t in planted.trained if t.role is Role.TARGET]
    assert roles(planted.trained) == {Role.SEARCH: SEARCH_TRIALS, Role.TARGET: CELLS * SEEDS, Role.UPSTREAM: UPSTREAM}
    assert not summary.failed

    assert all(not t.task.evaluate and t.workspace.keep_weights == "none" for t in searched)
    assert {t.seed.init for t in searched}.isdisjoint(t.seed.init for t in finals)
    assert {t.protocol.lr for t in planted.trained if t.role is Role.UPSTREAM} == {1e-5}
    for source in ("random", "spots_pre"):
        mine = [t for t in finals if t.source.name == source]
        tried = [t for t in searched if t.source.name == source]
        best = max((t for t in tried if t.protocol.lr < DIVERGES_FROM), key=lambda t: value_of(t.protocol.lr))
        assert {t.protocol.lr for t in mine} == {best.protocol.lr}
        assert value_of(best.protocol.lr) > value_of(1e-5) + 0.1
        for final in mine:
            assert final.search is not None
            assert final.search.trial_ids == (best.trial_id,)
            assert {t.search.search_id for t in tried if t.search} == {final.search.search_id}
    first = next(n for n, t in enumerate(planted.trained) if t.role is Role.TARGET)
    assert roles(planted.trained[:first])[Role.SEARCH] >= TRIALS


def test_spent_trials_are_results_and_not_failures_of_the_study(study, monkeypatch):
    planted = Planted().install(monkeypatch)
    study.run()
    diverged = [t for t in planted.trained if t.protocol.lr >= DIVERGES_FROM]
    assert diverged, "the space holds values that diverge"
    assert all(t.role is Role.SEARCH for t in diverged)
    stands = study.status()
    assert (stands["done"], stands["failed"], stands["missing"]) == (CELLS * SEEDS, 0, 0)
    assert stands["search"] == {
        "trials": SEARCH_TRIALS,
        "done": SEARCH_TRIALS - len(diverged),
        "failed": len(diverged),
        "running": 0,
        "missing": 0,
    }
    assert set(load_failures("tuned", study.places.tracking_uri)["role"]) == {Role.SEARCH}
    again = Planted().install(monkeypatch)
    assert study.run().trained == 0
    assert not again.trained, "a spent trial is not tried again"


@pytest.mark.parametrize("stop_after", [0, 5, 11, 15])
def test_an_interrupted_study_goes_on_as_if_nothing_had_happened(study, folder, tracking_uri, monkeypatch, stop_after):
    whole = Planted().install(monkeypatch)
    study.run()
    other = Study(folder, tracking_uri, name="interrupted")
    first = Planted(slots=5, order=1, stop_after=stop_after).install(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        other.run()
    between = other.status()
    assert between["missing"] + between["search"]["missing"] > 0
    rest = Planted(slots=1, order=2).install(monkeypatch)
    other.run()
    assert ids(first.trained) | ids(rest.trained) == ids(whole.trained)
    assert len(rest.trained) == len(whole.trained) - stop_after


def test_the_number_of_slots_and_the_order_of_endings_change_no_trial(study, folder, tracking_uri, monkeypatch):
    trained = []
    for slots in (1, 50):
        planted = Planted(slots=slots, order=slots).install(monkeypatch)
        Study(folder, tracking_uri, name=f"slots{slots}").run()
        trained.append(ids(planted.trained))
    assert trained[0] == trained[1]


def test_more_seeds_use_the_same_search(study, monkeypatch):
    Planted().install(monkeypatch)
    study.run()
    extended = study.plan(seeds=4)
    assert estimate(known_trials(extended, study.places), study.places).forecast.trials == CELLS * 2 + 2
    more = Planted().install(monkeypatch)
    study.run(seeds=4)
    assert roles(more.trained) == {Role.TARGET: CELLS * 2, Role.UPSTREAM: 2}
    results = load_results("tuned", study.places.tracking_uri)
    targets = results[results["role"] == Role.TARGET]
    assert targets.groupby(["pretraining_source", "data_fraction"])["tuned"].nunique().eq(1).all()


def test_a_larger_budget_keeps_what_was_tried(study, monkeypatch):
    Planted().install(monkeypatch)
    study.run()
    more = Planted().install(monkeypatch)
    study.run(tuning=TUNING | {"trials": 7})
    assert roles(more.trained)[Role.SEARCH] == CELLS * 2


def test_values_stay_frozen_although_the_search_trials_are_gone(study, record, monkeypatch):
    Planted().install(monkeypatch)
    study.run()
    engine = Engine(study.plan(), study.places, Console(quiet=True))
    engine.record.open()
    client = engine.record._client
    for run in client.search_runs([engine.record.experiment_id], f"tags.`sc.role` = '{Role.SEARCH}'"):
        client.delete_run(run.info.run_id)
    again = Planted().install(monkeypatch)
    summary = study.run()
    assert (summary.trained, len(again.trained)) == (0, 0)
    assert study.status()["done"] == CELLS * SEEDS


def test_a_part_of_the_study_searches_only_its_cells_and_the_plan_in_the_record_has_all(study, monkeypatch):
    planted = Planted().install(monkeypatch)
    study.run(only="pretraining_source=random,seed=0")
    assert roles(planted.trained) == {Role.SEARCH: TRIALS, Role.TARGET: 1}
    targets = load_planned("tuned", study.places.tracking_uri)["targets"]
    assert len(targets) == CELLS * SEEDS
    known = {t["trial_id"] for t in targets if t["pretraining_source"] == "random"}
    assert known > ids([t for t in planted.trained if t.role is Role.TARGET])
    assert {t["trial_id"] for t in targets if t["pretraining_source"] != "random"} == {None}
    rest = Planted().install(monkeypatch)
    study.run(only="pretraining_source=random,seed=1")
    assert ids(rest.trained) == known - ids(planted.trained)


def test_several_search_seeds_are_averaged(study, monkeypatch):
    planted = Planted().install(monkeypatch)
    only = "pretraining_source=random"
    study.run(only, tuning=TUNING | {"search_seed": [1000, 1001]})
    assert roles(planted.trained) == {Role.SEARCH: 2 * TRIALS, Role.TARGET: SEEDS}
    finals = [t for t in planted.trained if t.role is Role.TARGET]
    assert all(len(t.search.trial_ids) == 2 for t in finals if t.search)


def test_plan_and_status_count_searches_apart(study, monkeypatch):
    Planted().install(monkeypatch)
    plan = study.plan()
    made = plan_json(plan)
    assert (made["cells"], made["trials"], made["upstream_trials"]) == (CELLS, CELLS * SEEDS, UPSTREAM)
    assert made["tuning"]["search_trials"] == SEARCH_TRIALS
    assert all(target["trial_id"] is None for target in made["targets"])
    assert (
        estimate(known_trials(plan, study.places), study.places).forecast.trials
        == SEARCH_TRIALS + CELLS * SEEDS + UPSTREAM
    )
    stands = study.status()
    assert (stands["trials"], stands["missing"], stands["search"]["missing"]) == (
        CELLS * SEEDS,
        CELLS * SEEDS,
        SEARCH_TRIALS,
    )
    study.run()
    left = estimate(known_trials(plan, study.places), study.places)
    assert left.forecast.trials == 0
    assert left.finished == SEARCH_TRIALS + CELLS * SEEDS + UPSTREAM - study.status()["search"]["failed"]


def test_a_search_takes_as_long_as_its_generations_one_after_the_other(study, monkeypatch):
    only = "pretraining_source=random"
    Planted(stop_after=1).install(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        study.run(only)
    made = estimate(known_trials(study.plan(only), study.places), study.places, slots=100)
    each = made.forecast.busy_s / made.forecast.trials
    assert made.forecast.trials == TRIALS - 1 + SEEDS
    assert made.forecast.wall_s == pytest.approx((3 + 1) * each)


def test_plans_name_the_trials_of_what_has_been_chosen(study, monkeypatch):
    planted = Planted().install(monkeypatch)
    study.run()
    made = plan_json(costed(study.plan(), study.places, CostOptions()))
    assert {t["trial_id"] for t in made["targets"]} == ids([t for t in planted.trained if t.role is Role.TARGET])


def test_what_searches_still_need_is_not_pruned(study, monkeypatch):
    planted = Planted(stop_after=5).install(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        study.run()
    storage = study.places.storage_of("tuned")
    unfinished = ids([t for t in planted.trained if t.role is Role.SEARCH]) - study_ids(study)
    for trial_id in unfinished | {"0" * 16}:
        storage.put_checkpoint(trial_id, b"1")
    upstream = ids([t for t in planted.trained if t.role is Role.UPSTREAM]) & set(storage.weights())
    assert unfinished
    assert upstream
    found = find(study.plan(), study.places, weights=WeightsRule.ALL)
    assert names(found, "checkpoints") == {"0" * 16}
    assert not names(found, "weights") & upstream, "search trials still start from them"

    Planted().install(monkeypatch)
    study.run()
    finals, upstream = study_ids(study, Role.TARGET), study_ids(study, Role.UPSTREAM)
    weights = names(find(study.plan(), study.places, weights=WeightsRule.NOT_UPSTREAM), "weights")
    assert finals <= weights
    assert not weights & upstream
    random = names(
        find(study.plan(), study.places, weights=WeightsRule.ALL, only="pretraining_source=random"), "weights"
    )
    assert len(random & finals) == SEEDS
    assert not random & upstream


def test_failed_final_trials_are_run_again(study, monkeypatch):
    broken = Planted(breaks=lambda t: FailureClass.NODE if t.role is Role.TARGET else None).install(monkeypatch)
    study.run()
    again = choose_failed(study.plan(), study.places, failed=True)
    assert ids(again.chosen) == ids([t for t in broken.trained if t.role is Role.TARGET])
    healthy = Planted().install(monkeypatch)
    options = retry_options(again.chosen[:1], (), RunOptions())
    assert Engine(again.plan, study.places, Console(quiet=True), options).run().trained == 1
    assert ids(healthy.trained) == ids(again.chosen[:1])


@pytest.mark.parametrize("only", ["pretraining_source=random", "pretraining_source=random,seed=0"])
def test_cancelled_trials_do_not_start_once_their_values_are_known(study, monkeypatch, only):
    listeners = []
    monkeypatch.setattr(DriverNote, "listen", lambda note, listener: listeners.append(listener))
    answers = []

    def ask(trial):
        if not answers:
            answers.append(listeners[-1](selected_keys(study.plan().study, only)))

    planted = Planted(breaks=ask).install(monkeypatch)
    summary = study.run()
    cancelled = 1 if "seed" in only else SEEDS
    assert answers == [cancelled]
    finals = [t for t in planted.trained if t.role is Role.TARGET]
    assert Counter(t.source.name for t in finals) == Counter({"spots_pre": SEEDS, "random": SEEDS - cancelled})
    searched = Counter(t.source.name for t in planted.trained if t.role is Role.SEARCH)
    assert (searched["random"] == TRIALS) is (cancelled < SEEDS), "a search that nothing waits for ends, too"
    assert searched["spots_pre"] == TRIALS
    assert summary.cancelled >= cancelled
    rest = Planted().install(monkeypatch)
    assert study.run().cancelled == 0
    assert sum(t.role is Role.TARGET for t in rest.trained) == cancelled


def study_ids(study: Study, *of: Role) -> set[str]:
    """Finished trials in the record."""
    results = load_results(study.name, study.places.tracking_uri)
    return set(results[results["role"].isin(of or tuple(Role))]["trial_id"])


def names(found: Prunable, word: str) -> set[str]:
    """What may be deleted of the kind that starts with this word."""
    return {item.name for kind, items in found.items.items() if kind.startswith(word) for item in items}


def test_a_lost_node_says_nothing_of_the_values(study, monkeypatch):
    lost = Planted(breaks=lambda t: FailureClass.NODE if t.role is Role.SEARCH else None).install(monkeypatch)
    only = "pretraining_source=random"
    summary = study.run(only)
    assert roles(lost.trained)[Role.TARGET] == 0
    assert {f.failure_class for f in summary.failed} == {FailureClass.NODE}
    assert any(f.message.startswith("its search trial") for f in summary.failed)
    healthy = Planted().install(monkeypatch)
    summary = study.run(only)
    assert roles(healthy.trained) == {Role.SEARCH: TRIALS, Role.TARGET: SEEDS}
    assert not summary.failed


def test_a_search_without_any_value_fails_its_final_trials(study, monkeypatch):
    planted = Planted().install(monkeypatch)
    only, hot = "pretraining_source=random", TUNING | {"space": {"lr": {"log": [0.5, 1.0]}}}
    summary = study.run(only, tuning=hot)
    assert roles(planted.trained) == {Role.SEARCH: TRIALS}
    assert len(summary.failed) == SEEDS
    assert all("none of the proposals" in f.message for f in summary.failed)
    stands = study_status(study.plan(only, tuning=hot), study.places)
    assert (stands["failed"], stands["missing"]) == (SEEDS, 0)
    assert study.run(only, tuning=hot).trained == 0


def test_a_search_that_cannot_start_is_not_recorded_as_tried(study, monkeypatch):
    diverge = Planted(breaks=lambda t: FailureClass.DIVERGENCE if t.role is Role.UPSTREAM else None)
    diverge.install(monkeypatch)
    summary = study.run(only="pretraining_source=spots_pre")
    assert roles(diverge.trained) == {Role.UPSTREAM: UPSTREAM}
    assert len(summary.failed) == UPSTREAM + SEEDS
    stands = study_status(study.plan("pretraining_source=spots_pre"), study.places)
    assert (stands["failed"], stands["missing"], stands["search"]["failed"]) == (SEEDS, 0, 0)
    again = Planted().install(monkeypatch)
    assert len(study.run(only="pretraining_source=spots_pre").failed) == UPSTREAM + SEEDS
    assert not again.trained


def test_the_report_shows_what_was_chosen(study, tmp_path, monkeypatch):
    Planted().install(monkeypatch)
    study.run()
    unsettled = plan_json(study.plan())
    files = build_report("tuned", tmp_path / "report", study.places.tracking_uri, unsettled)
    assert "4 of 4 planned trials done" in " ".join(files.headlines)
    page = files.index_html.read_text("utf-8")
    assert "Each cell&#x27;s hyper-parameters were chosen once" in page
    assert "Every cell had the same budget: 5 proposals (tpe) over lr" in page
    # After a change of the space the trials of the old search are no part of the study any more.
    wider = plan_json(study.plan(tuning=TUNING | {"space": {"lr": {"log": [1e-6, 1.0]}}}))
    files = build_report("tuned", tmp_path / "wider", study.places.tracking_uri, wider)
    assert "0 of 4 planned trials done" in " ".join(files.headlines)


def test_why_names_the_values_and_where_they_come_from(study, monkeypatch):
    planted = Planted().install(monkeypatch)
    study.run()
    final = next(t for t in planted.trained if t.role is Role.TARGET)
    assert final.search is not None
    for trial_id in (final.trial_id, final.search.trial_ids[0]):
        console = Console(record=True, width=200, quiet=True)
        console.quiet = False
        with console.capture() as shown:
            print_explanation(explain(study.plan(), trial_id, study.places), console)
        assert f"tuned: {json.dumps(final.search.values)} (proposal {final.search.number} of search" in shown.get()
        assert "state: complete" in shown.get()
