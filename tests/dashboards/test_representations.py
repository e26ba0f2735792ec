"""Representations from files to the page: what networks kept with planted truths, and what tables say of them."""

from __future__ import annotations

import base64
import io
import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from PIL import Image

from dashboards import representation_tables as representation_tables_module
from dashboards.evidence import Evidence
from dashboards.figures import draw
from dashboards.filter_pictures import AFTER, BEFORE, filter_pictures, mosaic
from dashboards.page import PageContent, render_page
from dashboards.processes import shared_out
from dashboards.representation_plots import distance_plots, drift_plots, filter_plots, pair_plots, tick_texts
from dashboards.representation_section import representation_section
from dashboards.representation_tables import CCA, CKA, MEASURES, PROCRUSTES, PWCCA, SVCCA, Layer, representation_tables
from dashboards.representations import KeptMoment, KeptRepresentations, load_representations, storage_files
from dashboards.static import render
from dashboards.statistics import (
    Representation,
    debiased_cka,
    filter_correlation,
    mean_cca,
    pair_interval,
    procrustes,
    pwcca,
    seed_interval,
    svcca,
)
from dashboards.weight_tables import BACKBONE, OTHER_SEED, OTHER_SEED_BEFORE, OWN_START, weight_rows
from search_spaces.exceptions import DataError, UserError
from tests.dashboards.synthetic import make_study

IMAGES = 160
LAYERS = {"low": 6, "high": 12}
SOURCES = ("random", "natural")
MOVES = {"random": 2.0, "natural": 0.1}
"""How far training takes the activations from their start, in their own size: planted."""


def file_of(trial_id, moment, layers, filters, *, probe="p" * 16, weights=None):
    tensors = {f"activations/{name}": values.astype(np.float16) for name, values in layers.items()}
    tensors |= {"filters": filters.astype(np.float32), "images": np.zeros((IMAGES, 8), np.uint8)}
    facts = {
        "format": 1,
        "trial_id": trial_id,
        "moment": moment,
        "step": 0 if moment == "initial" else 6,
        "layers": list(layers),
        "exponents": dict.fromkeys(layers, 0),
        "filters": "conv1",
        "probe": {},
        "probe_hash": probe,
        "positions": None,
        "weights": weights or f"{trial_id}{moment}",
        "inputs": {"size": 8},
    }
    return safetensors.numpy.save(tensors, {"scalecurves": json.dumps(facts)})


def planted(folder, *, seeds=3, fractions=("0.1", "1")):
    """A storage and the results of a study: natural starts share their features, random ones do not."""
    rng = np.random.default_rng(0)
    common = {name: rng.normal(size=(IMAGES, d)) for name, d in LAYERS.items()}
    rows = []
    for source in SOURCES:
        for seed in range(seeds):
            own = {name: rng.normal(size=(IMAGES, d)) for name, d in LAYERS.items()}
            start = common if source == "natural" else own
            filters = rng.normal(size=(8, 3, 3, 3))
            for fraction in fractions:
                trial_id = f"{SOURCES.index(source)}{seed}{fractions.index(fraction)}".ljust(16, "0")
                end = {n: x + MOVES[source] * rng.normal(size=x.shape) for n, x in start.items()}
                moved = filters + 0.3 * MOVES[source] * rng.normal(size=filters.shape)
                put(folder, trial_id, start, end, filters, moved, seed)
                rows.append(
                    {
                        **{"trial_id": trial_id, "task": "skin", "model_scale": "small", "pretraining_source": source},
                        **{"data_fraction": fraction, "seed": str(seed), "seed_subset": seed, "seed_init": seed},
                        "n_images": 100 * float(fraction),
                    }
                )
    frame = pd.DataFrame(rows)
    frame.attrs["study"] = "made"
    return frame


