"""``sweep ingest``: others' results become a record like our own, and say no more than they can."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dashboards import load_failures, load_predictions, load_results, report
from dashboards.load import load_ingested, load_study
from dashboards.run_heads import study_heads
from dashboards.statistics import compute_metrics
from orchestrator.ingest import Ingestion, IngestOptions, ingest, new_trials, read_ingestion
from orchestrator.record import Record
from orchestrator.record_api import ingest_study
from orchestrator.sweep import app
from orchestrator.terminal import make_console
from search_spaces.exceptions import UserError
from search_spaces.names import Role, Tag
from tests.orchestrator.ingest_fixtures import paired, row, write_csv, write_predictions
from tests.orchestrator.record_fixtures import make_study
from trainables.storage import Storage

pytest_plugins = ("tests.orchestrator.record_plugin",)

SOURCES = ("random", "natural")
QUIET = make_console(quiet=True)


@pytest.fixture
def others(storage: Storage, tracking_uri: str, tmp_path: Path):
    """Ingests rows into the study ``others``; gives what came of it."""

    def add(rows, **options):
        read = read_ingestion(write_csv(tmp_path / "others.csv", rows), "others", IngestOptions(**options))
        record = Record(read.study, storage, tracking_uri, retry_pauses_s=())
        record.open()
        return ingest(read, record, QUIET)

    return add


@pytest.fixture
def no_static_figures(monkeypatch):
    """Drawing with matplotlib is tested elsewhere and takes most of the time."""
    monkeypatch.setattr(report, "render", lambda plot: (b"<svg/>", b"png"))


def reported(uri: str, tmp_path: Path) -> tuple[dict, str]:
    files = report.build_report("others", tmp_path / "report", uri)
    return json.loads(files.verdict_json.read_text()), files.index_html.read_text()


def read_only(rows, tmp_path, **options) -> Ingestion:
    return read_ingestion(write_csv(tmp_path / "read.csv", rows), "others", IngestOptions(**options))


class TestRecord:
    """What lies in MLflow."""

    def test_repeating_changes_nothing_and_extending_adds_the_difference(self, others, tracking_uri):
        rows = paired(0.02, 0.004)
        assert (lambda got: (got.added, got.known, got.replaced))(others(rows)) == (10, 0, 0)
        before = study_heads(tracking_uri, "others")
        assert (lambda got: (got.added, got.known))(others(rows)) == (0, 10)
        assert study_heads(tracking_uri, "others") == before
        got = others(rows + paired(0.01, 0.004, task="derm") + [row("natural", 0.9, seed=0)])
        assert (got.added, got.known, got.replaced) == (11, 10, 0)
        assert {h.run_id for h in before} <= {h.run_id for h in study_heads(tracking_uri, "others")}
        assert len(load_results("others", tracking_uri)) == 21

    def test_another_value_replaces_the_earlier_run_which_stays_visible(self, others, tracking_uri):
        others([row(value=0.80), row("natural", 0.85)])
        got = others([row(value=0.81), row("natural", 0.85)])
        assert (got.added, got.known, got.replaced) == (1, 1, 1)
        results = load_results("others", tracking_uri)
        assert sorted(results["test/auc"]) == [0.81, 0.85]
        states = [h.tags.get(Tag.STATE) for h in study_heads(tracking_uri, "others") if h.tags.get(Tag.TRIAL_ID)]
        assert sorted(states) == ["complete", "complete", "superseded"]
        assert others([row(value=0.80), row("natural", 0.85)]).replaced == 1, "and back again"
        assert sorted(load_results("others", tracking_uri)["test/auc"]) == [0.80, 0.85]

    def test_states_tags_and_numbers_are_as_of_our_own_trials(self, others, tracking_uri):
        facts = {"n_images": 5000, "n_patients": "", "parameters": 23_500_000, "gpu_seconds": 12.5, "ladder": "resnet"}
        rows = [
            row(seed=0, **facts),
            row(seed=0, metric="nll", value=0.4, **facts),
            row(seed=0, metric="f1", value=0.7, **facts),
            row(seed=1, metric="auc", value="", **facts),
            row(seed=2, value="", status="diverged"),
            row("natural", fraction="images=100", seed=0),
        ]
        others(rows)
        results = load_results("others", tracking_uri)
        first = results[(results["seed"] == "0") & (results["pretraining_source"] == "random")].iloc[0]
        assert first["role"] == Role.TARGET
        assert (first["data_fraction"], first["amount_kind"], first["amount_value"]) == ("1", "fraction", 1.0)
        assert (first["n_images"], first["parameters"], first["gpu_seconds"]) == (5000, 23_500_000, 12.5)
        assert (first["ladder"], first["primary"], first["kind"]) == ("resnet", "auc", None)
        assert (first["test/auc"], first["test/nll"], first["test/f1"]) == (0.8, 0.4, 0.7)
        assert (first["sets"], first["reported"], first["patients_known"]) == (["test"], ["test"], False)
        undefined = results[results["seed"] == "1"].iloc[0]
        assert pd.isna(undefined["test/auc"])
        assert undefined["undefined"] == ["test/auc"]
        assert results[results["data_fraction"] == "images=100"].iloc[0]["n_images"] == 100
        failures = load_failures("others", tracking_uri)
        assert failures["failure_class"].tolist() == ["divergence"]
        assert len(load_predictions(results)) == 0
        heads = study_heads(tracking_uri, "others")
        assert [h.tags.get(Tag.ROLE) for h in heads].count("study") == 1
        ingested = load_ingested("others", tracking_uri)
        assert ingested is not None
        assert (ingested.primary, ingested.ingested.rows) == ({"chest": "auc"}, 6)
        with pytest.raises(UserError, match="holds results of others"):
            load_study("others", tracking_uri)

    def test_a_failure_that_a_later_table_says_is_done_is_none(self, others, tracking_uri):
        others([row(value="", status="failed"), row("natural")])
        others([row(value=0.7), row("natural")])
        assert load_failures("others", tracking_uri).empty
        assert len(load_results("others", tracking_uri)) == 2

    def test_a_delivery_that_broke_off_goes_on_with_the_same_runs(self, others, tracking_uri, monkeypatch):
        rows = [row(), row("natural", 0.9)]
        with monkeypatch.context() as broken:
            broken.setattr("orchestrator.record.batches", lambda *_: (_ for _ in ()).throw(RuntimeError("lost")))
            with pytest.raises(RuntimeError, match="lost"):
                others(rows)
        assert load_results("others", tracking_uri).empty
        others(rows)
        assert len(load_results("others", tracking_uri)) == 2
        assert len(study_heads(tracking_uri, "others")) == 3

    def test_studies_that_were_run_here_and_results_of_others_stay_apart(self, others, storage, tracking_uri):
        others([row(), row("natural")])
        with pytest.raises(UserError, match="holds results of others, not trials that were run here"):
            Record(make_study("others"), storage, tracking_uri).open()
        Record(make_study("own"), storage, tracking_uri).open()
        ingested = load_ingested("others", tracking_uri)
        assert ingested is not None
        again = Record(ingested.model_copy(update={"name": "own"}), storage, tracking_uri)
        with pytest.raises(UserError, match="holds trials that were run here, not results of others"):
            again.open()

    def test_a_corrected_first_file_keeps_all_patients_comparable(self, others, tracking_uri, tmp_path):
        rows = [row(source, seed=seed, predictions=f"{source}{seed}.parquet") for source in SOURCES for seed in (0, 1)]
        for number, written in enumerate(rows):
            write_predictions(tmp_path / written["predictions"], signal=1, noise_seed=number, patients=50)
        write_predictions(tmp_path / "random0.parquet", signal=1, noise_seed=0, patients=40)
        others(rows)
        write_predictions(tmp_path / "random0.parquet", signal=1, noise_seed=0, patients=50)
        got = others(rows)
        assert (got.added, got.known, got.replaced) == (4, 0, 4)
        predictions = load_predictions(load_results("others", tracking_uri))
        assert len(predictions) == 4
        assert len({tuple(p.patient) for p in predictions.values()}) == 1
        assert others(rows[::-1]).added == 0, "nothing depends on which row comes first"

    def test_looking_writes_nothing(self, tracking_uri, storage, tmp_path):
        read = read_only([row(), row("natural")], tmp_path)
        assert new_trials(read, Record(read.study, storage, tracking_uri)) == 2
        assert study_heads(tracking_uri, "others") == []


class TestReport:
    """What the report makes of numbers alone."""

    @pytest.mark.usefixtures("no_static_figures")
    def test_padchest_full_shot_helps_meaningfully_on_seeds_only(self, others, tracking_uri, tmp_path):
        others(paired(0.0133618, 0.002458, task="padchest"), delta=0.01)
        verdict, page = reported(tracking_uri, tmp_path)
        (contrast,) = [c for c in verdict["contrasts"] if c["pretraining_source"] == "medical"]
        assert contrast["estimate"] == pytest.approx(0.0133618, abs=1e-9)
        assert contrast["estimate"] / contrast["se"] == pytest.approx(12.155, abs=2e-3)
        assert contrast["p"] == pytest.approx(2.63e-4, rel=2e-3)
        assert contrast["df"] == 4
        assert contrast["verdict"] == "helps, meaningfully"
        assert contrast["v_case"] is None
        assert (contrast["n_seeds"], contrast["n_patients"]) == (5, 0)
        assert "exact sign flip over seeds: p = 0.0625" in contrast["caveats"]
        assert "seems to help" in json.dumps(verdict)
        assert "no patient data: seeds only" in json.dumps(verdict)
        assert "Not answered there: whether any subgroup is harmed" in page
        assert "results of others" in page.lower()

    @pytest.mark.usefixtures("no_static_figures")
    def test_a_source_may_help_one_task_and_hurt_another(self, others, tracking_uri, tmp_path):
        rows = paired(0.0304, 0.006, task="tuberculosis", level=0.9284) + paired(
            -0.0125, 0.002, task="covidx", level=0.97
        )
        others(rows)
        verdict, _ = reported(tracking_uri, tmp_path)
        words = {c["task"]: c["verdict"] for c in verdict["contrasts"]}
        assert words == {"tuberculosis": "helps, meaningfully", "covidx": "hurts"}

    @pytest.mark.usefixtures("no_static_figures")
    def test_one_seed_and_no_patients_allow_no_interval_and_no_word(self, others, tracking_uri, tmp_path):
        others([row(), row("natural", 0.95)])
        verdict, page = reported(tracking_uri, tmp_path)
        assert [c["verdict"] for c in verdict["contrasts"]] == ["undecided"]
        assert verdict["contrasts"][0]["low"] is None
        assert "One seed" in page

    @pytest.mark.usefixtures("no_static_figures")
    def test_what_cannot_be_used_is_named_and_lost(self, others, tracking_uri, tmp_path):
        rows = paired(0.03, 0.004)
        rows[0]["value"] = "nan"
        rows += [
            row(source, 0.7 + (source == "natural") * 0.02, task="derm", seed=s) for source in SOURCES for s in (0, 1)
        ]
        others(rows)
        verdict, _ = reported(tracking_uri, tmp_path)
        (excluded,) = verdict["exclusions"]
        assert excluded["reason"] == "reported without a value, or without the primary metric"
        assert (excluded["task"], excluded["trials"]) == ("chest", 1)
        chest, derm = sorted(verdict["contrasts"], key=lambda c: c["task"])
        assert (chest["n_seeds"], chest["lost_trials"], chest["holds_at_chance"]) == (4, 1, False)
        assert any("1 planned trial without a result" in reason for reason in chest["reasons"])
        assert derm["missing"].startswith("all seeds differ by exactly as much")

    @pytest.mark.usefixtures("no_static_figures")
    def test_predictions_give_the_whole_analysis(self, others, tracking_uri, tmp_path):
        folder = tmp_path / "predictions"
        rows = []
        for number, (source, seed) in enumerate((so, s) for so in ("random", "natural") for s in range(3)):
            signal = 0.4 if source == "random" else 1.2
            path = folder / "brain" / "r50" / source / "0.1" / str(seed) / "test.parquet"
            write_predictions(path, signal=signal, noise_seed=number)
            rows.append(row(source, 0.123, task="brain", fraction="10%", seed=seed))
        got = others(rows, predictions=folder)
        assert len(got.contradicted) == 6, "the table said 0.123"
        results = load_results("others", tracking_uri)
        assert (results["test/auc"] > 0.5).all()
        assert results["patients_known"].all()
        prediction = next(iter(load_predictions(results).values()))
        shown = " ".join([*prediction.patient, *prediction.image])
        assert "Doe" not in shown
        assert "scan" not in shown
        assert len(set(prediction.patient)) == 60
        assert prediction.groups.keys() == {"sex"}, "columns that nobody asked for stay where they were"
        verdict, page = reported(tracking_uri, tmp_path)
        (contrast,) = [c for c in verdict["contrasts"] if c["set"] == "test"]
        assert contrast["n_patients"] == 60
        assert contrast["v_case"] > 0
        assert contrast["verdict"].startswith("helps")
        assert "brain: AUC by sex on test" in page
        assert others(rows, predictions=folder).added == 0

    def test_a_mean_over_all_classes_contradicts_no_predictions(self, others, tracking_uri, tmp_path):
        """The record's macro AUC leaves out a class that is too rare; a table of others need not."""
        who = np.arange(60)
        y = np.where(who < 3, 2, who % 2).astype(np.int16)
        z = np.random.default_rng(0).normal(0, 1, (60, 3)) + np.eye(3)[y]
        z[y == 2, 2] -= 4
        columns = {"image_id": who.astype(str), "patient_id": who.astype(str), "y": y}
        table = pa.table(columns | {f"z_{label}": z[:, k] for k, label in enumerate("abc")})
        about = {"kind": "multiclass", "labels": '["a", "b", "c"]'}
        pq.write_table(table.replace_schema_metadata(about), tmp_path / "skin.parquet")
        every = compute_metrics("multiclass", list("abc"), y, z)
        recorded = compute_metrics("multiclass", list("abc"), y, z, class_set=["a", "b"])["auc_macro"]
        assert abs(every["auc_macro"] - recorded) > 0.01
        given = {"metric": "mean AUC", "predictions": "skin.parquet"}
        values = {"random": every["auc_macro"], "natural": recorded, "other": 0.123}
        got = others([row(source, value, **given) for source, value in values.items()], baseline="random")
        assert len(got.contradicted) == 1
        assert "other" in got.contradicted[0]
        assert load_results("others", tracking_uri)["test/auc_macro"].tolist() == pytest.approx([recorded] * 3)


