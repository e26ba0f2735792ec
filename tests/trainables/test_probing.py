"""Whole trials of linear probes and kNN: what is published, what is computed once, and what makes it come anew."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from search_spaces.amounts import Amount, Seed
from search_spaces.exceptions import DataError, MemoryLimitError, TrackingError, UserError
from search_spaces.names import Artifact
from search_spaces.protocol import Protocol
from search_spaces.results import Order
from search_spaces.source_specs import CheckpointSource
from search_spaces.study import EvaluationSetSpec
from search_spaces.trial import ResolvedScale, ResolvedSource, ResolvedTrial, Workspace
from tests.trainables.made_tasks import FINDINGS_SETS, filled_library, make_task
from tests.trainables.ranks import on_ranks
from tests.trainables.toy import NORMALISE, TRIAL_ID, Teller, logits_in, published, toy_trial
from trainables import probing
from trainables.feature_layer import FeatureLayer
from trainables.features import wanted_features
from trainables.groups import SingleProcess
from trainables.hashing import file_sha256
from trainables.loop import evaluate_only, train
from trainables.models import build_model
from trainables.probing import BIAS, COUNT, WEIGHT, Probing
from trainables.storage import Storage
from trainables.store_cache import STORES, cached_stores, damaged_shards, evict
from trainables.validation_metrics import validation_value

ONE = SingleProcess()
NET = ResolvedScale(name="n", factory="trainables.ladder_nets:resnet8", arguments={"width": 4}, input_size=8)
LINEAR = Protocol.model_validate({"base": "linear_probe", "storage_size": 10})
NEAREST = Protocol.model_validate({"base": "knn", "storage_size": 10, "neighbours": [1, 3, 9, 500]})


@pytest.fixture
def library(tmp_path):
    return filled_library(tmp_path)


@pytest.fixture
def make_trial(library, tmp_path):
    def make(task="findings", trial_id=TRIAL_ID, *, sets=None, storage=tmp_path / "storage", **changes):
        workspace = Workspace(home=str(library.home), storage=str(storage))
        sets = sets or (FINDINGS_SETS if task == "findings" else {"test": {}})
        fields = {"scale": NET, "task": make_task(library, task, sets), "protocol": LINEAR}
        return toy_trial(trial_id=trial_id, workspace=workspace, **{**fields, **changes})

    return make


@pytest.fixture
def passes(monkeypatch):
    """Images of every pass over images."""
    seen = []
    compute = Probing._compute

    def counted(self, rows, tell):
        seen.append(len(rows.positions))
        return compute(self, rows, tell)

    monkeypatch.setattr(Probing, "_compute", counted)
    return seen


def feature_stores(library):
    return [store for store in cached_stores(library.home) if "-features-" in store.path.name]


@pytest.mark.parametrize("task", ["findings", "lesions"])
@pytest.mark.parametrize("protocol", [LINEAR, NEAREST], ids=["linear", "knn"])
def test_a_trial_publishes_what_the_record_needs_and_validation_chose(make_trial, task, protocol):
    trial = make_trial(task, protocol=protocol)
    result = train(trial, ONE, Teller())
    folder = published(trial)
    sets = ["site_b", "test", "val"] if task == "findings" else ["test", "val"]
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        *(f"predictions/{name}.parquet" for name in sets),
        "receipt.json",
        "trial.json",
        "weights.safetensors",
    ]
    candidates = result.extra["candidates"]
    values = [candidate["val"] for candidate in candidates]
    first_best = values.index(max(values))
    assert result.best_value == values[first_best]
    assert {**result.extra["chosen"], "val": result.best_value} == candidates[first_best]
    assert (result.steps, result.best_step, result.still_rising) == (0, 0, False)
    if protocol is NEAREST:
        assert [candidate["neighbours"] for candidate in candidates] == [1, 3, 9, result.subset.images]
    table = pq.read_table(folder / "predictions" / "val.parquet").to_pandas()
    labels = [c for c in table if c.startswith("y_")]
    truth = table[labels].to_numpy() if labels else table["y"].to_numpy().astype(int)
    assert validation_value("auc_macro", logits_in(folder, "val"), truth) == pytest.approx(result.best_value, abs=1e-6)
    assert json.loads((folder / Artifact.RECEIPT).read_text())["form"] == "random"
    assert result.parameters > result.backbone_parameters > 0


def test_one_pass_serves_amounts_seeds_and_both_protocols(make_trial, passes, library, tmp_path):
    file = tmp_path / "weights.safetensors"
    built = build_model(NET, 2, 5)
    save_file({n: t for n, t in built.module.state_dict().items() if n not in built.head}, file)
    source = from_file(file)
    receipts = []
    for number, (protocol, amount, seed) in enumerate(
        [(LINEAR, 1.0, 0), (LINEAR, 0.5, 1), (NEAREST, 1.0, 2), (NEAREST, 0.5, 0)]
    ):
        trial = make_trial(
            trial_id=f"{number:016x}",
            protocol=protocol,
            amount=Amount(kind="fraction", value=amount),
            seed=Seed(subset=seed, init=seed),
            source=source,
        )
        result = train(trial, ONE, Teller())
        assert bool(result.extra["feature_pass_images"]) == (number == 0)
        receipts.append(json.loads((published(trial) / Artifact.RECEIPT).read_text()))
    assert len(passes) == 2  # what is learned from, and what is scored
    assert len(feature_stores(library)) == 2
    assert {r["backbone_sha256"] for r in receipts} == {receipts[0]["backbone_sha256"]}
    assert [r["seed"] for r in receipts] == [0, 1, 2, 0]
    unscored = make_trial(trial_id="e" * 16, source=source)
    train(unscored.model_copy(update={"task": unscored.task.model_copy(update={"evaluate": {}})}), ONE, Teller())
    assert len(passes) == 2


def from_file(file, **changes):
    weights = CheckpointSource(file=str(file), normalise=NORMALISE)
    return ResolvedSource(
        name="file", weights=weights, content=file_sha256(file), **{"normalise": NORMALISE, **changes}
    )


def test_what_features_follow_from_makes_them_anew(make_trial, passes, library, tmp_path):
    def saved(name, seed):
        built = build_model(NET, 2, seed)
        save_file({n: t for n, t in built.module.state_dict().items() if n not in built.head}, tmp_path / name)
        return tmp_path / name

    def passes_of(**changes):
        before = len(passes)
        train(make_trial(**changes), ONE, Teller())
        return len(passes) - before

    file, other = saved("a.safetensors", 1), saved("b.safetensors", 2)
    assert passes_of(source=from_file(file)) == 2
    assert passes_of(source=from_file(file)) == 0
    assert passes_of(source=from_file(other)) == 2
    darker = NORMALISE.model_copy(update={"mean": (0.1, 0.1, 0.1)})
    assert passes_of(source=from_file(file, normalise=darker)) == 2
    assert passes_of(source=from_file(file), protocol=LINEAR.model_copy(update={"evaluation_crop": "whole"})) == 2
    assert passes_of(source=from_file(file), protocol=LINEAR.model_copy(update={"storage_size": 12})) == 2
    assert passes_of(source=from_file(file), scale=NET.model_copy(update={"input_size": 10})) == 2
    assert passes_of() == 2  # random weights: each init seed has its own
    assert passes_of(seed=Seed(subset=0, init=1)) == 2
    assert passes_of(seed=Seed(subset=1, init=1)) == 0
    further = {**FINDINGS_SETS, "twice": {"where": {"sex": "F"}}}
    assert passes_of(source=from_file(file), sets=further) == 0  # rows of test
    image = sorted((library.home.parent / "images" / "findings").iterdir())[0]
    image.write_bytes((image.parent / "i05.png").read_bytes())
    assert passes_of(source=from_file(file)) == 2


def test_weights_that_are_drawn_go_with_the_number_of_outputs(make_trial, library, tmp_path):
    """Some networks draw the weights of their head before others; a file fills all but the head."""

    def path_of(source, labels):
        trial = make_trial(source=source)
        task = trial.task.model_copy(update={"labels": labels})
        return wanted_features(trial.model_copy(update={"task": task}), library.home, "i", [np.arange(3)]).path

    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    one, two = ("opacity",), ("opacity", "nodule")
    drawn = make_trial().source
    assert path_of(drawn, one) != path_of(drawn, two)
    assert path_of(from_file(file), one) == path_of(from_file(file), two)


def test_a_damaged_store_is_computed_again_and_an_evicted_one_too(make_trial, passes, library):
    trial = make_trial(protocol=NEAREST)
    train(trial, ONE, Teller())
    first = logits_in(published(trial))
    for store in feature_stores(library):
        (shard,) = store.path.glob("*.arrow")
        assert damaged_shards(store.path) == []
        raw = bytearray(shard.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        shard.write_bytes(raw)
        assert damaged_shards(store.path) == [shard.name]
    train(trial, ONE, Teller())
    assert len(passes) == 4
    assert np.array_equal(logits_in(published(trial)), first)
    assert {store.path for store in evict(library.home, 0)} >= {store.path for store in feature_stores(library)}
    assert feature_stores(library) == []
    train(trial, ONE, Teller())
    assert len(passes) == 6


def test_two_at_once_compute_once(make_trial, passes):
    train(make_trial(trial_id="f" * 16, seed=Seed(subset=1, init=1)), ONE, Teller())  # caches of the process
    trials = [make_trial(trial_id=f"{k:016x}") for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda trial: Probing(trial, ONE).finish(Teller()), trials))
    assert len(passes) == 4
    assert len({result.best_value for result in results}) == 1


@pytest.mark.parametrize("protocol", [LINEAR, NEAREST], ids=["linear", "knn"])
def test_kept_weights_score_further_sets_as_the_trial_would_have(make_trial, tmp_path, protocol):
    trial = make_trial(protocol=protocol)
    train(trial, ONE, Teller())
    weights = Storage(trial.workspace.storage).fetch(TRIAL_ID, Artifact.WEIGHTS)
    kept = load_file(weights)
    assert set(kept) == ({WEIGHT, BIAS} if protocol is LINEAR else {COUNT})
    sets = {**trial.task.evaluate, "again": EvaluationSetSpec(where={"sex": "F"})}
    asked = trial.model_copy(update={"task": trial.task.model_copy(update={"evaluate": sets})})
    files = evaluate_only(asked, weights, ["test", "again"], tmp_path / "further", ONE)
    table = pq.read_table(files["test"])
    assert table.equals(pq.read_table(published(trial) / "predictions" / "test.parquet"))
    assert 0 < len(pq.read_table(files["again"])) < len(table)


def test_a_trial_repeats_bit_for_bit(make_trial, tmp_path):
    for name in ("a", "b"):
        train(make_trial(storage=tmp_path / name), ONE, Teller())
    first, second = (published(make_trial(storage=tmp_path / name)) for name in ("a", "b"))
    assert pq.read_table(first / "predictions/test.parquet").equals(pq.read_table(second / "predictions/test.parquet"))


def _train_json(group, text):
    result = train(ResolvedTrial.model_validate_json(text), group, Teller())
    return None if result is None else result.best_value


def test_ranks_share_the_pass(make_trial, tmp_path):
    text = make_trial(storage=tmp_path / "two").model_dump_json()
    first, second = on_ranks(_train_json, 2, tmp_path / "ranks", text)
    assert second is None
    assert train(make_trial(storage=tmp_path / "one"), ONE, Teller()).best_value == first  # from the store
    evict(Path(make_trial().workspace.home), 0)
    train(make_trial(storage=tmp_path / "alone"), ONE, Teller())
    two, one, alone = (logits_in(published(make_trial(storage=tmp_path / n))) for n in ("two", "one", "alone"))
    np.testing.assert_array_equal(two, one)
    np.testing.assert_allclose(two, alone, atol=2e-3)


def test_a_trial_that_is_told_to_stop_publishes_nothing(make_trial):
    trial = make_trial()
    assert train(trial, ONE, Teller([Order.STOP])) is None
    assert Storage(trial.workspace.storage).undelivered() == []


def test_a_metric_that_is_not_defined_cannot_choose(make_trial, monkeypatch):
    monkeypatch.setattr("trainables.probing.validation_value", lambda *_: None)
    with pytest.raises(DataError, match="auc_macro is not defined on the"):
        train(make_trial(), ONE, Teller())


class Convolved(nn.Module):
    """Squeezenet's way: a convolution as the head, the mean after it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 5, 3)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x):
        return self.head(self.body(x)).mean((2, 3))


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 5, 3)
        self.weight = nn.Parameter(torch.zeros(5, 2))

    def forward(self, x):
        return self.body(x).mean((2, 3)) @ self.weight


