"""Whole trials on small imported tasks: what is published, resumed, scored again, and left behind in the process."""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

import trainables.loop
import trainables.trial_run
from dashboards.prediction_sets import read_predictions
from search_spaces.exceptions import DataError, DivergenceError, TrackingError, UserError
from search_spaces.names import Artifact, Role, State
from search_spaces.protocol import Protocol
from search_spaces.results import Order, TrialResult
from search_spaces.study import EvaluationSetSpec
from search_spaces.trial import ResolvedScale, ResolvedSource, ResolvedTrial, UpstreamSource, Workspace
from tests.trainables.made_tasks import FINDINGS_SETS, filled_library, make_task
from tests.trainables.ranks import on_ranks
from tests.trainables.toy import NORMALISE, TRIAL_ID, Teller, logits_in, published, same, toy_trial
from trainables.groups import SingleProcess
from trainables.loop import evaluate_only, train
from trainables.models import build_model
from trainables.storage import Storage
from trainables.validation_metrics import validation_value

ROOT = Path(__file__).resolve().parents[2]
ONE = SingleProcess()
SMALL_NET = ResolvedScale(
    name="tiny", factory="trainables.ladder_nets:resnet8", arguments={"width": 4}, input_size=8, ladder="tiny"
)
PROTOCOL = Protocol.model_validate(
    {"budget": {"steps": 6}, "global_batch_size": 8, "ghost_batch_size": 4, "storage_size": 10, "evaluations": 3}
)


@pytest.fixture
def library(tmp_path):
    return filled_library(tmp_path)


@pytest.fixture
def make_trial(library, tmp_path):
    """Trials on the saved tasks, sharing one storage."""

    def make(task="findings", trial_id=TRIAL_ID, *, keep_weights="best", storage=tmp_path / "store", **changes):
        workspace = Workspace(
            home=str(library.home), storage=str(storage), keep_weights=keep_weights, checkpoint_every_s=1e9
        )
        sets = FINDINGS_SETS if task == "findings" else {"test": {}}
        fields = {"scale": SMALL_NET, "task": make_task(library, task, sets, groups=("sex",)), "protocol": PROTOCOL}
        if task == "lesions":
            fields["task"] = make_task(library, task, sets)
        return toy_trial(trial_id=trial_id, workspace=workspace, **{**fields, **changes})

    return make


def test_a_trial_is_published_with_everything_the_record_needs(make_trial):
    trial, tell = make_trial(), Teller()
    result = train(trial, ONE, tell)
    folder = published(trial)
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "history.parquet",
        "predictions/site_b.parquet",
        "predictions/test.parquet",
        "predictions/val.parquet",
        "receipt.json",
        "trial.json",
        "weights.safetensors",
    ]
    assert TrialResult.model_validate_json((folder / Artifact.TRIAL).read_text()) == result
    assert (result.state, result.trial, result.steps) == (State.COMPLETE, trial, 6)
    assert result.parameters > result.backbone_parameters > 0
    assert result.subset.images == 16
    assert result.timing.total_s >= result.timing.train_s > 0
    assert {"python", "torch", "numpy"} <= set(result.environment.versions)
    assert json.loads((folder / Artifact.RECEIPT).read_text())["form"] == "random"
    history = pq.read_table(folder / Artifact.HISTORY).to_pylist()
    assert [row["step"] for row in history] == [report["step"] for report in tell.reports] == [2, 4, 6]
    assert [row["val"] for row in history] == [report["val"] for report in tell.reports]
    assert [len(row["step_losses"]) for row in history] == [2, 2, 2]
    assert result.loss == history[-1]["loss"]
    assert list((Path(trial.workspace.storage) / "tmp").iterdir()) == []
    assert Storage(trial.workspace.storage).get_checkpoint(trial.trial_id) is None