class TestRefusals:
    """Everything at once, before anything is written."""

    def test_choices_that_only_the_user_can_make(self, tmp_path):
        rows = [row("a"), row("b"), row("b", metric="f1", task="derm")]
        with pytest.raises(UserError) as error:
            read_only(rows, tmp_path)
        message = str(error.value)
        assert "which source is the baseline? Say --baseline with one of a, b" in message
        assert "task 'derm' has no metric that the report knows (only f1)" in message
        with pytest.raises(UserError) as error:
            read_only(rows[:2], tmp_path, baseline="aa", primary={"": "nll", "brain": "auc"})
        message = str(error.value)
        assert "--baseline: unknown source 'aa'. Did you mean 'a'?" in message
        assert "--primary: unknown task 'brain'" in message
        assert "--primary of task 'chest': unknown metric 'nll'" in message

    def test_the_leading_metric_is_one_that_all_trials_have(self, tmp_path):
        rows = [
            row(),
            row("natural"),
            row(metric="accuracy"),
            row("natural", metric="accuracy"),
            row(metric="auc_macro"),
        ]
        assert read_only(rows, tmp_path).study.primary == {"chest": "auc"}
        assert read_only(rows, tmp_path, primary={"chest": "acc"}).study.primary == {"chest": "accuracy"}

    def test_the_leading_metric_is_one_that_all_predictions_give(self, tmp_path):
        write_predictions(tmp_path / "p.parquet", signal=1, noise_seed=0)
        rows = [
            row(metric="mean AUC", predictions="p.parquet"),
            row(metric="kappa"),
            row("natural", metric="mean AUC"),
            row("natural", metric="kappa"),
        ]
        read = read_only(rows, tmp_path)
        assert read.study.primary == {"chest": "auc"}, "of two classes the mean AUC is the AUC"
        assert "chest: auc_macro is read as auc, since its predictions are of two classes" in read.lines()
        assert [set(trial.values["test"]) for trial in read.trials] == [{"auc", "kappa"}] * 2
        assert read_only(rows, tmp_path, primary={"": "auc_macro"}).study.primary == {"chest": "auc"}
        with pytest.raises(UserError, match="not all of its predictions give kappa; all give accuracy, ap, auc, "):
            read_only(rows, tmp_path, primary={"": "kappa"})
        rows = [row(metric="kappa"), row("natural", metric="kappa"), row(set="clinic", predictions="p.parquet")]
        with pytest.raises(UserError, match=r"no metric that all of its predictions give \(its metrics: kappa\)"):
            read_only(rows, tmp_path)

    def test_predictions_that_cannot_be_used(self, tmp_path):
        write_predictions(tmp_path / "p.parquet", signal=1, noise_seed=0, probabilities=True)
        (tmp_path / "q.parquet").write_bytes(b"no")
        rows = [
            row(predictions="p.parquet"),
            row("natural", predictions="q.parquet"),
            row("natural", seed=1, predictions="r.parquet"),
        ]
        with pytest.raises(UserError) as error:
            read_only(rows, tmp_path)
        message = str(error.value)
        assert "read.csv: 3 problems" in message
        assert "row 2: predictions p.parquet: every z_ lies in [0, 1], as probabilities do" in message
        assert "row 3: predictions q.parquet cannot be read" in message
        assert "row 4: predictions" in message
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match=r"looked for as chest/r50/random/1/0/test\.parquet"):
            read_only([row(), row("natural")], tmp_path, predictions=tmp_path / "empty")

    def test_predictions_about_other_images_are_named(self, tmp_path):
        for number, patients in enumerate((60, 60, 50)):
            write_predictions(tmp_path / f"{number}.parquet", signal=1, noise_seed=number, patients=patients)
        rows = [row(seed=s, predictions=f"{s}.parquet") for s in range(2)] + [row("natural", predictions="2.parquet")]
        lines = read_only(rows, tmp_path).lines()
        assert any("chest, test: 1 of 3 predictions are about other images" in line for line in lines)