def put(folder, trial_id, start, end, filters, moved, seed):
    place = folder / "made" / "trials" / trial_id / "representations"
    place.mkdir(parents=True)
    shared = f"start{filters.ravel()[0]}"
    (place / "initial.safetensors").write_bytes(file_of(trial_id, "initial", start, filters, weights=shared))
    (place / "final.safetensors").write_bytes(file_of(trial_id, "final", end, moved))
    sums = [
        ("conv1.weight", "conv1", 4.0, 16.0, 12.0),
        ("bn1.weight", "conv1", 0.0, 9.0, 9.0),
        ("fc.weight", "head", 1.0, 1.0, 0.0),
    ]
    table = [
        {
            **{"parameter": name, "part": part, "normalisation": "bn" in name, "trained": True, "numbers": 10},
            **{"squared_distance": distance, "squared_start": start_, "squared_end": start_, "product": product},
        }
        for name, part, distance, start_, product in sums
    ]
    pq.write_table(pa.Table.from_pylist(table), place / "weights.parquet")


def evidence_of(frame, folder, **asked):
    study = make_study(representations=asked)
    kept = KeptRepresentations(frame, storage_files("made", folder))
    nothing = pd.DataFrame()
    return Evidence(name="made", results=frame, predictions={}, failures=nothing, study=study, representations=kept)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("storage")
    frame = planted(folder)
    evidence = evidence_of(frame, folder)
    return evidence, representation_tables(evidence, weight_rows), folder


def test_files_are_read_back(made):
    evidence, _, folder = made
    kept = load_representations(evidence.results, folder)
    assert len(kept) == 12
    frame = kept.frame
    assert len(frame) == 12 * 2 * len(LAYERS)
    assert set(frame["moment"]) == {"initial", "final"}
    assert frame.groupby("layer")["dimensions"].first().to_dict() == LAYERS
    first = kept[str(evidence.results["trial_id"].iloc[0])]
    assert first.final.layer("low").shape == (IMAGES, 6)
    assert first.final.images[0] == "0" * 16
    with pytest.raises(DataError, match="no layer 'middle'; it holds low, high"):
        first.final.layer("middle")
    with pytest.raises(KeyError):
        kept["f" * 16]


def test_drift_finds_the_planted_order_and_stands_beside_its_nulls(made):
    drift = made[1]["representation_drift"]
    assert set(drift["measure"]) == set(MEASURES)
    cka = drift[drift["measure"] == CKA].set_index(["pretraining_source", "data_fraction", "layer"])
    for fraction in ("0.1", "1"):
        for layer in LAYERS:
            natural, random = cka.loc["natural", fraction, layer], cka.loc["random", fraction, layer]
            assert natural["value"] > 0.9 > 0.5 > random["value"]
            assert natural["low"] < natural["value"] < natural["high"]
            assert abs(natural["null_mean"]) < 0.05
            assert natural["difference"] == pytest.approx(natural["value"] - random["value"])
            assert natural["difference_low"] > 0
            assert math.isnan(random["difference"])
            assert (natural["n_seeds"], natural["images"]) == (3, IMAGES)


def test_pairs_of_common_starts_are_alike_and_others_are_not(made):
    pairs = made[1]["representation_pairs"]
    assert set(pairs["measure"]) == set(MEASURES)
    one = pairs[(pairs["measure"] == CKA) & (pairs["layer"] == "low") & (pairs["data_fraction"] == "1")]
    found = one.set_index(["pretraining_source", "other_source", "seeds", "moment"])
    assert found.loc[("natural", "natural", "different", "final"), "value"] > 0.9
    assert abs(found.loc[("random", "random", "different", "final"), "value"]) < 0.1
    assert abs(found.loc[("natural", "random", "different", "final"), "value"]) < 0.1
    assert found.loc[("natural", "natural", "different", "final"), "n_pairs"] == 3
    assert found.loc[("natural", "random", "different", "final"), "n_pairs"] == 6
    assert found.loc[("natural", "random", "same", "initial"), "n_pairs"] == 3
    assert ("random", "random", "same", "final") not in found.index


