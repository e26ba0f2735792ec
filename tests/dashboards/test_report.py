"""The report as a whole: complete in one file, safe, honest about what is missing."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from dashboards import report
from dashboards.evidence import target_results
from dashboards.findings import findings, headlines
from dashboards.planned import readable_plan
from dashboards.plots import records
from dashboards.prediction_sets import PredictionSet
from dashboards.report import build_report, gather, write_report
from dashboards.static import render
from dashboards.verdict.frame import collect
from dashboards.verdict.words import contrast_sentence
from search_spaces.exceptions import DataError, UserError
from tests.dashboards.synthetic import (
    SyntheticStudy,
    evidence_of,
    failure,
    make_study,
    make_synthetic,
    whole_study,
    whole_tables,
)

CHROMIUM = Path("/usr/bin/chromium")


DRAWN = "contrasts_brain_test"
"""The figure that is drawn with matplotlib; that all can be is tested elsewhere, and takes most of the time."""


@pytest.fixture(scope="module")
def whole_report(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "render", lambda plot: render(plot) if plot.key == DRAWN else (b"<svg/>", b"png"))
        patch.setattr(report, "build_tables", lambda _: whole_tables())
        return write_report(evidence_of(whole_study()), out, problems=[], record="sqlite:///mlflow.db")


@pytest.fixture
def no_static_figures(monkeypatch):
    """Nothing is drawn with matplotlib."""
    monkeypatch.setattr(report, "render", lambda plot: (b"<svg/>", b"png"))


def written(evidence, tmp_path, problems=()):
    files = write_report(evidence, tmp_path / "report", problems=list(problems), record="sqlite:///mlflow.db")
    return files, files.index_html.read_text(encoding="utf-8")


class TestWholeReport:
    """A finished study."""

    def test_every_file_is_there(self, whole_report):
        assert whole_report.index_html.is_file()
        names = {path.name for path in whole_report.tables}
        for table in ("cells", "contrasts", "in_domain_vs_shifted", "subgroups", "scales", "completeness", "data"):
            assert {f"{table}.csv", f"{table}.parquet"} <= names
        figures = {path.name for path in whole_report.figures}
        assert {"scale_curves_skin_test.svg", "scale_curves_skin_test.png", f"{DRAWN}.svg"} <= figures
        assert (whole_report.folder / "figures" / f"{DRAWN}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (whole_report.folder / "figures" / f"{DRAWN}.svg").read_bytes()[:500]

    def test_page_asks_nothing_of_the_network_or_the_browser(self, whole_report):
        page = whole_report.index_html.read_text(encoding="utf-8")
        own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
        assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", own)
        assert "url(" not in own
        assert "@import" not in own
        assert page.count("plotly.js v") == 1
        assert len(page.encode()) < 8e6

    def test_page_has_the_structure_that_readers_and_screen_readers_need(self, whole_report):
        page = whole_report.index_html.read_text(encoding="utf-8")
        assert '<html lang="en">' in page
        assert page.count("<h1>") == 1
        assert page.count('role="img" aria-label="') == page.count("<figure ")
        assert page.count("<details><summary>Table of") == page.count("<figure ")
        assert "prefers-reduced-motion" in page
        assert "@media print" in page
        anchors = set(re.findall(r'href="#([a-z]+)"', page))
        assert anchors == set(re.findall(r'<section id="([a-z]+)"', page))

    def test_findings_stand_before_the_figures(self, whole_report):
        page = whole_report.index_html.read_text(encoding="utf-8")
        assert 0 < page.index("seems to help on skin at") < page.index("<figure ")

    def test_verdict_is_strict_json_with_every_comparison(self, whole_report):
        def refuse(text):
            raise AssertionError(f"{text} is not JSON")

        verdict = json.loads(whole_report.verdict_json.read_text(encoding="utf-8"), parse_constant=refuse)
        assert verdict["study"] == "synthetic"
        assert verdict["trials"] == {"planned": 108, "done": 108, "failed": 0, "missing": 0}
        assert len(verdict["contrasts"]) == 48
        first = verdict["contrasts"][0]
        assert first["verdict"] == "helps, meaningfully"
        assert (first["wording"], first["suggests_only_because"]) == ("suggests", ["fewer than 5 seeds"])
        assert first["low"] < first["estimate"] < first["high"]
        assert isinstance(first["caveats"], list)
        assert len(verdict["shifted_sets"]) == 2

    def test_parquet_and_csv_hold_the_same_rows(self, whole_report):
        folder = whole_report.folder / "tables"
        for path in folder.glob("*.parquet"):
            table, text = pd.read_parquet(path), pd.read_csv(path.with_suffix(".csv"))
            assert list(table.columns) == list(text.columns)
            assert len(table) == len(text)
        contrasts = pd.read_parquet(folder / "contrasts.parquet")
        assert "_estimate" not in contrasts
        assert contrasts["estimate"].to_numpy() == pytest.approx(whole_tables().contrasts["estimate"].to_numpy())

    def test_headlines_name_what_was_planted(self, whole_report):
        text = "\n".join(whole_report.headlines)
        assert "Of 16 primary comparisons with random, 4 seem to help, 0 hurt and 12 are undecided" in text
        assert "“Seems to” because of: fewer than 5 seeds" in text
        for planted in ("on skin at 5 % (small)", "on brain at 5 % (large)", "on clinic_b", "sex = F"):
            assert planted in text
        assert "natural_meanvar helps" not in text


def test_sentence_says_effect_interval_p_seeds_and_patients():
    row = records(whole_tables().contrasts.query("primary"))[0]
    row |= {"estimate": 0.0412, "low": 0.0101, "high": 0.0711, "p_adjusted": 0.0121, "verdict": "helps"}
    assert contrast_sentence(row | {"wording": "states"}) == (
        "natural helps on skin at 5 % (small): +0.041 macro AUC "
        "(95 % CI +0.010 to +0.071; Holm p = 0.012; 3 seeds, 150 patients)."
    )
    assert contrast_sentence(row | {"wording": "suggests"}).startswith("natural seems to help on skin")
    silent = contrast_sentence(row | {"wording": "no verdict", "cap": "2 patients in both training and evaluation"})
    assert silent.startswith("No verdict on natural on skin at 5 % (small): 2 patients in both")
    undecided = contrast_sentence(row | {"verdict": "undecided", "p_adjusted": float("nan")})
    assert undecided.startswith("Undecided whether natural helps on skin")
    assert "not tested" in undecided
    assert "evaluated on clinic_b" in contrast_sentence(row | {"set": "clinic_b", "primary": False})


def test_undecided_findings_say_what_is_missing():
    evidence = evidence_of(whole_study())
    blocks = findings(evidence, whole_tables(), collect(evidence, whole_tables()))
    undecided = [f for block in blocks if block.heading.startswith("1.") for f in block.findings]
    undecided = [f for f in undecided if f.badge == "undecided"]
    assert undecided
    assert all("resolve 0.01" in f.detail for f in undecided)


def test_held_back_findings_say_suggests_and_why():
    tables = whole_tables()
    contrasts = tables.contrasts.assign(cap="fewer than 3 seeds", wording="suggests")
    evidence, held = evidence_of(whole_study()), dataclasses.replace(tables, contrasts=contrasts)
    blocks = findings(evidence, held, collect(evidence, held))
    badges = {f.badge for block in blocks for f in block.findings}
    assert "seems to help" in badges
    assert not {"helps", "helps, meaningfully"} & badges


def _empty() -> SyntheticStudy:
    study = whole_study()
    return dataclasses.replace(study, results=study.results.iloc[:0], predictions={})


def _only(**values) -> SyntheticStudy:
    study, rows = whole_study(), whole_study().results
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return dataclasses.replace(study, results=rows)


def _one_task() -> SyntheticStudy:
    """Half of the study, where it does not matter which."""
    return _only(task="brain")


def _test_set_only() -> SyntheticStudy:
    study = _one_task()
    kept = {key: p for key, p in study.predictions.items() if key[1] == "test"}
    return dataclasses.replace(study, predictions=kept)


def _all_nan() -> SyntheticStudy:
    study = _one_task()
    broken = {
        key: dataclasses.replace(p, logits=np.full_like(p.logits, np.nan)) for key, p in study.predictions.items()
    }
    return dataclasses.replace(study, predictions=broken)


def _one_class() -> SyntheticStudy:
    study = _one_task()
    healthy = {key: dataclasses.replace(p, y=np.zeros_like(p.y)) for key, p in study.predictions.items()}
    return dataclasses.replace(study, predictions=healthy)


def _failed() -> SyntheticStudy:
    study = _only(task="skin")
    return dataclasses.replace(study, results=study.results.iloc[1:], failures=pd.DataFrame([failure(seed="1")]))


def _bare_columns() -> SyntheticStudy:
    study = _one_task()
    kept = ["trial_id", "model_scale", "pretraining_source", "data_fraction", "task", "seed", "seed_subset"]
    return dataclasses.replace(study, results=study.results[[*kept, "seed_init", "n_images"]])


SITUATIONS = {
    "nothing finished": (_empty, "No finished trial has predictions yet."),
    "one seed": (lambda: make_synthetic(seeds=1), "every interval is conditional on this run"),
    "one source": (lambda: _only(pretraining_source="natural"), "There is no primary comparison with random yet."),
    "one scale": (lambda: _only(model_scale="small"), "This needs two model scales"),
    "one amount": (lambda: _only(data_fraction="1"), "labelled training images"),
    "one trial": (lambda: _only(trial_id=whole_study().results["trial_id"].iloc[0]), "1 of 108"),
    "no shifted set": (_test_set_only, "no evaluation set beside test"),
    "all logits NaN": (_all_nan, "No finished trial has predictions yet."),
    "one class only": (_one_class, "No finished trial has predictions yet."),
    "failed and missing": (_failed, "Failed trials"),
    "bare columns": (_bare_columns, "helps, meaningfully"),
    "no predictions": (lambda: dataclasses.replace(whole_study(), predictions={}), "No finished trial has predictions"),
}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.usefixtures("no_static_figures")
def test_unfinished_studies_show_what_is_there(situation, tmp_path):
    make, expected = SITUATIONS[situation]
    files, page = written(evidence_of(make()), tmp_path)
    assert expected in page
    text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", page, flags=re.S)
    assert not re.search(r"\b(nan|NaN|None|NaT|inf)\b", text)
    assert json.loads(files.verdict_json.read_text(encoding="utf-8"))["study"] == "synthetic"
    assert files.headlines


@pytest.mark.usefixtures("no_static_figures")
def test_study_file_may_be_unreadable(tmp_path):
    evidence = evidence_of(_one_task(), study=None, plan=readable_plan(None, None)[0])
    _, page = written(evidence, tmp_path, problems=["The study file could not be read, defaults are assumed: x"])
    assert "defaults are assumed" in page
    assert "helps, meaningfully" in page


@pytest.mark.usefixtures("no_static_figures")
def test_everything_a_user_named_is_escaped(tmp_path):
    study = _only(task="skin")
    evil = '</script><img src=x onerror="alert(1)"><a href="https://example.org">&'
    results = study.results.replace({"task": {"skin": evil}, "model_scale": {"small": evil}})
    results["pretraining_source"] = results["pretraining_source"].replace("natural", evil)
    failures = pd.DataFrame([failure(task=evil, message=evil)])
    evidence = evidence_of(study, name=evil, results=target_results(results), failures=failures, study=None)
    evidence = dataclasses.replace(evidence, plan=readable_plan(None, None)[0])
    files, page = written(evidence, tmp_path, problems=[evil])
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert "<img" not in own
    assert '<a href="https' not in own
    assert "onerror=&quot;" in own
    for source in re.findall(r'<script type="application/json">(.*?)</script>', page, flags=re.S):
        texts = json.dumps(json.loads(source), ensure_ascii=False)
        assert "<a" not in texts
        assert "<img" not in texts
    assert all(path.parent == files.folder / "figures" for path in files.figures)


@pytest.mark.usefixtures("no_static_figures")
def test_second_report_replaces_the_first_and_nothing_else(tmp_path):
    first, _ = written(evidence_of(_only(model_scale="small")), tmp_path)
    (first.folder / "notes.txt").write_text("mine")
    second, page = written(evidence_of(_only(model_scale="small", task="brain")), tmp_path)
    assert (first.folder / "notes.txt").read_text() == "mine"
    assert {p.name for p in second.figures} < {p.name for p in first.figures}
    assert not list(second.folder.glob("figures/*skin_test*"))
    assert "scale_curves_brain_test" in page
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_out_may_not_be_a_file(tmp_path):
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(UserError, match="is a file; give a folder"):
        write_report(evidence_of(whole_study()), tmp_path / "report", problems=[], record="")


@pytest.fixture
def recorded(monkeypatch):
    """The synthetic study as if MLflow held it; returns what may be changed."""
    study = whole_study()
    held = {"results": study.results, "failures": pd.DataFrame([failure(), failure(done=True)]), "study": study.study}
    reads = []

    class Recorded(dict[tuple[str, str], PredictionSet]):
        def __getitem__(self, key):
            reads.append(key)
            return super().__getitem__(key)

    monkeypatch.setattr(report, "recorded_reads", lambda name, uri: [])

    def load_predictions(rows, tracking_uri):
        wanted = set(rows["trial_id"])
        return Recorded({key: p for key, p in study.predictions.items() if key[0] in wanted})

    monkeypatch.setattr(report, "load_results", lambda name, uri: held["results"])
    monkeypatch.setattr(report, "load_failures", lambda name, uri: held["failures"])
    monkeypatch.setattr(report, "load_study", lambda name, uri: held["study"])
    monkeypatch.setattr(report, "load_planned", lambda name, uri: None)
    monkeypatch.setattr(report, "load_data_cards", lambda name, uri: {})
    monkeypatch.setattr(report, "load_predictions", load_predictions)
    monkeypatch.setattr(report, "load_validation", lambda rows, uri: {})
    monkeypatch.setattr(report, "load_histories", lambda rows, uri: {})
    return held | {"reads": reads, "held": held}


@pytest.mark.usefixtures("no_static_figures")
def test_each_prediction_file_is_read_once(recorded, tmp_path):
    build_report("synthetic", tmp_path / "report", "sqlite:///x.db")
    assert len(recorded["reads"]) == len(set(recorded["reads"])) == 216


@pytest.mark.usefixtures("no_static_figures")
def test_open_gates_stand_on_the_page_and_all_gates_unfold(recorded, tmp_path):
    recorded["held"]["results"] = recorded["results"][recorded["results"]["task"] == "brain"]
    page = build_report("synthetic", tmp_path / "report", "sqlite:///x.db").index_html.read_text(encoding="utf-8")
    section = page.split('id="gates"')[1].split("</section>")[0]
    shown, folded = section.split("<details>")
    assert "fewer than 5 seeds" in shown
    assert "no patient in both training and evaluation" not in shown
    assert "no patient in both training and evaluation" in folded
    assert "(this one)" in shown


def test_failures_that_a_retry_mended_are_not_shown(recorded):
    evidence, problems = gather("synthetic", "sqlite:///x.db")
    assert len(evidence.failures) == 1
    assert problems == []


def test_upstream_trials_are_no_results(recorded):
    upstream = recorded["results"].assign(role="upstream", task="chest").head(5)
    recorded["held"]["results"] = pd.concat([recorded["results"], upstream])
    evidence, _ = gather("synthetic", "sqlite:///x.db")
    assert set(evidence.results["task"]) == {"skin", "brain"}


def test_a_damaged_plan_or_data_card_costs_itself_alone(recorded, monkeypatch):
    def damaged(name, uri):
        raise DataError("plan.json of the record cannot be read")

    monkeypatch.setattr(report, "load_planned", damaged)
    monkeypatch.setattr(report, "load_data_cards", damaged)
    evidence, problems = gather("synthetic", "sqlite:///x.db")
    assert problems == ["plan.json of the record cannot be read."] * 2
    assert (len(evidence.results), evidence.data_cards) == (108, {})


def test_trials_of_an_earlier_version_are_counted_not_shown(recorded):
    target = {**recorded["results"].iloc[0][["model_scale", "pretraining_source", "data_fraction", "task", "seed"]]}
    planned = {"targets": [target | {"trial_id": "not run yet"}]}
    evidence, problems = gather("synthetic", "sqlite:///x.db", planned)
    assert len(evidence.results) == 107
    assert problems == ["1 finished trial of the record not shown: no part of the study as it stands."]


def test_command_line_prints_the_findings(monkeypatch, tmp_path, whole_report):
    monkeypatch.setattr(report, "build_report", lambda *a, local_ledger, files: whole_report)
    result = CliRunner().invoke(report.app, ["synthetic", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "4 seem to help" in result.output
    assert "index.html" in result.output


def test_command_line_ends_with_one_message_if_there_is_no_record(tmp_path):
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    result = CliRunner().invoke(report.app, ["nosuch", "--out", str(tmp_path / "out"), "--tracking-uri", uri])
    assert result.exit_code == 1
    assert "no record" in result.output
    assert "Traceback" not in result.output


def test_undecided_findings_are_no_headlines():
    evidence = evidence_of(whole_study())
    lines = headlines(evidence, whole_tables(), collect(evidence, whole_tables()))
    primary = records(whole_tables().contrasts.query("primary"))
    decided = [contrast_sentence(r) for r in primary if r["verdict"] != "undecided"]
    assert lines[1 : 1 + len(decided)] == decided
    assert not any("ndecided whether" in line for line in lines)


@pytest.mark.browser
def test_browser_draws_every_figure_without_errors_or_requests(whole_report):
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=options)
        try:
            page = browser.new_page(viewport={"width": 1300, "height": 900})
            problems, requests = [], []
            page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda request: requests.append(request.url))
            # The same restrictions as in the MLflow UI: scripts, but no cookies, no storage, no parent.
            source = whole_report.index_html.read_text(encoding="utf-8")
            page.set_content("<iframe sandbox='allow-scripts' style='width:1280px;height:80000px;border:0'></iframe>")
            page.eval_on_selector("iframe", "(frame, html) => { frame.srcdoc = html; }", source)
            frame = page.query_selector("iframe").content_frame()
            expected = source.count("<figure ")
            frame.wait_for_selector("figure", state="attached", timeout=60_000)
            for figure in frame.query_selector_all("figure"):  # they are drawn when they come into sight
                figure.scroll_into_view_if_needed()
            frame.wait_for_function(
                f"document.querySelectorAll('.plot .main-svg').length >= {expected} && "
                f"[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))",
                timeout=120_000,
            )
            overflow = frame.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        finally:
            browser.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("about:", "data:", "blob:"))] == []
    assert overflow <= 0


def test_study_names_its_own_statistics():
    study = make_study(statistics={"baseline": "natural", "delta": 0.05, "alpha": 0.1})
    evidence = evidence_of(whole_study(), study=study)
    assert (evidence.baseline, evidence.delta, evidence.alpha) == ("natural", 0.05, 0.1)