def test_a_table_is_described_before_it_is_added(tmp_path):
    write_predictions(tmp_path / "p.parquet", signal=1, noise_seed=0)
    rows = [row(scale="R50"), row("natural", value="nan"), row("natural", seed=1, predictions="p.parquet"), row()]
    lines = read_only([*rows[:3], rows[3] | {"fold": 1}], tmp_path).lines()
    assert "model_scale: R50, r50 differ in capitals alone, and count as different" in lines
    assert "values that are blank or nan, so undefined and not used: 1" in lines
    assert "there is one source only: nothing can be compared with it" in read_only([row()], tmp_path).lines()
    twice = read_only([row() | {"fold": 0}, row() | {"fold": 1}, row("natural") | {"fold": 0}], tmp_path).lines()
    assert "such rows differ in the columns fold, which mean nothing here" in twice


def test_logits_that_are_not_finite_are_counted_before_they_are_added(tmp_path):
    broken = pq.read_table(write_predictions(tmp_path / "p.parquet", signal=1, noise_seed=0))
    z = pa.array([float("inf")] * len(broken))
    pq.write_table(broken.set_column(broken.column_names.index("z_tumour"), "z_tumour", z), tmp_path / "p.parquet")
    lines = read_only([row(predictions="p.parquet"), row("natural")], tmp_path).lines()
    assert "predictions with z_ that are not finite, so not used: 1 of 1" in lines


