"""Who read which test results when: only ever added to, told in words, and held against seeds added after a look."""

from __future__ import annotations

import dataclasses
import getpass
import json
from datetime import UTC, datetime

import pytest

from dashboards import report
from dashboards.evidence import target_results
from dashboards.planned import make_plan
from dashboards.verdict.ledger import (
    Ledger,
    Read,
    add_local_read,
    local_file,
    local_reads,
    parse_reads,
    read_of,
    recorded_reads,
)
from orchestrator.record import Record
from tests.dashboards.synthetic import evidence_of, make_study, make_synthetic, whole_study
from tests.orchestrator.record_fixtures import make_study as recorded_study

pytest_plugins = ("tests.orchestrator.record_plugin",)

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def read(**changes) -> Read:
    made = read_of(evidence_of(whole_study()), now=NOON)
    return dataclasses.replace(made, **changes)


def test_a_read_says_what_was_read_and_by_whom_without_a_name():
    made = read()
    assert (made.study, made.trials, made.sets) == ("synthetic", 108, ("clinic_b", "site_b", "test"))
    assert made.seeds == ("0", "1", "2")
    assert made.read_at == "2026-03-01T12:00:00.000+00:00"
    assert getpass.getuser() not in made.to_json()
    assert Read.parse(made.to_json()) == made


def test_the_hash_follows_the_results():
    one, two = read(), read()
    assert one.results_hash == two.results_hash
    assert one.report_id != two.report_id
    fewer = whole_study().results.iloc[1:]
    predictions = {k: p for k, p in whole_study().predictions.items() if k[0] in set(fewer["trial_id"])}
    other = read_of(evidence_of(whole_study(), results=target_results(fewer), predictions=predictions))
    assert other.results_hash != one.results_hash
    assert other.trials == 107


def test_damaged_entries_are_counted_and_looks_at_nothing_are_none():
    late, early = read(read_at="2026-03-02T00:00:00+00:00"), read()
    texts = [
        late.to_json(),
        "{",
        '{"report_id": 1}',
        read(trials=0).to_json(),
        early.to_json(),
        read(read_at="x").to_json(),
    ]
    reads, damaged = parse_reads(texts)
    assert reads == (early, late)
    assert damaged == 3


def test_the_first_report_says_that_nobody_looked():
    ledger = Ledger(this=read(), place="with the study's record")
    assert ledger.sentence.startswith("Test results of this study were not read before")
    assert (ledger.answer().tone, ledger.added_seeds) == ("good", ())


def test_later_reports_say_how_often_and_when_first():
    earlier = (read(trials=60, results_hash="a"), read(trials=60, results_hash="a"))
    ledger = Ledger(this=read(), earlier=earlier, place="p", damaged=1)
    assert (
        "were read 2 times before (1 state of them), the first on 2026-03-01 12:00 UTC with 60 trials"
        in ledger.sentence
    )
    assert "48 planned trials finished since" in ledger.sentence
    assert "1 entry of it could not be read" in ledger.sentence
    assert ledger.answer().tone == "good"


def test_seeds_added_after_a_look_are_told_and_hold_verdicts_back(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "render", lambda plot: (b"<svg/>", b"png"))
    earlier = (read(seeds=("0", "1")),)
    evidence = evidence_of(whole_study())
    ledger = Ledger(this=read_of(evidence), earlier=earlier, place="p")
    assert ledger.added_seeds == ("2",)
    assert "Seed 2 was added" in ledger.sentence
    rows = evidence.results[evidence.results["task"] == "brain"]
    files = report.write_report(
        dataclasses.replace(evidence, results=rows), tmp_path / "r", problems=[], record="x", ledger=ledger
    )
    assert any("Seed 2 was added" in line for line in files.headlines)
    page = files.index_html.read_text(encoding="utf-8")
    assert "seeds were added after test results had been read" in page
    assert f"{ledger.this.report_id} (this one)" in page
    assert "2026-03-01 12:00:00" in page
    assert json.loads((tmp_path / "r" / "verdict.schema.json").read_text(encoding="utf-8"))["title"] == "VerdictFile"


def test_the_table_of_reads_names_report_reader_time_and_results():
    early, late, this = read(), read(read_at="2026-03-02T08:30:00+00:00", results_hash="other"), read()
    rows = Ledger(this=this, earlier=(early, late)).table()
    assert list(rows["report"]) == [f"{this.report_id} (this one)", late.report_id, early.report_id]
    assert list(rows["read at (UTC)"])[1:] == ["2026-03-02 08:30:00", "2026-03-01 12:00:00"]
    assert list(rows["state of the results"]) == [this.results_hash, "other", early.results_hash]
    assert set(rows["evaluation sets"]) == {"clinic_b, site_b, test"}


def test_planned_seeds_that_come_later_are_no_added_seeds():
    study = make_synthetic(seeds=2)
    plan = make_plan(make_study(seeds=5), None)
    made = read_of(evidence_of(study, plan=plan))
    assert made.seeds == ("0", "1", "2", "3", "4")


def test_a_local_ledger_lies_beside_the_report_and_grows(tmp_path):
    out = tmp_path / "report"
    assert local_reads(out) == []
    add_local_read(out, read())
    add_local_read(out, read(report_id="two"))
    assert local_file(out) == tmp_path / "report.reads.jsonl"
    assert [r.report_id for r in parse_reads(local_reads(out))[0]][-1] == "two"


@pytest.fixture
def record(storage, tracking_uri):
    made = Record(recorded_study(), storage, tracking_uri, retry_pauses_s=())
    made.open()
    return made


def test_the_record_keeps_every_read(record, tmp_path):
    assert recorded_reads("skin", record.uri) == []
    for number in range(2):
        made = read(report_id=str(number), study="skin")
        record.add_read(made.file_name, made.to_json())
    reads, damaged = parse_reads(recorded_reads("skin", record.uri))
    assert ([r.report_id for r in reads], damaged) == (["0", "1"], 0)


def test_a_report_without_writing_says_that_its_ledger_is_local(record, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "render", lambda plot: (b"<svg/>", b"png"))
    made = read(study="skin")
    record.add_read(made.file_name, made.to_json())
    files = report.build_report("skin", tmp_path / "out", record.uri, local_ledger=True)
    page = files.index_html.read_text(encoding="utf-8")
    assert "were read 1 time before" in page
    assert "kept locally, in out.reads.jsonl beside the report" in page
    assert len(local_reads(tmp_path / "out")) == 1
    assert len(recorded_reads("skin", record.uri)) == 1