def test_features_are_what_the_head_is_given():
    images = torch.randn(4, 3, 8, 8)
    built = build_model(NET, 3, 0)
    features = FeatureLayer(built.module, built.head)(images)
    head = built.module.get_submodule(built.head[0].rpartition(".")[0])
    assert torch.allclose(head(features), built.module.eval()(images))
    net = Convolved()
    assert torch.allclose(FeatureLayer(net, ["head.weight", "head.bias"])(images), net.body(images).mean((2, 3)))
    with pytest.raises(UserError, match="layer of its own"):
        FeatureLayer(Bare(), ["weight"])


def test_stores_lie_where_image_stores_do(make_trial, library):
    trial = make_trial()
    train(trial, ONE, Teller())
    assert len(feature_stores(library)) == 2
    for store in feature_stores(library):
        assert store.is_finished
        assert store.path.parent == library.home / STORES
        assert store.path.name.startswith(f"{trial.task.manifest_hash}-")


def test_a_pass_over_the_images_that_exhausts_the_device_goes_on_with_fewer_at_once(make_trial, library, monkeypatch):
    trial, forward, limit = make_trial(), FeatureLayer.forward, 5
    train(trial, ONE, Teller())
    expected = logits_in(published(trial))

    def hungry(self, images):
        if len(images) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, images)

    monkeypatch.setattr(FeatureLayer, "forward", hungry)
    evict(library.home, 0)
    train(trial, ONE, Teller())
    np.testing.assert_allclose(logits_in(published(trial)), expected, rtol=1e-3, atol=1e-4)
    limit = 0
    evict(library.home, 0)
    with pytest.raises(MemoryLimitError, match=r"a single image does not fit cpu in evaluation: .* 2 GiB"):
        train(trial, ONE, Teller())


def test_a_disk_that_is_full_when_weights_are_written_is_a_tracking_error(make_trial, monkeypatch):
    def fails(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(probing, "save_file", fails)
    with pytest.raises(TrackingError, match=r"cannot be written to storage .* No space left on device"):
        train(make_trial(), ONE, Teller())