def test_equal_activations_of_networks_count_as_one(tmp_path):
    """Below a cut the starts of several sources are the same, whatever their heads are."""
    rng = np.random.default_rng(0)
    layer = rng.normal(size=(IMAGES, 6))
    for name, values in (("a", layer), ("b", layer), ("c", layer + 1)):
        file = file_of(name * 16, "initial", {"low": values}, np.ones((2, 3, 3, 3)))
        (tmp_path / name).write_bytes(file)
    doubled = file_of("d" * 16, "initial", {"low": layer}, np.ones((2, 3, 3, 3)))
    (tmp_path / "d").write_bytes(doubled.replace(b'\\"low\\": 0', b'\\"low\\": 1'))
    a, b, c, d = (KeptMoment(tmp_path / name) for name in "abcd")
    assert a.key != b.key
    assert a.content("low") == b.content("low")
    assert len({of.content("low") for of in (a, c, d)}) == 3
    assert (d.layer("low") == 2 * a.layer("low")).all()
    with pytest.raises(DataError, match="no layer 'high'"):
        a.content("high")


def test_pairs_have_no_reference(made):
    evidence, tables, folder = made
    kept = load_representations(evidence.results, folder)
    rows = evidence.results[evidence.results["data_fraction"] == "1"]
    ends = {
        source: [kept[i].final.layer("high") for i in rows.loc[rows["pretraining_source"] == source, "trial_id"]]
        for source in SOURCES
    }
    same = list(zip(ends["natural"], ends["random"], strict=True))
    pairs = tables["representation_pairs"]
    chosen = pairs[(pairs["layer"] == "high") & (pairs["data_fraction"] == "1") & (pairs["seeds"] == "same")]
    found = chosen[chosen["moment"] == "final"].set_index("measure")["value"]
    directed = [np.mean([pwcca(*order).value for order in ((x, y), (y, x))]) for x, y in same]
    assert found[PWCCA] == pytest.approx(np.mean(directed))
    assert found[PWCCA] != pytest.approx(np.mean([pwcca(x, y).value for x, y in same]), abs=1e-6)
    assert found[PROCRUSTES] == pytest.approx(np.mean([procrustes(x, y).value for x, y in same]))


def test_too_few_images_are_not_estimable_and_a_declared_reduction_makes_them_so(tmp_path):
    frame = planted(tmp_path, seeds=2, fractions=("1",))
    rng = np.random.default_rng(1)
    wide = {"wide": rng.normal(size=(IMAGES, 40)) * np.r_[np.full(8, 30.0), np.full(32, 0.3)]}
    for trial_id in frame["trial_id"]:
        place = tmp_path / "made" / "trials" / trial_id / "representations"
        for moment in ("initial", "final"):
            (place / f"{moment}.safetensors").write_bytes(file_of(trial_id, moment, wide, np.ones((2, 3, 3, 3))))
    tables = representation_tables(evidence_of(frame, tmp_path), weight_rows)
    drift = tables["representation_drift"].set_index(["pretraining_source", "measure"])
    assert math.isnan(drift.loc[("random", CCA), "value"])
    assert drift.loc[("random", CCA), "note"] == ("not estimable: 160 images for 40 dimensions, 10 each are needed")
    assert drift.loc[("random", SVCCA), "value"] == pytest.approx(1.0, abs=1e-6)
    assert drift.loc[("random", CKA), "value"] == pytest.approx(1.0, abs=1e-6)
    reduced = representation_tables(evidence_of(frame, tmp_path, components=8), weight_rows)
    drift = reduced["representation_drift"].set_index(["pretraining_source", "measure"])
    assert drift.loc[("random", CCA), "value"] == pytest.approx(1.0, abs=1e-6)
    assert drift.loc[("random", CCA), "note"] == ""


def assert_tables_are_those(found, tables):
    assert found.keys() == tables.keys()
    for name, table in tables.items():
        pd.testing.assert_frame_equal(found[name], table, rtol=0, atol=1e-12)


def test_several_processes_give_the_tables_of_one(made, monkeypatch):
    evidence, tables, _ = made
    started = []

    def counted(module, payload, number, *rest):
        started.append(number)
        return shared_out(module, payload, number, *rest)

    monkeypatch.setattr(representation_tables_module, "shared_out", counted)
    monkeypatch.setattr(representation_tables_module, "PER_PROCESS", 1)
    monkeypatch.setattr(representation_tables_module, "cpus", lambda: 2)
    assert_tables_are_those(representation_tables(evidence, weight_rows), tables)
    assert started == [1]


