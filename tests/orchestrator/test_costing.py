"""What ``plan`` says of costs, and that it names everything that cannot be at once."""

from __future__ import annotations

import json

import pytest

from orchestrator.api import plan_study
from orchestrator.costing import CostOptions, costed
from orchestrator.places import Places
from orchestrator.record import Record
from search_spaces.trial import Workspace
from tests.orchestrator.record_fixtures import make_result, publish
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import raw_study, rewrite_study, write_study

pytest_plugins = ("tests.orchestrator.record_plugin",)

SECONDS = 20.0
"""What a trial of the fixtures took."""
GPU = {"gang": {"gpus_per_rank": 1}}
SHAPES = {
    "gang": {"gpus_per_rank": 1},
    "gangs": [{"when": {"data_fraction": 0.3}, "gang": {"ranks": 4, "gpus_per_rank": 2}}],
}
AXES = raw_study()["axes"] | {"pretraining_source": ["random"]}


@pytest.fixture
def timed(tmp_path, tracking_uri, monkeypatch):
    """Writes a study of four trials on GPUs of which one has ended."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)

    def write(**changes):
        file = write_study(tmp_path, **{"axes": AXES, "execution": GPU} | changes)
        plan, places = plan_study(file), Places.of(tracking_uri=tracking_uri)
        storage = places.storage_of("small")
        record = Record(plan.study, storage, tracking_uri, retry_pauses_s=())
        record.open()
        done = plan.targets[0]
        trial = plan.resolver.resolved(done.trial, f"{done.trial_id}-a0", Workspace(home="", storage=""))
        publish(storage, make_result(trial), ("test",))
        assert record.deliver_all().delivered == 1
        return file

    return write


def test_money_is_gpu_hours_times_price(timed):
    made = json.loads(call("plan", timed(), "--nodes", "1x(8,2)", "--price", "90", "--json"))["estimate"]
    assert made["trials_left"] == 3
    assert made["gpu_hours"] == pytest.approx(made["busy_s"] / 3600)
    assert made["busy_s"] > 0
    assert made["price"] == pytest.approx(90 * made["gpu_hours"])
    assert made["slots"] == 2, "GPUs of the node"


def test_nodes_say_how_many_trials_fit_and_so_how_long_it_takes(timed):
    file = timed()
    one, many = (json.loads(call("plan", file, "--nodes", n, "--json"))["estimate"] for n in ("1x(8,1)", "4x(8,4)"))
    assert (one["slots"], many["slots"]) == (1, 16)
    assert one["wall_s"] == pytest.approx(one["busy_s"])
    assert many["wall_s"] == pytest.approx(many["trial_s"]["narrow"]["most"])


def test_seconds_of_a_trial_are_given_by_scale(timed):
    scales = {**raw_study()["scales"], "wide": {**raw_study()["scales"]["narrow"], "arguments": {"width": 16}}}
    file = timed(scales=scales, axes=AXES | {"model_scale": ["narrow", "wide"]})
    made = json.loads(call("plan", file, "--nodes", "1x(8,2)", "--json"))["estimate"]
    assert {scale: each["trials"] for scale, each in made["trial_s"].items()} == {"narrow": 3, "wide": 4}
    assert set(made["trial_s"]) == set(made["basis"])
    assert sum(each["trials"] * each["mean"] for each in made["trial_s"].values()) == pytest.approx(made["busy_s"])
    assert all(each["least"] <= each["mean"] <= each["most"] for each in made["trial_s"].values())
    assert made["trial_s"]["narrow"]["mean"] == pytest.approx(SECONDS), "one trial that ended is all that is known"
    told = call("plan", file, "--nodes", "1x(8,2)")
    assert "  narrow: 3 trials of " in told
    assert "(other scales)" in told


def test_a_trial_that_only_leaves_out_says_what_others_take(timed):
    asked = ("--only", "seed=1", "--nodes", "1x(8,2)", "--max-gpu-hours", 1.5 * SECONDS / 3600)
    made = json.loads(call("plan", timed(), *asked, "--json"))["estimate"]
    assert (made["basis"], made["gpu_hours_basis"]) == ({"narrow": "record"}, {"narrow": "record"})
    assert (made["trials_left"], made["affordable"]) == (2, 1)
    assert made["busy_s"] == pytest.approx(2 * SECONDS)
    assert made["gpu_hours"] == pytest.approx(2 * SECONDS / 3600)
    assert "from 1 trials that ended" in call("plan", timed(), *asked)


def test_gangs_of_trials_that_only_leaves_out_are_not_asked_for(timed):
    file = timed(
        execution={"gang": {"gpus_per_rank": 0}, "gangs": [{"when": {"data_fraction": 0.3}, "gang": GPU["gang"]}]}
    )
    plan = plan_study(file, only="data_fraction=1.0", nodes="1x(8)")
    assert not plan.problems, "no GPU of this cluster is needed"
    assert plan.estimate.forecast.basis == {"narrow": "record"}
    assert plan.estimate.gpu_trials == 0
    assert not any("GPU-hours" in line for line in plan.estimate.lines())


def test_everything_that_cannot_be_is_named_at_once(tmp_path):
    tasks = raw_study()["tasks"] | {"lost": {"manifest": "not_there", "primary": "auc"}}
    axes = AXES | {"task": ["spots", "lost"]}
    file = write_study(tmp_path, axes=axes, tasks=tasks, execution=SHAPES)
    asked = ("--slots", "0", "--price", "-1", "--max-gpu-hours", "0", "--nodes", "two", "--tflops", "0")
    told = " ".join(call("plan", file, *asked, code=1).split())
    for problem in (
        "not_there",
        "--slots is the number of trials at a time, at least 1, got 0",
        "--price is that of a GPU-hour, 0 or more, got -1",
        "--max-gpu-hours is the most a run may spend, above 0, got 0",
        "--tflops is what one GPU sustains in training, in 1e12 operations per second, got 0",
        "--nodes is NUMBERx(CPUS,GPUS,TYPE)",
    ):
        assert problem in told, problem
    problems = json.loads(call("plan", file, *asked, "--json", code=1))["problems"]
    assert len(problems) == 6
    more = json.loads(call("plan", file, "--nodes", "1x(2)", "--json", code=1))["problems"]
    assert len(more) == 3, "the task, and each of the two shapes"


def test_several_shapes_that_do_not_fit_this_machine_name_the_option_for_a_cluster(tmp_path):
    file = write_study(tmp_path, axes=AXES, execution=SHAPES)
    problems = json.loads(call("plan", file, "--json", code=1))["problems"]
    assert len(problems) == 2
    assert all("name yours, such as --nodes '2x(32,8)'" in problem for problem in problems)
    assert not json.loads(call("plan", file, "--nodes", "1x(16,8)", "--json"))["problems"]
    assert not json.loads(call("plan", file, "--slots", "2", "--json"))["problems"]


def test_a_limit_of_gpu_hours_for_trials_on_cpus_is_a_problem(tmp_path):
    file = write_study(tmp_path, axes=AXES, execution={"gang": {"gpus_per_rank": 0}})
    [problem] = plan_study(file, max_gpu_hours=1.0).problems
    assert "no trial here uses a GPU" in problem
    rewrite_study(tmp_path, axes=AXES, execution=GPU)
    assert not plan_study(file, max_gpu_hours=1.0).problems


@pytest.mark.parametrize("price", [float("nan"), float("inf"), -0.01])
def test_a_price_that_is_none_is_refused(tmp_path, price):
    file = write_study(tmp_path, axes=AXES)
    [problem] = costed(plan_study(file), Places.of(), CostOptions(price=price)).problems
    assert "--price is that of a GPU-hour" in problem
    assert plan_study(file, price=0.0).estimate is not None