def test_the_command(tmp_path, tracking_uri, monkeypatch):
    monkeypatch.setattr(report, "render", lambda plot: (b"<svg/>", b"png"))
    table = write_csv(tmp_path / "others.csv", paired(2.0, 0.4, level=82))
    where = ["--tracking-uri", tracking_uri, "--storage", str(tmp_path / "storage")]
    call = ["ingest", str(table), "--study", "others", *where]

    def run(*more, code=0):
        ran = CliRunner().invoke(app, [*call, *more])
        assert ran.exit_code == code, ran.output
        return ran.output

    assert "say --scale 0.01" in run(code=1)
    dry = run("--scale", "0.01", "--dry-run")
    assert "10 trials would be added, 0 are in the record; nothing written" in dry
    assert study_heads(tracking_uri, "others") == []
    done = run("--scale", "0.01", "--out", str(tmp_path / "report"), "--primary", "auc", "--delta", "0.005")
    assert "10 trials added to the record, 0 were there" in done
    assert "medical seems to help on chest at 100 % (r50): +0.020 AUC" in done
    assert (tmp_path / "report" / "index.html").is_file()
    assert "--map takes OLD=NEW" in run("--map", "arch", code=1)
    assert "--decimal is . or a comma, got 'x'" in run("--decimal", "x", code=1)
    german = table.read_text("utf-8").replace(",", ";").replace(".", ",").replace("chest", "Schädel")
    table.write_bytes(german.encode("cp1252"))
    read = run("--scale", "0.01", "--decimal", ",", "--encoding", "cp1252", "--dry-run")
    assert "10 trials would be added" in read