def test_predictions_hold_hashed_ids_truth_andlogits_in(make_trial):
    trial = make_trial()
    train(trial, ONE, Teller())
    table = pq.read_table(published(trial) / "predictions" / "test.parquet")
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["trial_id"] == TRIAL_ID
    assert (metadata["kind"], metadata["set"], metadata["aggregation"]) == ("multilabel", "test", "none")
    assert json.loads(metadata["labels"]) == ["opacity", "nodule"]
    assert len(metadata["set_hash"]) == 16
    assert {"image_id", "patient_id", "site", "y_opacity", "raw_opacity", "z_opacity", "z_nodule"} <= set(
        table.column_names
    )
    assert str(table.schema.field("z_opacity").type) == "float"
    assert not any(value.startswith(("i", "p")) and len(value) == 3 for value in table["patient_id"].to_pylist())
    assert table.num_rows == 10


def test_validation_predictions_are_kept_without_being_an_evaluation_set(make_trial):
    trial = make_trial()
    result = train(trial, ONE, Teller())
    path = published(trial) / "predictions" / "val.parquet"
    table = pq.read_table(path)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert (metadata["set"], len(metadata["set_hash"])) == ("val", 16)
    assert table.num_rows == result.subset.val_images
    kept = read_predictions(path)
    assert validation_value("auc_macro", kept.logits, kept.y) == pytest.approx(result.best_value, abs=1e-6)
    assert set(table.column_names) == set(pq.read_table(path.with_name("test.parquet")).column_names)


def test_a_trial_that_is_scored_on_nothing_keeps_no_validation_predictions(make_trial):
    trial = make_trial(role=Role.SEARCH)
    unscored = trial.model_copy(update={"task": trial.task.model_copy(update={"evaluate": {}})})
    train(unscored, ONE, Teller())
    assert not (published(unscored) / "predictions").exists()


@pytest.mark.parametrize("views", ["flip", "ten_crop"])
def test_views_at_test_time_change_the_scores_and_not_the_training(make_trial, views):
    plain, several = (
        make_trial(),
        make_trial(trial_id="f" * 16, protocol=PROTOCOL.model_copy(update={"test_time_augmentation": views})),
    )
    first, second = train(plain, ONE, Teller()), train(several, ONE, Teller())
    assert (first.loss, first.best_value) == (second.loss, second.best_value)
    scores = [logits_in(published(trial)) for trial in (plain, several)]
    assert not np.array_equal(*scores)
    np.testing.assert_allclose(*scores, atol=0.5)
    table = pq.read_table(published(several) / "predictions" / "test.parquet")
    assert table.schema.metadata[b"test_time_augmentation"] == views.encode()


def test_multiclass_predictions_have_one_column_of_truth(make_trial):
    trial = make_trial("lesions")
    train(trial, ONE, Teller())
    table = pq.read_table(published(trial) / "predictions" / "test.parquet")
    assert {"y", "z_nv", "z_mel", "z_bcc"} <= set(table.column_names)
    assert set(table["y"].to_pylist()) <= {-1, 0, 1, 2}


def test_kept_weights_say_what_they_are_and_score_further_sets(make_trial, library, tmp_path):
    trial = make_trial()
    train(trial, ONE, Teller())
    weights = published(trial) / Artifact.WEIGHTS
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["head"]) == ["linear.weight", "linear.bias"]
    assert (metadata["trial_id"], metadata["input_size"], metadata["selected"]) == (TRIAL_ID, "8", "true")
    assert json.loads(metadata["normalise"])["mean"] == list(NORMALISE.mean)
    sets = {**trial.task.evaluate, "women": EvaluationSetSpec(where={"sex": ["F"]})}
    further = trial.model_copy(update={"task": trial.task.model_copy(update={"evaluate": sets})})
    files = evaluate_only(further, weights, ["test", "women"], tmp_path / "out", ONE)
    assert np.array_equal(logits_in(published(trial)), pq.read_table(files["test"]).select(["z_opacity", "z_nodule"]))
    women = pq.read_table(files["women"])
    assert 0 < women.num_rows < 10
    assert women.schema.metadata[b"set"] == b"women"


