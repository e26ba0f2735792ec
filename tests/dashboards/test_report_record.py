"""The report from a real MLflow record, partly finished."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from dashboards import tracking
from dashboards.report import build_report, gather
from orchestrator.delivery import spooled
from orchestrator.record import Record
from search_spaces.names import Role
from tests.orchestrator.record_fixtures import make_failure, make_result, make_study, make_trial, publish
from trainables.storage import Storage

pytest_plugins = ("tests.orchestrator.record_plugin",)


@pytest.fixture
def record(storage: Storage, tracking_uri: str) -> Record:
    made = Record(make_study(statistics={"groups": ["sex", "site"]}), storage, tracking_uri, retry_pauses_s=())
    made.open()
    return made


def deliver(record: Record, storage: Storage, **kwargs) -> None:
    record.deliver(spooled(publish(storage, make_result(make_trial(**kwargs)))))


def test_a_partly_finished_record_becomes_a_report(record: Record, storage: Storage, tmp_path: Path) -> None:
    for source in ("random", "natural"):
        for seed in range(2):
            deliver(record, storage, source=source, seed=seed)
    deliver(record, storage, source="random", amount={"patients": 9}, seed=0)
    deliver(record, storage, source="random", seed=7, role=Role.UPSTREAM)
    record.failed(make_failure(make_trial(source="natural", amount={"patients": 9}, seed=1, attempt="f0")))
    files = build_report("skin", tmp_path / "report", record.uri)

    matrix = pd.read_parquet(tmp_path / "report" / "tables" / "completeness.parquet")
    assert matrix[["planned", "done", "failed", "missing"]].sum().tolist() == [8, 5, 1, 2]
    data = pd.read_parquet(tmp_path / "report" / "tables" / "data.parquet")
    assert data["n_images"].tolist() == [120.0, 120.0]
    assert data["prevalence"].iloc[0] == "bcc 33.3 %, mel 33.3 %, nv 33.3 %"
    contrasts = pd.read_parquet(tmp_path / "report" / "tables" / "contrasts.parquet")
    assert set(contrasts["set"]) == {"test", "head_neck"}
    assert set(contrasts["n_seeds"]) == {2}
    verdict = json.loads(files.verdict_json.read_text(encoding="utf-8"))
    assert {c["wording"] for c in verdict["contrasts"]} == {"no verdict"}  # too few patients of a class
    page = files.index_html.read_text(encoding="utf-8")
    assert "cannot read an image" in page
    assert "Jane" not in page
    assert "5 of 8 planned trials done, 1 failed, 2 not run yet." in page


def test_a_record_without_a_finished_trial_is_a_report_too(record: Record, tmp_path: Path) -> None:
    files = build_report("skin", tmp_path / "report", record.uri)
    assert "0 of 8 planned trials done, 8 not run yet." in files.headlines[0]
    assert files.figures
    assert (tmp_path / "report" / "tables" / "completeness.csv").is_file()


def test_trials_of_the_recorded_plan_are_told_from_those_of_an_earlier_one(
    record: Record, storage: Storage, tmp_path: Path
) -> None:
    deliver(record, storage, seed=0)
    deliver(record, storage, seed=1)
    planned = [
        {"trial_id": make_trial(seed=0).trial_id, **make_trial(seed=0).axes, "seed": "0"},
        {"trial_id": "0" * 16, **make_trial(seed=1).axes, "seed": "1"},
    ]
    record.set_plan(json.dumps({"targets": planned, "exclusions": []}))
    files = build_report("skin", tmp_path / "report", record.uri)
    assert "1 of 8 planned trials done" in files.headlines[0]
    assert "1 finished trial of the record not shown" in files.index_html.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("plan.json", '{"targets": [', "plan.json of the record cannot be read"),
        ("study/study.yaml", "name: [skin", "The study file could not be read, defaults are assumed"),
        ("data/skin.json", "{", "data card skin.json of the record cannot be read, so no card is shown"),
    ],
)
def test_a_file_of_the_record_that_was_cut_off_costs_itself_alone(
    record: Record, storage: Storage, tmp_path: Path, name: str, text: str, said: str
) -> None:
    deliver(record, storage, seed=0)
    record.set_plan(json.dumps({"targets": [], "exclusions": []}))
    record.set_data_cards({"skin": ("{}", "")})
    (parent,) = tracking.find_parents(tracking.connect(record.uri), record.experiment_id)
    folder = tracking.local_folder(parent.info.artifact_uri)
    assert folder is not None
    (folder / "data" / "skin.json").unlink()
    (folder / name).write_text(text, encoding="utf-8")
    evidence, problems = gather("skin", record.uri)
    assert len(evidence.results) == 1
    assert [p for p in problems if p.startswith(said)], problems