@pytest.mark.usefixtures("no_static_figures")
def test_the_function_gives_what_the_command_prints(tmp_path, tracking_uri, capsys):
    table = write_csv(tmp_path / "others.csv", paired(2.0, 0.4, level=82))
    where = {"tracking_uri": tracking_uri, "storage": str(tmp_path / "storage"), "progress": False}
    with pytest.raises(UserError, match=r"say --scale 0\.01"):
        ingest_study(table, "others", **where)
    with pytest.raises(UserError, match=r"is \. or a comma, got 'x'"):
        ingest_study(table, "others", decimal="x", **where)
    dry = ingest_study(table, "others", scale=0.01, dry_run=True, **where)
    assert (dry.new, dry.ingested, dry.report) == (10, None, None)
    assert study_heads(tracking_uri, "others") == []
    named = write_csv(
        table, [{"arch" if k == "model_scale" else k: v for k, v in r.items()} for r in paired(2.0, 0.4, level=82)]
    )
    options = {"renames": {"arch": "model_scale"}, "scale": 0.01, "primary": "auc", "out": tmp_path / "report"}
    made = ingest_study(named, "others", **options, **where)
    assert (made.new, made.ingested.added, made.ingested.known) == (10, 10, 0)
    assert made.report.page == (tmp_path / "report" / "index.html").resolve()
    assert any("medical seems to help on chest at 100 % (r50)" in line for line in made.report.headlines)
    assert made.table.study.primary == {"chest": "auc"}
    assert ingest_study(named, "others", **options, **where).new == 0
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_static_figures")
def test_a_preset_is_no_name_for_results_of_others(tmp_path):
    with pytest.raises(UserError, match="--study taher2021 is the name of a preset"):
        ingest_study(tmp_path / "any.csv", "taher2021")


def test_the_report_of_others_is_made_again_by_name(tmp_path, tracking_uri):
    table = write_csv(tmp_path / "others.csv", paired(0.02, 0.004, level=0.82))
    where = ["--tracking-uri", tracking_uri, "--storage", str(tmp_path / "storage")]

    def run(*call, code=0):
        ran = CliRunner().invoke(app, [*call, *where])
        assert ran.exit_code == code, ran.output
        return ran.output

    run("ingest", str(table), "--study", "others", "--out", str(tmp_path / "first"))
    states = {head.run_id: head.status for head in study_heads(tracking_uri, "others")}
    said = run("report", "others", "--out", str(tmp_path / "again"))
    assert "medical seems to help on chest at 100 % (r50)" in said
    first, again = (
        json.loads((tmp_path / name / "verdict.json").read_text(encoding="utf-8")) for name in ("first", "again")
    )
    assert [c["grade"] for c in again["contrasts"]] == ["C"]
    for of_report in (first, again):
        del of_report["ledger"]
    assert first == again
    assert {head.run_id: head.status for head in study_heads(tracking_uri, "others")} == states
    assert "study 'nobody'" in run("report", "nobody", code=1)