def test_activations_that_do_not_fit_are_read_again(made, monkeypatch):
    evidence, tables, _ = made
    read = []
    monkeypatch.setattr(Layer, "_read", lambda self, of, known=Layer._read: read.append(of) or known(self, of))
    representation_tables(evidence, weight_rows)
    once = len(read)
    monkeypatch.setattr(representation_tables_module, "HELD_BYTES", 1)
    assert_tables_are_those(representation_tables(evidence, weight_rows), tables)
    assert len(read) - once > once


def test_filters_and_weights(made):
    filters, distances = made[1]["filter_correlation"], made[1]["weight_distance"]
    own = filters[filters["comparison"] == OWN_START].set_index(["pretraining_source", "data_fraction"])
    assert own.loc[("natural", "1"), "value"] > 0.95 > own.loc[("random", "1"), "value"] > 0.5
    assert abs(own.loc[("random", "1"), "null_mean"]) < 0.2
    before = filters[filters["comparison"] == OTHER_SEED_BEFORE]
    assert (before["value"] > 0).all()  # matching finds likeness in noise, which is why it is shown before training
    parts = distances[(distances["pretraining_source"] == "random") & (distances["data_fraction"] == "1")]
    found = parts.set_index("part")
    assert found.loc["conv1", "value"] == pytest.approx(math.sqrt(4 / 25))
    assert found.loc["conv1", "cosine"] == pytest.approx(21 / 25)
    assert found.loc["head", "value"] == pytest.approx(1.0)
    assert found.loc[BACKBONE, "value"] == pytest.approx(math.sqrt(4 / 25))
    assert list(parts["part"]) == ["conv1", "head", BACKBONE]


def test_crossed_seeds_pair_by_start_and_average_over_subsets(tmp_path):
    """Two subsets by two starts are four pairs of one pair of starts; none is counted twice or left out."""
    frame = planted(tmp_path, seeds=4, fractions=("1",))
    seeds = [(0, 0), (0, 1), (1, 0), (1, 1)] * 2
    frame["seed_subset"], frame["seed_init"] = zip(*seeds, strict=True)
    frame["seed"] = [f"{subset}/{init}" for subset, init in seeds]
    tables = representation_tables(evidence_of(frame, tmp_path), weight_rows)
    kept = load_representations(frame, tmp_path)
    ends = [kept[i].final for i in frame.loc[frame["pretraining_source"] == "natural", "trial_id"]]
    apart = [(0, 1), (0, 3), (1, 2), (2, 3)]
    filters = tables["filter_correlation"].set_index(["pretraining_source", "comparison"])
    correlations = [filter_correlation(ends[a].filters, ends[b].filters, match=True).mean for a, b in apart]
    found = filters.loc[("natural", OTHER_SEED)]
    assert found["value"] == pytest.approx(np.mean(correlations))
    assert (found["n_seeds"], found["n_pairs"]) == (2, 1)
    pairs = tables["representation_pairs"].set_index(["pretraining_source", "other_source", "seeds", "moment", "layer"])
    same = pairs[pairs["measure"] == CKA].loc[("natural", "natural", "different", "final", "low")]
    alike = [debiased_cka(ends[a].layer("low"), ends[b].layer("low")).value for a, b in apart]
    assert same["value"] == pytest.approx(np.mean(alike))
    cross = pairs[pairs["measure"] == CKA].loc[("natural", "random", "different", "final", "low")]
    assert cross["n_pairs"] == 2


def test_trials_of_another_probe_are_not_compared(tmp_path):
    frame = planted(tmp_path, fractions=("1",))
    odd = frame["trial_id"].iloc[0]
    place = tmp_path / "made" / "trials" / odd / "representations"
    layers = {name: np.ones((IMAGES, d)) for name, d in LAYERS.items()}
    for moment in ("initial", "final"):
        (place / f"{moment}.safetensors").write_bytes(
            file_of(odd, moment, layers, np.ones((8, 3, 3, 3)), probe="q" * 16)
        )
    drift = representation_tables(evidence_of(frame, tmp_path), weight_rows)["representation_drift"]
    assert set(drift.loc[drift["pretraining_source"] == "random", "n_seeds"]) == {2}


