"""Masks in tables, intervals and report: counts drawn with a planted gain, and numbers by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dashboards import report
from dashboards.blocks import make_block
from dashboards.evidence import SeenBlock
from dashboards.overlap_tables import overlap_contrast_rows
from dashboards.prediction_sets import PredictionSet, read_predictions
from dashboards.row_plots import subgroup_plots
from dashboards.set_design import design_of
from dashboards.statistics import mask_metrics, overlap_influence, segmentation_influence
from dashboards.statistics.masks import counts_of_label, guessed_counts
from dashboards.tables import Tables, build_tables
from orchestrator.metrics import score_file
from search_spaces.exceptions import DataError
from tests.dashboards import synthetic

SOURCES = ("random", "natural")
SEEDS = 5
PATIENTS = 45
PIXELS = 400
GAIN = 0.12


def people(rng):
    """Two images per patient; a third of the patients have an image that shows nothing."""
    who = np.repeat(np.arange(PATIENTS), 2)
    size = rng.integers(30, 120, len(who))
    size[::6] = 0
    return who, size, rng.normal(0, 0.06, PATIENTS)[who]


def predicted(crowd, level, rng, name="test"):
    who, size, effect = crowd
    share = np.clip(level + effect + rng.normal(0, 0.03, len(who)), 0.05, 0.98)
    tp = np.round(share * size)
    fp = np.where(size > 0, np.round((1 - share) * size), np.where(rng.random(len(who)) < 0.3, 7, 0))
    counts = np.stack([tp, fp, size - tp, PIXELS - size - fp], axis=1)[:, None].astype(float)
    hd95 = np.where((size > 0) & (tp + fp > 0), 10 * (1 - share), np.nan)
    return PredictionSet(
        name=name,
        kind="segmentation",
        labels=("lesion",),
        y=(size > 0).astype(np.float32)[:, None],
        logits=counts,
        image=np.array([f"i{k:03d}" for k in range(len(who))]),
        patient=np.array([f"p{p:03d}" for p in who]),
        groups={"sex": np.where(who % 2, "F", "M").astype(object)},
        shared_patients=0,
        distances=np.stack([hd95, np.where(size > 0, share, np.nan)], axis=1)[:, None],
    )


@cache
def study():
    rng = np.random.default_rng(3)
    crowd = people(rng)
    rows, predictions = [], {}
    for source in SOURCES:
        for fraction, level in (("0.2", 0.55), ("1", 0.7)):
            for seed in range(SEEDS):
                trial_id = f"{SOURCES.index(source)}{fraction.replace('.', '')}{seed}".ljust(16, "a")
                gain = GAIN if source == "natural" else 0.0
                predictions[trial_id, "test"] = predicted(crowd, level + gain + rng.normal(0, 0.01), rng)
                row = synthetic._row(trial_id, "skin", "small", source, fraction, seed, "segmentation", ["test"])
                rows.append(row | {"primary": "dice"})
    written = synthetic.make_study(
        seeds=SEEDS,
        axes={
            "model_scale": ["small"],
            "pretraining_source": list(SOURCES),
            "data_fraction": [0.2, 1.0],
            "task": ["skin"],
        },
        tasks={"skin": {"manifest": "skin", "primary": "dice"}},
    )
    failures = pd.DataFrame(columns=["trial_id", "role", *synthetic.AXES, "seed", "failure_class", "message", "done"])
    return synthetic.SyntheticStudy(
        study=written, results=pd.DataFrame(rows), predictions=predictions, failures=failures
    )


@cache
def tables() -> Tables:
    return build_tables(synthetic.evidence_of(study()))


def mean_dice(prediction):
    tp, fp, fn, _ = prediction.logits[:, 0].T
    shown = tp + fn > 0
    dice = pd.Series(2 * tp[shown] / (2 * tp + fp + fn)[shown])
    return dice.groupby(prediction.patient[shown]).mean().mean()


def test_contrasts_of_dice_are_differences_of_patient_means_with_intervals_over_patients_and_seeds():
    contrasts = tables().contrasts
    row = contrasts[contrasts["data_fraction"] == "1"].iloc[0]
    means = {
        source: np.mean([mean_dice(p) for (t, _), p in study().predictions.items() if t.startswith(f"{k}1")])
        for k, source in enumerate(SOURCES)
    }
    assert row["metric"] == "dice"
    assert row["estimate"] == pytest.approx(means["natural"] - means["random"])
    assert 0 < row["low"] < row["estimate"] < row["high"]
    assert row["n_patients"] == PATIENTS
    assert row["p_adjusted"] < 0.05


def test_subgroups_need_patients_with_the_label_alone():
    groups = tables().subgroups
    assert set(groups["group"]) == {"F", "M"}
    assert groups["value"].between(0.3, 1).all()
    assert (groups["positive_patients"] > 10).all()
    assert groups["negative_patients"].isna().all()
    plot = subgroup_plots(groups, "random")[0]
    assert "A group is shown from 10 patients with the label on" in plot.caption


def test_a_group_that_is_too_small_says_how_many_patients_have_the_label():
    prediction = predicted(people(np.random.default_rng(1)), 0.6, np.random.default_rng(2))
    few = np.where(np.isin(prediction.patient, ["p001", "p002", "p003"]), "few", "many").astype(object)
    design = design_of(replace(prediction, groups={"ward": few}), ["ward"])
    group = next(group for group in design.groups if group.name == "few")
    assert (group.inside, group.negative) == (None, None)
    assert group.too_small == "insufficient data (3 with the label)"


def test_distances_are_compared_where_both_sides_predict_something():
    rng = np.random.default_rng(5)
    crowd = people(rng)
    ours, base = predicted(crowd, 0.8, rng), predicted(crowd, 0.6, rng)
    hard = np.flatnonzero(np.isfinite(ours.distances[:, 0, 0]))[:4]
    ours.distances[hard, 0, 0] = np.nan  # it predicts nothing on four images
    base.distances[hard, 0, 0] = 500.0  # on which the other side is far off
    design = design_of(base, [])
    rows = study().results
    rows = rows[(rows["data_fraction"] == "1") & (rows["seed_init"] == 0)]
    natural, random = (rows[rows["pretraining_source"] == s]["trial_id"].iloc[0] for s in ("natural", "random"))
    seen = SeenBlock(
        task="skin",
        metric="dice",
        scale="small",
        fraction="1",
        rows=rows,
        predictions={(natural, "test"): (ours, design), (random, "test"): (base, design)},
    )
    block = make_block(seen, synthetic.evidence_of(study()), frozenset({"1"}))
    found = {row["metric"]: row for row in overlap_contrast_rows(seen, block)}
    easy = np.isfinite(ours.distances[:, 0, 0]) & np.isfinite(base.distances[:, 0, 0])
    of_patients = [pd.Series(of.distances[easy, 0, 0]).groupby(of.patient[easy]).mean().mean() for of in (ours, base)]
    assert found["hd95"]["estimate"] == pytest.approx(of_patients[0] - of_patients[1])
    assert {name: row["left_out"] for name, row in found.items()} == {"hd95": 4, "nsd": 0, "false_positive_images": 0}
    assert found["nsd"]["estimate"] > 0


def test_contrasts_of_distances_and_false_alarms_are_exploratory():
    table = tables().of("overlap_contrasts")
    assert set(table["metric"]) == {"hd95", "nsd", "false_positive_images"}
    assert len(table) == 6  # three metrics, two amounts
    by_metric = table[table["data_fraction"] == "1"].set_index("metric")
    assert by_metric.loc["hd95", "high"] < 0 < by_metric.loc["nsd", "low"]
    assert by_metric.loc["false_positive_images", "low"] < 0 < by_metric.loc["false_positive_images", "high"]
    assert set(table["correction"]) == {"Benjamini-Hochberg, exploratory"}
    tested = table[table["p"].notna()]
    assert set(tested["metric"]) == {"hd95", "nsd"}, "of 15 patients with an image without the label nothing is tested"
    assert (tested["p_adjusted"] >= tested["p"]).all()


def test_readings_distances_and_false_alarms_stand_in_their_own_table():
    overlap = tables().of("overlap")
    assert len(overlap) == 4
    row = overlap[(overlap["pretraining_source"] == "natural") & (overlap["data_fraction"] == "1")].iloc[0]
    runs = [p for (t, _), p in study().predictions.items() if t.startswith("11")]
    assert row["dice"] == pytest.approx(np.mean([mean_dice(p) for p in runs]))
    cells = tables().cells
    primary = cells[(cells["pretraining_source"] == "natural") & (cells["data_fraction"] == "1")].iloc[0]
    assert (row["dice_low"], row["dice_high"]) == pytest.approx((primary["low"], primary["high"]))
    for metric in ("hd95", "nsd", "false_positive_images"):
        assert row[f"{metric}_low"] < row[metric] < row[f"{metric}_high"]
    empty = runs[0].y[:, 0] == 0
    assert row["empty_images"] == empty.sum()
    assert row["false_positive_images"] == pytest.approx(np.mean([(p.logits[empty, 0, 1] > 0).mean() for p in runs]))
    assert row["false_positive_pixels"] == pytest.approx(np.mean([p.logits[empty, 0, 1].mean() for p in runs]))
    assert row["hd95_undefined"] == 0
    assert len(tables().ensembles) == 0
    assert not len(tables().of("probabilities"))


def test_the_page_shows_them(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "render", lambda plot: (b"<svg/>", b"png"))
    monkeypatch.setattr(report, "build_tables", lambda _: tables())
    files = report.write_report(synthetic.evidence_of(study()), tmp_path / "report", problems=[], record="x")
    page = files.index_html.read_text(encoding="utf-8")
    for heading in ("Dice where the label is shown", "Hausdorff distance where the", "False alarms where it is not"):
        assert heading in page
    verdict = json.loads(files.verdict_json.read_text(encoding="utf-8"))
    assert any("Dice" in answer["sentence"] for answer in verdict["questions"][0]["answers"])
    assert {"overlap.csv", "overlap_contrasts.csv"} <= {path.name for path in files.tables}
    assert "Differences to random in distances and false alarms" in page
    assert "Harm by a source, gaps beside chance and error rates are not judged of masks" in page
    assert "20 negative patients" not in page


COUNTS = np.array(
    [
        [[4, 0, 0, 6], [0, 0, 2, 8]],
        [[2, 2, 2, 4], [0, 3, 0, 7]],
        [[0, 0, 0, 10], [np.nan] * 4],
    ]
)
"""Three images of patients a, a, b: label one is found, half found, absent; label two missed, absent, unknown."""


def test_numbers_by_hand():
    distances = np.full((3, 2, 2), np.nan)
    distances[:2, 0, 0] = 1.0, 3.0
    found = mask_metrics(("one", "two"), COUNTS, distances, np.array(["a", "a", "b"]))
    assert found["dice.one"] == pytest.approx((1 + 0.5) / 2)
    assert found["dice_pooled.one"] == pytest.approx(12 / 16)
    assert found["dice_both_empty_is_1.one"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["iou.one"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["hd95.one"] == 2
    assert found["dice.two"] == 0
    assert found["false_positive_images.two"] == 1
    assert found["false_positive_pixels.two"] == 3
    assert found["hd95_undefined"] == 1  # of the missed label
    assert found["dice"] == pytest.approx(0.375)
    assert math.isnan(found["nsd"])
    assert math.isnan(found["hd95.two"])


def test_the_mean_over_labels_has_the_contributions_of_both():
    patient = np.array(["a", "a", "b"])
    whole = overlap_influence("dice", ("one", "two"), COUNTS, patient)
    each = [segmentation_influence("dice", counts_of_label(COUNTS, k), patient) for k in range(2)]
    assert whole.value == pytest.approx(np.mean([e.value for e in each]))
    assert whole.patients.tolist() == ["a"]
    assert whole.psi.sum() == pytest.approx(0)
    assert overlap_influence("dice.one", ("one", "two"), COUNTS, patient).value == pytest.approx(0.75)
    nothing = overlap_influence("dice", ("one",), COUNTS[2:, :1], patient[2:])
    assert math.isnan(nothing.value)
    with pytest.raises(ValueError, match="segmentation task"):
        overlap_influence("auc", ("one",), COUNTS[:, :1], patient)


def test_the_guess_is_that_all_pixels_show_it():
    guess = guessed_counts(COUNTS)
    assert guess[0, 0].tolist() == [4, 6, 0, 0]
    assert np.isnan(guess[2, 1]).all()


def file_of(path, **changes):
    columns = {
        "image_id": ["x", "x", "y", "y"],
        "patient_id": ["a", "a", "b", "b"],
        "label": ["one", "two"] * 2,
        "y": pa.array([1, 1, 0, None], pa.float32()),
        "tp": [4, 0, 0, None],
        "fp": [0, 1, 2, None],
        "fn": [0, 3, 0, None],
        "tn": [6, 6, 8, None],
        "hd95": [0.0, 2.5, float("nan"), float("nan")],
        "nsd": [1.0, 0.5, float("nan"), float("nan")],
    }
    metadata = {"kind": "segmentation", "labels": '["one", "two"]'}
    pq.write_table(pa.table(columns | changes).replace_schema_metadata(metadata), path)
    return path


def test_a_file_of_counts_is_read_by_image_and_scored(tmp_path):
    path = file_of(tmp_path / "test.parquet")
    found = read_predictions(path)
    assert (found.images, found.labels, found.positives) == (2, ("one", "two"), {"one": 1, "two": 1})
    np.testing.assert_array_equal(found.logits[0], [[4, 0, 0, 6], [0, 1, 3, 6]])
    assert np.isnan(found.logits[1, 1]).all()
    scores = score_file(path)
    assert scores.values["test/dice"] == pytest.approx(0.5)
    assert scores.values["test/hd95"] == pytest.approx(1.25)
    assert scores.values["test/false_positive_images"] == 1
    assert scores.values["test/n_images"] == 2
    assert "test/dice.two" in scores.values
    with pytest.raises(DataError, match="rows must be the images in order"):
        read_predictions(file_of(tmp_path / "mixed.parquet", label=["two", "one"] * 2))
