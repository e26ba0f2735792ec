"""The command line on a whole small study: run, run again, extend, status, why, evaluate, report, failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.connection import connect
from dashboards import load_predictions, load_results
from dashboards.statistics import compute_metrics
from orchestrator.sweep import app
from search_spaces.home import scalecurves_home
from tests.conftest import ROOT
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import raw_study, rewrite_study, write_study

pytestmark = pytest.mark.ray

DIVERGING = """
import torch
from trainables.ladder_nets import resnet8

class Bomb(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return self.net(x) * (float("nan") if self.calls > 4 else 1.0)

def bomb(num_classes, width=4):
    return Bomb(resnet8(num_classes, width=width))
"""

FAULT = """
def _no():
    raise RuntimeError("a fault of the factory")
"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One local cluster for all commands of this module that run in this process."""
    with connect("local", num_cpus=2, import_paths=[str(ROOT)]):
        yield


def run(file, *more, code=0):
    return call("run", file, "--out", file.parent / "report", *more, code=code)


def status(file):
    return json.loads(call("status", file, "--json"))


def test_a_study_from_first_run_to_extension(tmp_path):
    file = write_study(tmp_path)
    before = status(file)
    assert (before["trials"], before["missing"], before["done"]) == (8, 8, 0)

    assert "10 trials trained, 0 were done before, 0 failed" in run(file)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "small" in page
    assert (tmp_path / "report" / "verdict.json").is_file()
    after = status(file)
    assert (after["done"], after["missing"], after["failed"], after["cells"]) == (8, 0, 0, 4)

    assert "0 trials trained, 10 were done before" in run(file)
    assert "small: 8 of 8 trials done, 0 running, 0 failed, 0 missing" in call("status", file, "--watch")
    planned = json.loads(call("plan", file, "--set", "seeds=3", "--slots", "1", "--json"))["estimate"]
    assert planned["basis"] == {"narrow": "record"}
    assert planned["trials_left"] == 4 + 1
    assert planned["wall_s"] == pytest.approx(planned["busy_s"])

    axes = raw_study()["axes"] | {"data_fraction": [0.3, 0.6, 1.0]}
    rewrite_study(tmp_path, axes=axes, seeds=3)
    extended = run(file)
    assert f"{3 * 6 - 8 + 1} trials trained, 10 were done before" in " ".join(extended.split())

    results = load_results("small")
    assert len(results) == 18 + 3
    targets = results[results.role == "target"]
    assert targets.groupby("cell_id").size().eq(3).all()
    same_subset = targets.groupby(["data_fraction", "seed_subset"]).subset_hash.nunique()
    assert same_subset.eq(1).all()
    predictions = load_predictions("small", sets=["site_b"])
    assert len(predictions) == 18

    assert "state: complete" in call("why", file, targets.trial_id.iloc[0][:10])


def test_a_further_evaluation_set_needs_no_training(tmp_path):
    file = write_study(tmp_path, axes=raw_study()["axes"] | {"pretraining_source": ["random"]}, seeds=1)
    run(file)
    tasks = raw_study()["tasks"]
    tasks["spots"]["evaluate"]["women"] = {"where": {"sex": "F"}}
    rewrite_study(tmp_path, axes=raw_study()["axes"] | {"pretraining_source": ["random"]}, seeds=1, tasks=tasks)
    assert status(file)["done"] == 2
    assert "2 trials scored on women" in call("evaluate", file, "--on", "women", "--out", tmp_path / "r")
    assert "0 trials scored on women, 2 were before" in call("evaluate", file, "--on", "women", "--out", tmp_path / "r")
    assert load_results("small")["women/auc"].notna().all()
    test = load_predictions("small", sets=["test"])
    women = load_predictions("small", sets=["women"])
    for (trial_id, _), subset in women.items():
        whole = dict(zip(test[trial_id, "test"].image, test[trial_id, "test"].logits[:, 0], strict=True))
        for image, logit in zip(subset.image, subset.logits[:, 0], strict=True):
            assert logit == pytest.approx(whole[image], abs=1e-5)
    scored_before = {key: set(subset.image) for key, subset in women.items()}
    tasks["spots"]["evaluate"]["women"] = {"where": {"sex": "M"}}
    rewrite_study(tmp_path, axes=raw_study()["axes"] | {"pretraining_source": ["random"]}, seeds=1, tasks=tasks)
    assert "2 trials scored on women" in call("evaluate", file, "--on", "women", "--out", tmp_path / "r")
    men = load_predictions("small", sets=["women"])
    for key, subset in men.items():
        assert not set(subset.image) & scored_before[key]
        expected = compute_metrics(subset.kind, subset.labels, subset.y, subset.logits)["auc"]
        logged = load_results("small").set_index("trial_id")["women/auc"][key[0]]
        assert logged == pytest.approx(expected)
    assert "Did you mean 'women'" in CliRunner().invoke(app, ["evaluate", str(file), "--on", "woman"]).output


def test_divergence_costs_its_trial_and_what_starts_from_it(tmp_path):
    (tmp_path / "bombs.py").write_text(DIVERGING)
    scales = raw_study()["scales"] | {"bomb": {"factory": "bombs:bomb", "input_size": 16}}
    file = write_study(tmp_path, scales=scales, seeds=1, axes=raw_study()["axes"] | {"model_scale": ["narrow", "bomb"]})
    output = " ".join(run(file, code=3).split())
    assert "5 trials trained, 0 were done before, 5 failed" in output
    assert "failed (divergence) bomb · random" in output
    assert "its upstream trial" in output
    found = status(file)
    assert (found["done"], found["failed"]) == (4, 4)
    assert {f["class"] for f in found["failures"]} == {"divergence"}
    again = " ".join(run(file, code=3).split())
    assert "0 trials trained, 5 were done before, 5 failed" in again
    assert "failed trials of small: 4 divergence. Choose with --failed" in " ".join(call("retry", file, code=1).split())
    assert "0 of them selected to run again" in call("retry", file, "--failed")
    chosen = "pretraining_source=random,data_fraction=1.0"
    more = ("--class", "divergence", "--only", chosen, "--out", tmp_path / "report")
    retried = " ".join(call("retry", file, *more, code=3).split())
    assert "1 of them of class divergence selected to run again" in retried
    assert "0 trials trained, 0 were done before, 1 failed" in retried
    again = next(f for f in found["failures"] if "bomb · random · 1 ·" in f["cell"])
    why = call("why", file, again["trial_id"])
    assert "state: failed, 2 attempts" in why
    assert why.count("divergence at step") == 2
    assert why.count("  log: /") == 2, "the file with the output of the worker"
    report = json.loads((tmp_path / "report" / "verdict.json").read_text())
    assert report, "of the whole study, not of the one trial"


def test_what_keeps_failing_alike_is_left_until_the_next_run(tmp_path):
    (tmp_path / "faulty.py").write_text(DIVERGING.replace('float("nan")', "_no()") + FAULT)
    scales = raw_study()["scales"] | {"faulty": {"factory": "faulty:bomb", "input_size": 16}}
    axes = raw_study()["axes"] | {"model_scale": ["narrow", "faulty"], "pretraining_source": ["random"]}
    file = write_study(tmp_path, scales=scales, seeds=12, axes=axes | {"data_fraction": [0.5, 1.0]})
    output = " ".join(run(file, code=3).split())
    assert "trials of model_scale=faulty, pretraining_source=random, task=spots are not started, because" in output
    found = status(file)
    assert found["done"] == 24
    assert found["failed"] >= 6, "of both fractions"
    assert found["missing"] >= 3
    assert found["failed"] + found["missing"] == 24
    assert f"{found['missing']} trials were not started" in output


def test_gangs_of_two_ranks_give_what_one_rank_gives(tmp_path):
    axes = raw_study()["axes"] | {"pretraining_source": ["random"], "data_fraction": [1.0]}
    file = write_study(tmp_path, axes=axes, seeds=2, name="one")
    run(file)
    two = {"gang": {"ranks": 2}}
    rewrite_study(tmp_path, axes=axes, seeds=2, name="two", execution=two)
    run(file)
    one, two = load_predictions("one", sets=["test"]), load_predictions("two", sets=["test"])
    assert one.keys() == two.keys()
    for key in one:
        assert two[key].logits == pytest.approx(one[key].logits, abs=1e-4)


def test_a_killed_driver_loses_nothing_that_was_finished(tmp_path):
    """SIGKILL the driver in a process of its own after the first trials; the second start does the rest only."""
    file = write_study(tmp_path, seeds=3, protocol=raw_study()["protocol"] | {"budget": {"steps": 60}})
    command = [sys.executable, "-m", "orchestrator.sweep", "run", str(file), "--out", str(tmp_path / "report")]
    environment = {**os.environ, "SCALECURVES_HOME": str(scalecurves_home())}
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        finished = wait_for_finished(scalecurves_home() / "storage" / "small" / "trials", 3, driver)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    output = " ".join(run(file).split())
    trained = int(output.split(" trials trained")[0].split()[-1])
    assert trained <= 15 - finished
    assert "0 failed" in output
    results = load_results("small")
    assert len(results) == 15
    assert results.trial_id.is_unique


def wait_for_finished(folder: Path, number: int, driver: subprocess.Popen[bytes]) -> int:
    """Wait until so many trials are published; how many were."""
    for _ in range(3000):
        found = len(list(folder.glob("*/weights.safetensors")))
        if found >= number:
            return found
        assert driver.poll() is None, "the driver ended early"
        time.sleep(0.1)
    raise AssertionError(f"only {found} trials in five minutes")


def test_report_command_and_selection(tmp_path):
    file = write_study(tmp_path)
    assert "3 trials trained" in run(file, "--only", "seed=0,data_fraction=1.0")
    found = status(file)
    assert (found["done"], found["missing"]) == (2, 6)
    call("report", file, "--out", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "index.html").is_file()


def test_usage_errors_have_exit_code_2():
    assert CliRunner().invoke(app, ["run", "demo", "--nonsense"]).exit_code == 2
    assert CliRunner().invoke(app, ["runn"]).exit_code == 2