def test_further_sets_are_refused_with_a_reason(make_trial, tmp_path):
    trial = make_trial()
    train(trial, ONE, Teller())
    weights = published(trial) / Artifact.WEIGHTS
    with pytest.raises(UserError, match="Did you mean 'site_b'"):
        evaluate_only(trial, weights, ["site_bb"], tmp_path, ONE)
    with pytest.raises(UserError, match=f"of trial {TRIAL_ID}, not of {'f' * 16}"):
        evaluate_only(make_trial(trial_id="f" * 16), weights, ["test"], tmp_path, ONE)


def test_a_recipe_that_follows_the_loss_trains_stops_early_and_scores_its_weights(make_trial, tmp_path):
    small = {"base": "taher_classification", "storage_size": 10, "global_batch_size": 8, "budget": {"epochs": 40}}
    protocol = Protocol.model_validate({**small, "stop_patience": 1, "lr": 0.05})
    trial = make_trial(protocol=protocol)
    result = train(trial, ONE, Teller())
    history = pq.read_table(published(trial) / Artifact.HISTORY).to_pylist()
    assert [row["step"] for row in history] == list(range(2, result.steps + 1, 2))  # 16 images in batches of 8
    assert result.steps < 80
    losses = [row["val_loss"] for row in history]
    assert result.best_step == 2 * (1 + int(np.argmin(losses)))
    assert min(losses) not in losses[-2:]
    weights = Storage(trial.workspace.storage).fetch(TRIAL_ID, Artifact.WEIGHTS)
    files = evaluate_only(trial, weights, ["test"], tmp_path / "again", ONE)
    again = pq.read_table(files["test"])
    first = pq.read_table(published(trial) / "predictions" / "test.parquet")
    assert again.column_names == first.column_names
    assert np.array_equal(logits_in(published(trial)), again.select([c for c in again.column_names if c[:2] == "z_"]))


def test_a_zero_head_starts_from_equal_outputs(make_trial):
    protocol = PROTOCOL.model_copy(update={"head_init": "zero", "lr": 1e-30, "optimizer": "sgd", "select": "last"})
    trial = make_trial(protocol=protocol)
    train(trial, ONE, Teller())
    assert np.abs(logits_in(published(trial))).max() < 1e-20


def _best_is_early(monkeypatch):
    values = iter([0.9, 0.5, 0.5])
    monkeypatch.setattr(
        "trainables.validation_scores.validation_value", lambda metric, logits, y: next(values) if logits.any() else 0.5
    )


@pytest.mark.parametrize(
    ("keep", "role", "step"),
    [
        ("best", Role.TARGET, "2"),
        ("final", Role.TARGET, "6"),
        ("none", Role.TARGET, None),
        ("none", Role.UPSTREAM, "2"),
    ],
)
def test_which_weights_are_kept(make_trial, monkeypatch, tmp_path, keep, role, step):
    _best_is_early(monkeypatch)
    trial = make_trial(keep_weights=keep, role=role)
    result = train(trial, ONE, Teller())
    assert result.best_step == 2
    storage = Storage(trial.workspace.storage)
    assert storage.has_weights(TRIAL_ID) == (step is not None)
    if step is None:
        return
    weights = storage.fetch(TRIAL_ID, Artifact.WEIGHTS)
    with safe_open(weights, framework="pt") as file:
        assert file.metadata()["step"] == step
    if step == "6":
        with pytest.raises(UserError, match="keep_weights: best"):
            evaluate_only(trial, weights, ["test"], tmp_path, ONE)