def test_damaged_and_missing_files_are_named(tmp_path):
    frame = planted(tmp_path, fractions=("1",))
    first, second = frame["trial_id"].iloc[:2]
    place = tmp_path / "made" / "trials"
    (place / first / "representations" / "final.safetensors").write_bytes(b"\0" * 40)
    (place / second / "representations" / "final.safetensors").unlink()
    kept = KeptRepresentations(frame, storage_files("made", tmp_path))
    assert len(kept) == len(frame) - 2
    assert len(kept.problems) == 1
    assert first in kept.problems[0]
    newer = file_of("x" * 16, "final", {}, np.ones((1, 3, 3, 3))).replace(b'\\"format\\": 1', b'\\"format\\": 9')
    (tmp_path / "newer.safetensors").write_bytes(newer)
    with pytest.raises(DataError, match="has format 9"):
        KeptMoment(tmp_path / "newer.safetensors")
    with pytest.raises(UserError, match="cannot be opened"):
        storage_files("made", "nosuch://place")


def test_the_section_shows_figures_and_tables_and_is_absent_without_any(made):
    evidence, tables, _ = made

    class Some:
        def of(self, name):
            return tables.get(name, pd.DataFrame())

    class Nothing:
        def of(self, name):
            return pd.DataFrame()

    assert representation_section(evidence, Nothing()) == ()
    (section,) = representation_section(evidence, Some())
    assert "not estimable below 10 images per dimension" in section.intro
    assert len(section.plots) == 6
    assert {title for title, _ in section.folded} == {
        "Each layer against its start",
        "Pairs of networks",
        "First filters",
        "Distance of the weights from their start",
    }
    content = PageContent(
        title="t", subtitle="", summary="", facts=(), findings=(), caveats=(), sections=(section,), methods=()
    )
    page = render_page(content)
    assert 'id="representations"' in page
    assert "how like its start each layer is" in page


def test_figures_are_drawn_by_both_backends(made):
    evidence, tables, _ = made
    drift, pairs = tables["representation_drift"], tables["representation_pairs"]
    plots = [
        *drift_plots(drift, pairs, evidence.baseline),
        *pair_plots(pairs, evidence.baseline),
        *filter_plots(tables["filter_correlation"], evidence.baseline),
        *distance_plots(tables["weight_distance"], evidence.baseline),
    ]
    assert [plot.key for plot in plots] == [
        "representation_drift_skin_small",
        "representation_pairs_skin_small",
        "filter_correlation_skin",
        "weight_distance_skin_small",
    ]
    first = plots[0]
    assert [text for _, text in first.x_ticks] == ["low", "high"]
    assert [panel.title for panel in first.panels] == ["10 %", "100 %"]
    assert {series.name for series in first.panels[0].series} == {
        "natural",
        "random",
        "two untrained networks",
        "images permuted",
    }
    for plot in plots:
        svg, png = render(plot)
        assert svg.lstrip().startswith(b"<?xml")
        assert png.startswith(b"\x89PNG")
        assert len(draw(plot).data) > 0


@pytest.mark.parametrize(
    ("names", "shared", "texts"),
    [
        (["conv1", "layer1"], "", ["conv1", "layer1"]),
        (["features.0", "features.12"], "features", ["0", "12"]),
        (["a.b.0", "a.b.1", "a.c"], "a", ["b.0", "b.1", "c"]),
        (["features.0"], "", ["features.0"]),
        (["stem", "blocks.0"], "", ["stem", "blocks.0"]),
        (["a" * 20, "b" * 20, "c" * 20], "", ["a" * 20, "\n" + "b" * 20, "c" * 20]),
    ],
)
def test_names_of_layers_find_room(names, shared, texts):
    assert tick_texts(names) == (shared, texts)


def test_first_filters_are_shown_as_they_were_and_as_they_are(made):
    evidence, _, folder = made
    small, large = filter_pictures(evidence)
    assert (small.key, large.key) == ("first_filters_skin_small_0.1", "first_filters_skin_small_1")
    assert large.rows == ("random", "natural")
    assert large.columns == (BEFORE, AFTER)
    assert len(large.table) == 2 * 8
    rows = evidence.results[evidence.results["data_fraction"] == "1"].set_index(["pretraining_source", "seed"])
    kept = load_representations(evidence.results, folder)[rows.loc[("random", "0"), "trial_id"]]
    before, after = kept.initial.filters, kept.final.filters
    of_random = large.table[large.table["pretraining_source"] == "random"]
    assert list(of_random["correlation"]) == pytest.approx(list(filter_correlation(before, after).values))
    assert of_random["norm"].iloc[3] == pytest.approx(np.linalg.norm(after[3]))
    # The third filter stands third in the first row: 27 pixels and 3 of white each; every weight is 9 x 9 of them.
    start, end = (picture[:27, 60:87].astype(float) for picture in large.pictures[0])
    size = np.abs([before[2], after[2]]).max()
    for shown, of in ((start, before[2]), (end, after[2])):
        np.testing.assert_allclose(shown[::9, ::9] / 127.5 - 1, of.transpose(1, 2, 0) / size, atol=0.005)
        assert (shown.reshape(3, 9, 3, 9, 3) == shown[::9, None, ::9, None]).all()
    assert (large.pictures[0][0][:, 27:30] == 255).all()
    svg, png = render(large)
    assert svg.lstrip().startswith(b"<?xml")
    assert png.startswith(b"\x89PNG")
    drawn = draw(large)
    assert len(drawn.layout.images) == 4
    read = np.array(Image.open(io.BytesIO(base64.b64decode(drawn.layout.images[0].source.partition(",")[2]))))
    assert (read == large.pictures[0][0]).all()


@pytest.mark.parametrize(("filters", "shape"), [(1, (27, 27)), (6, (57, 117)), (16, (57, 237)), (96, (177, 477))])
def test_a_mosaic_has_room_for_every_filter(filters, shape):
    pixels = mosaic(np.zeros((filters, 3, 3, 3)), np.zeros(filters))
    assert pixels.shape == (*shape, 3)
    assert (pixels == 128).all(axis=2).sum() == filters * 27 * 27


def test_places_of_a_map_do_not_count_as_images():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5, 8))
    flat = x.reshape(-1, 8)
    assert debiased_cka(x, x).value == pytest.approx(1.0)
    assert mean_cca(flat, flat).value == pytest.approx(1.0)
    assert math.isnan(mean_cca(x, x).value)
    assert mean_cca(x, x).note == "not estimable: 60 images for 8 dimensions, 10 each are needed"
    with pytest.raises(ValueError, match="same n images"):
        debiased_cka(x, flat)


def test_what_is_worked_out_once_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 6)), rng.normal(size=(200, 9))
    a, b = Representation(x), Representation(y)
    order = rng.permutation(200)
    for measure in (debiased_cka, mean_cca, svcca, pwcca, procrustes):
        assert measure(a, b).value == measure(x, y).value
        assert measure(a, b.permuted(order)).value == pytest.approx(measure(x, y[order]).value, abs=1e-10)
    reduced = b.reduced(3)
    u, s, _ = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)
    assert mean_cca(a, reduced).value == pytest.approx(mean_cca(x, u[:, :3] * s[:3]).value)
    assert reduced.reduced(5) is reduced


def test_the_jackknife_over_seeds_covers_the_truth_of_pair_means():
    """A pair's value is the sum of two seeds' effects and noise: the spread of pairs alone would say too little."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(600):
        effects, noise = rng.normal(size=5), rng.normal(scale=0.2, size=(5, 5))
        pairs = {(i, j): effects[i] + effects[j] + noise[i, j] for i in range(5) for j in range(i)}
        found = pair_interval(pairs)
        hits.append(found.low <= 0 <= found.high)
    assert np.mean(hits) > 0.92
    two = pair_interval({(0, 1): 0.4})
    assert (two.value, two.seeds, two.pairs) == (0.4, 2, 1)
    assert math.isnan(two.low)
    assert math.isnan(pair_interval({}).value)


def test_seed_intervals_leave_out_what_is_not_estimable():
    found = seed_interval({0: 1.0, 1: 2.0, 2: math.nan})
    assert (found.value, found.seeds) == (1.5, 2)
    assert found.low < 1.5 < found.high
    assert math.isnan(seed_interval({0: 1.0}).low)