def test_a_trial_starts_from_the_backbone_of_another(make_trial):
    upstream = make_trial("lesions", trial_id="a" * 16, role=Role.UPSTREAM, keep_weights="none")
    train(upstream, ONE, Teller())
    source = ResolvedSource(
        name="pre",
        weights=UpstreamSource(upstream_trial_id="a" * 16),
        content="a" * 16,
        normalise=NORMALISE,
    )
    target = make_trial(source=source)
    train(target, ONE, Teller())
    receipt = json.loads((published(target) / Artifact.RECEIPT).read_text())
    assert (receipt["form"], receipt["matched_tensors"]) == ("trial", receipt["backbone_tensors"])
    missing = source.model_copy(update={"weights": UpstreamSource(upstream_trial_id="b" * 16)})
    with pytest.raises(UserError, match=f"{'b' * 16}, whose weights are not in the storage"):
        train(make_trial(source=missing), ONE, Teller())


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_trial_leaves_a_checkpoint_and_continues_bit_for_bit(make_trial, tmp_path, stop_after):
    whole, parted = make_trial(storage=tmp_path / "whole"), make_trial(storage=tmp_path / "parted")
    first = train(whole, ONE, Teller())
    assert train(parted, ONE, Teller([Order.GO] * (stop_after - 1) + [Order.STOP])) is None
    storage = Storage(parted.workspace.storage)
    assert storage.undelivered() == []
    assert storage.get_checkpoint(TRIAL_ID) is not None
    second = train(parted, ONE, Teller())
    assert (first.resumed_from, second.resumed_from) == (0, 2 * stop_after)
    assert (first.best_step, first.best_value, first.loss) == (second.best_step, second.best_value, second.loss)
    assert storage.get_checkpoint(TRIAL_ID) is None
    _assert_equal_folders(published(whole), published(parted))


def _assert_equal_folders(first, second):
    assert same(load_file(first / Artifact.WEIGHTS), load_file(second / Artifact.WEIGHTS))
    for name in ("test", "site_b", "val"):
        tables = [pq.read_table(folder / "predictions" / f"{name}.parquet") for folder in (first, second)]
        assert tables[0].equals(tables[1])


def test_a_diverging_trial_publishes_nothing(make_trial):
    trial = make_trial(protocol=PROTOCOL.model_copy(update={"lr": 1e30, "optimizer": "sgd", "warmup_fraction": 0.0}))
    with pytest.raises(DivergenceError, match=r"at step \d of 6|after step \d of 6"):
        train(trial, ONE, Teller())
    assert Storage(trial.workspace.storage).undelivered() == []


def test_a_storage_that_is_lost_at_the_end_is_a_tracking_error(make_trial, monkeypatch):
    def fails(*_):
        raise OSError("quota exceeded")

    monkeypatch.setattr(Storage, "publish", fails)
    with pytest.raises(TrackingError, match="quota exceeded"):
        train(make_trial(), ONE, Teller())


def test_a_disk_that_is_full_when_weights_are_written_is_a_tracking_error(make_trial, monkeypatch):
    def fails(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(trainables.loop, "save_file", fails)
    with pytest.raises(TrackingError, match=r"cannot be written to storage .* No space left on device"):
        train(make_trial(), ONE, Teller())


def test_an_empty_evaluation_set_is_refused_before_training(make_trial, monkeypatch):
    trial, tell = make_trial(), Teller()
    load = trainables.trial_run.load_task_data

    def emptied(*arguments):
        data = load(*arguments)
        data.sets["test"] = data.sets["test"].take(np.arange(0))
        return data

    monkeypatch.setattr("trainables.trial_run.load_task_data", emptied)
    with pytest.raises(DataError, match=r"evaluation set 'test' .* holds no image"):
        train(trial, ONE, tell)
    assert tell.reports == []


def _train_json(group, text, orders=()):
    trial = ResolvedTrial.model_validate_json(text)
    tell = Teller(orders)
    result = train(trial, group, tell)
    return None if result is None else result.model_dump(mode="json"), tell.reports


def test_two_ranks_publish_what_one_does_and_only_rank_0_answers(make_trial, tmp_path):
    alone, together = make_trial(storage=tmp_path / "alone"), make_trial(storage=tmp_path / "together")
    train(alone, ONE, Teller())
    (first, reports), (second, other_reports) = on_ranks(_train_json, 2, tmp_path / "ranks", together.model_dump_json())
    assert first["environment"]["ranks"] == 2
    assert second is None
    assert [r["val"] for r in reports] == [r["val"] for r in other_reports]
    for name in ("test", "site_b"):
        np.testing.assert_allclose(logits_in(published(alone), name), logits_in(published(together), name), atol=2e-3)


def test_a_frozen_bottom_stays_whoever_trains_and_stops(make_trial, tmp_path):
    """One rank, two ranks, interrupted: the same frozen numbers, running statistics included, and the same top."""
    scale = ResolvedScale(name="n", factory="trainables.ladder_nets:resnet8", arguments={"width": 4}, input_size=10)
    protocol = PROTOCOL.model_copy(update={"freeze": "layer1", "layer_lr_decay": 0.5})
    alone, parted, together = (
        make_trial(storage=tmp_path / name, scale=scale, protocol=protocol) for name in ("alone", "parted", "together")
    )
    train(alone, ONE, Teller())
    assert train(parted, ONE, Teller([Order.STOP])) is None
    train(parted, ONE, Teller())
    on_ranks(_train_json, 2, tmp_path / "ranks", together.model_dump_json())
    start = build_model(scale, len(alone.task.labels), alone.seed.init).module.state_dict()
    ends = [load_file(published(t) / Artifact.WEIGHTS) for t in (alone, parted, together)]
    for name, tensor in start.items():
        frozen = name.startswith(("conv1", "bn1", "layer1"))
        assert all(torch.equal(end[name], tensor) for end in ends) == frozen, name
        torch.testing.assert_close(ends[1][name], ends[0][name], rtol=0, atol=0)
        torch.testing.assert_close(ends[2][name], ends[0][name], rtol=1e-3, atol=1e-4)


def _global_state():
    return {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    }


def test_global_state_is_left_as_it_was_also_after_a_failure(make_trial):
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    before = _global_state()
    train(make_trial(), ONE, Teller())
    assert _global_state() == before

    def fails(report):
        torch.backends.cudnn.benchmark = True
        torch.use_deterministic_algorithms(True)
        raise RuntimeError("rank lost")

    with pytest.raises(RuntimeError, match="rank lost"):
        train(make_trial(trial_id="b" * 16), ONE, fails)
    assert _global_state() == before


def test_the_model_is_freed_without_a_garbage_collection(make_trial, monkeypatch):
    built = []
    build = trainables.trial_run.build_model

    def remembers(*arguments, **options):
        model = build(*arguments, **options)
        built.append(weakref.ref(model.module))
        return model

    monkeypatch.setattr("trainables.trial_run.build_model", remembers)
    train(make_trial(), ONE, Teller())  # imports and caches of the first trial
    gc.collect()
    gc.disable()
    try:
        train(make_trial(), ONE, Teller())
        assert [reference() for reference in built] == [None, None]
    finally:
        gc.enable()


COLD = """
import sys, torch
from tests.trainables.test_loop import _train_json
from trainables.groups import SingleProcess
torch.set_num_threads(1)
_train_json(SingleProcess(), sys.stdin.read())
"""


def test_warm_equals_cold_bit_for_bit(make_trial, tmp_path):
    cold, warm = make_trial(storage=tmp_path / "cold"), make_trial(storage=tmp_path / "warm")
    subprocess.run([sys.executable, "-c", COLD], input=cold.model_dump_json(), text=True, check=True, cwd=ROOT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        other = ResolvedScale(name="s", factory="torchvision:squeezenet1_1", input_size=32)
        bf16 = {"precision": "bf16", "ema_decay": 0.9, "imbalance": "sampler", "storage_size": 40}
        train(make_trial("lesions", "a" * 16, scale=other, protocol=PROTOCOL.model_copy(update=bf16)), ONE, Teller())
        stops = make_trial(trial_id="b" * 16)
        assert train(stops, ONE, Teller([Order.STOP])) is None
        train(warm, ONE, Teller())
    finally:
        torch.set_num_threads(threads)
    _assert_equal_folders(published(cold), published(warm))
