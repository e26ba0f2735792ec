"""What a trial keeps of its network, and that keeping it changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from search_spaces.amounts import Amount, Seed
from search_spaces.exceptions import UserError
from search_spaces.names import Artifact, Moment
from search_spaces.protocol import Protocol
from search_spaces.representations import KeptRepresentations, ProbeSpec
from search_spaces.results import Order
from search_spaces.trial import ResolvedScale, Workspace
from tests.trainables.made_tasks import make_library, make_task, save_findings
from tests.trainables.ranks import on_ranks
from tests.trainables.toy import TRIAL_ID, Teller, same, toy_trial
from trainables.activations import activations, layer_names, layer_sizes
from trainables.groups import SingleProcess
from trainables.ladder_nets import resnet8
from trainables.loop import represent_only, train
from trainables.models import build_model
from trainables.probe import drawn_rows
from trainables.representations import as_half, file_facts, weight_table
from trainables.storage import Storage

ONE = SingleProcess()
TINY = ResolvedScale(name="tiny", factory="trainables.ladder_nets:resnet8", arguments={"width": 4}, input_size=8)
PROTOCOL = Protocol.model_validate(
    {"budget": {"steps": 6}, "global_batch_size": 8, "ghost_batch_size": 4, "storage_size": 10, "evaluations": 3}
)
KEPT = KeptRepresentations(probe=ProbeSpec(sets=("val", "test"), images=20, seed=1))


@pytest.fixture
def make_trial(tmp_path):
    library = make_library(tmp_path)
    save_findings(library)

    def make(kept=KEPT, trial_id=TRIAL_ID, storage="store", **changes):
        workspace = Workspace(
            home=str(library.home),
            storage=str(tmp_path / storage),
            checkpoint_every_s=changes.pop("checkpoint_every_s", 1e9),
            representations=kept,
        )
        task = make_task(library, "findings", {"test": {}}, validation=changes.pop("validation", "fixed"))
        return toy_trial(
            **{"trial_id": trial_id, "workspace": workspace, "scale": TINY, "task": task, "protocol": PROTOCOL}
            | changes
        )

    return make


def folder_of(trial):
    return (
        Storage(trial.workspace.storage).fetch(trial.trial_id, f"{Artifact.REPRESENTATIONS}/final.safetensors").parent
    )


def read(path):
    with safe_open(path, framework="np") as file:
        facts = json.loads(file.metadata()["scalecurves"])
        return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def moments(trial):
    return [read(folder_of(trial) / moment.file_name) for moment in Moment]


def test_a_trial_keeps_both_moments_filters_and_distances(make_trial):
    trial = make_trial()
    result = train(trial, ONE, Teller())
    folder = folder_of(trial)
    assert sorted(path.name for path in folder.iterdir()) == [
        "final.safetensors",
        "initial.safetensors",
        "weights.parquet",
    ]
    (initial, before), (final, after) = moments(trial)
    assert (initial["moment"], initial["step"]) == ("initial", 0)
    assert (final["moment"], final["step"]) == ("final", result.best_step)
    assert initial["layers"] == final["layers"] == ["conv1", "bn1", "layer1", "layer2", "layer3"]
    assert initial["probe_hash"] == final["probe_hash"]
    assert before["activations/layer3"].shape == after["activations/layer3"].shape == (16, 16)
    assert before["activations/layer3"].dtype == np.float16
    assert before["images"].shape == (16, 8)
    built = build_model(TINY, 2, 0)
    start = {name: parameter.detach() for name, parameter in built.module.named_parameters()}
    assert np.array_equal(before["filters"], start["conv1.weight"].numpy())
    end = load_file(Storage(trial.workspace.storage).fetch(TRIAL_ID, Artifact.WEIGHTS))
    assert np.array_equal(after["filters"], end["conv1.weight"].numpy())
    table = pq.read_table(folder / "weights.parquet").to_pandas().set_index("parameter")
    assert list(table.index) == list(start)
    for name, tensor in start.items():
        expected = float((end[name].double() - tensor.double()).square().sum())
        assert table.loc[name, "squared_distance"] == pytest.approx(expected, rel=1e-12)
        assert table.loc[name, "squared_start"] == pytest.approx(float(tensor.double().square().sum()), rel=1e-12)
    assert not any("running" in name for name in table.index)
    assert set(table.index[table["normalisation"]]) == {name for name in start if "bn" in name}
    assert set(table["part"][["linear.weight", "linear.bias"]]) == {"head"}
    assert Storage(trial.workspace.storage).initials() == {}


def test_activations_are_those_of_the_network_on_images_that_nothing_was_trained_on(make_trial):
    """Counted again from the kept weights: the last layer, averaged, is what the head reads."""
    trial = make_trial()
    train(trial, ONE, Teller())
    facts, after = moments(trial)[1]
    end = load_file(Storage(trial.workspace.storage).fetch(TRIAL_ID, Artifact.WEIGHTS))
    features = np.ldexp(after["activations/layer3"].astype(np.float64), facts["exponents"]["layer3"])
    logits = features @ end["linear.weight"].double().numpy().T + end["linear.bias"].double().numpy()
    folder = Storage(trial.workspace.storage).fetch(TRIAL_ID, Artifact.TRIAL).parent / Artifact.PREDICTIONS
    seen = {}
    for name in ("val", "test"):
        table = pq.read_table(folder / f"{name}.parquet").to_pandas()
        seen |= dict(zip(table["image_id"], table[["z_opacity", "z_nodule"]].to_numpy(), strict=True))
    ids = [bytes(row).hex() for row in after["images"]]
    assert len(set(ids)) == 16
    np.testing.assert_allclose(logits, [seen[image] for image in ids], rtol=0, atol=2e-3)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "ema_decay": 0.9}])
def test_keeping_changes_no_result(make_trial, changes):
    protocol = PROTOCOL.model_copy(update=changes)
    plain = make_trial(kept=None, storage="a", protocol=protocol)
    keeping = make_trial(storage="b", protocol=protocol)
    results = [train(trial, ONE, Teller()) for trial in (plain, keeping)]
    assert results[0].best_value == results[1].best_value
    assert results[0].loss == results[1].loss
    weights = [load_file(Storage(t.workspace.storage).fetch(TRIAL_ID, Artifact.WEIGHTS)) for t in (plain, keeping)]
    assert same(*weights)
    assert not Storage(plain.workspace.storage).has_representations(TRIAL_ID)
    assert all(np.isfinite(values.astype(float)).all() for _, kept in moments(keeping) for values in kept.values())


def test_a_resumed_trial_keeps_the_true_initialisation(make_trial, monkeypatch):
    whole, broken = make_trial(storage="a"), make_trial(storage="b")
    train(whole, ONE, Teller())
    assert train(broken, ONE, Teller([Order.GO, Order.STOP])) is None
    storage = Storage(broken.workspace.storage)
    first = storage.get_initial(TRIAL_ID)
    assert file_facts(first)["moment"] == "initial"
    result = train(broken, ONE, Teller())
    assert result.resumed_from == 4
    for one, other in zip(moments(whole), moments(broken), strict=True):
        assert one[0] == other[0]
        assert all(np.array_equal(one[1][name], other[1][name]) for name in one[1])
    assert (folder_of(broken) / "initial.safetensors").read_bytes() == first
    assert storage.initials() == {}


def test_distances_are_left_out_where_the_initialisation_cannot_be_had_again(make_trial, monkeypatch):
    trial = make_trial()
    train(trial, ONE, Teller([Order.GO, Order.STOP]))
    first = Storage(trial.workspace.storage).get_initial(TRIAL_ID)

    def drawn_anew(scale, outputs, seed, *rest, **options):
        return build_model(scale, outputs, seed + 1, *rest, **options)

    monkeypatch.setattr("trainables.trial_run.build_model", drawn_anew)
    train(trial, ONE, Teller())
    folder = folder_of(trial)
    assert (folder / "initial.safetensors").read_bytes() == first
    assert not (folder / "weights.parquet").exists()


def train_on(group, trial):
    return train(trial, group, Teller()) is not None


def test_two_ranks_keep_what_one_keeps(make_trial, tmp_path):
    alone, shared = make_trial(storage="a"), make_trial(storage="b")
    train(alone, ONE, Teller())
    assert on_ranks(train_on, 2, tmp_path / "ranks", shared) == [True, False]
    (start, before), (_, after) = moments(shared)
    (own_start, own_before), (_, own_after) = moments(alone)
    assert start == own_start
    assert all(np.array_equal(before[name], own_before[name]) for name in before)
    for name in ("activations/layer3", "filters"):
        np.testing.assert_allclose(after[name].astype(float), own_after[name].astype(float), rtol=0.02, atol=0.02)


def test_the_probe_is_the_same_for_every_amount_seed_and_scale(make_trial):
    few = make_trial(trial_id="a" * 16, amount=Amount(kind="fraction", value=0.5), validation="scaled")
    wide = TINY.model_copy(update={"arguments": {"width": 8}, "name": "wide"})
    others = make_trial(trial_id="b" * 16, seed=Seed(subset=3, init=3), scale=wide, validation="scaled")
    for trial in (few, others):
        train(trial, ONE, Teller())
    assert len({facts["probe_hash"] for trial in (few, others) for facts, _ in moments(trial)}) == 1


def test_finished_trials_get_theirs_from_kept_weights(make_trial, tmp_path):
    whole, later = make_trial(storage="a"), make_trial(kept=None, storage="b")
    for trial in (whole, later):
        train(trial, ONE, Teller())
    asked = later.model_copy(update={"workspace": later.workspace.model_copy(update={"representations": KEPT})})
    storage = Storage(later.workspace.storage)
    represent_only(asked, storage.fetch(TRIAL_ID, Artifact.WEIGHTS), tmp_path / "out", ONE)
    assert not storage.has_representations(TRIAL_ID)
    storage.put_representations(TRIAL_ID, tmp_path / "out")
    assert storage.has_representations(TRIAL_ID)
    for name in ("initial.safetensors", "final.safetensors", "weights.parquet"):
        assert (folder_of(later) / name).read_bytes() == (folder_of(whole) / name).read_bytes()


def test_delivery_leaves_representations_in_the_storage(make_trial):
    trial = make_trial()
    train(trial, ONE, Teller())
    storage = Storage(trial.workspace.storage)
    storage.mark_delivered(TRIAL_ID)
    assert storage.has_representations(TRIAL_ID)
    assert not storage.is_published(TRIAL_ID)
    storage.delete_weights(TRIAL_ID)
    assert storage.has_representations(TRIAL_ID)


def test_unknown_layers_are_refused_with_the_nearest_name():
    built = build_model(TINY, 2, 0)
    with pytest.raises(UserError, match=r"unknown layer 'layer4' in here\. Did you mean 'layer[123]'"):
        layer_names(built.module, built.head, ("layer4",), "here")
    assert layer_sizes(built, "auto", None, "here") == {"conv1": 4, "bn1": 4, "layer1": 4, "layer2": 8, "layer3": 16}
    assert layer_sizes(built, ("layer1", "layer3"), 3, "here") == {"layer1": 12, "layer3": 48}


def test_a_layer_that_the_forward_pass_does_not_call_is_refused():
    built = build_model(TINY, 2, 0)
    built.module.add_module("idle", nn.Linear(2, 2))
    with pytest.raises(UserError, match="does not call idle"):
        layer_sizes(built, ("layer1", "idle"), None, "here")


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("torchvision:squeezenet1_0", ("features.0", "features.12")),
        ("trainables.cbr_nets:cbr_small", ("block1", "block4")),
        ("timm:vit_tiny_patch16_224", ("patch_embed", "blocks.11")),
        ("timm:convnext_atto", ("stem", "stages.3")),
        ("timm:swin_tiny_patch4_window7_224", ("patch_embed", "layers.3")),
    ],
)
def test_auto_finds_the_stages_of_a_family(factory, expected):
    size = 64 if "vit" not in factory and "swin" not in factory else 224
    built = build_model(ResolvedScale(name="n", factory=factory, input_size=size), 2, 0)
    sizes = layer_sizes(built, "auto", None, "here")
    names = list(sizes)
    assert expected[0] == names[0]
    assert expected[1] in names
    if "swin" in factory:  # feature maps are (B, H, W, C): channels, not rows, are what is kept
        assert [sizes[f"layers.{n}"] for n in range(4)] == [96, 192, 384, 768]


@pytest.mark.parametrize(
    ("factory", "side", "expected"),
    [
        ("trainables.ladder_nets:resnet8", 32, {"encoder[1]": 32, "encoder[2]": 64}),
        ("timm:swin_tiny_patch4_window7_224", 224, {f"encoder[{n}]": 48 * 2 ** (n - 1) for n in range(2, 6)}),
    ],
)
def test_auto_of_a_u_net_is_what_its_encoder_hands_on(factory, side, expected):
    """Output 0 is the image; a transformer has no map of half its side."""
    pytest.importorskip("segmentation_models_pytorch")
    built = build_model(ResolvedScale(name="n", factory=factory, input_size=side), 2, 0, dense=True)
    assert layer_sizes(built, "auto", None, "here") == expected
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    last = list(expected)[-1]
    with torch.no_grad():
        maps = built.module.eval().encoder(images)
    found = activations(built.module, (last,), [images])[last]
    np.testing.assert_allclose(found, maps[-1].mean((2, 3)).numpy(), rtol=1e-5, atol=1e-6)


def test_a_hook_pools_before_the_next_layer_works_in_place():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2))
    images = torch.randn(5, 3, 8, 8)
    found = activations(net, ["0", "1", "3"], [images[:2], images[2:]])
    with torch.no_grad():
        conv = net[0](images)
    np.testing.assert_allclose(found["0"], conv.mean((2, 3)).numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["1"], conv.relu().mean((2, 3)).numpy(), rtol=1e-5, atol=1e-7)
    assert found["3"].shape == (5, 2)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


class Hungry(nn.Module):
    """Exhausts the device with more than two images at a time, behind its first layer."""

    def __init__(self, limit=2):
        super().__init__()
        self.conv, self.limit = nn.Conv2d(3, 4, 3), limit

    def forward(self, x):
        x = self.conv(x)
        if len(x) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return x.flatten(1)


def test_activations_of_a_batch_that_does_not_fit_come_in_pieces():
    net, images = Hungry(), torch.randn(7, 3, 8, 8)
    found = activations(net, ["conv"], [images[:5], images[5:]])["conv"]
    with torch.no_grad():
        np.testing.assert_allclose(found, net.conv(images).mean((2, 3)).numpy(), rtol=1e-5, atol=1e-7)
    with pytest.raises(torch.OutOfMemoryError):
        activations(Hungry(0), ["conv"], [images])


def test_places_of_a_feature_map_are_the_same_for_every_image():
    net = resnet8(2, width=4)
    images = torch.randn(1, 3, 16, 16).repeat(3, 1, 1, 1)
    found = activations(net, ["layer2", "linear"], [images], positions=5, seed=2)
    assert found["layer2"].shape == (3, 5, 8)
    assert np.array_equal(found["layer2"][0], found["layer2"][2])
    assert found["linear"].shape == (3, 1, 2)


def test_half_precision_loses_neither_large_nor_small_numbers():
    for scale in (1e-12, 1.0, 1e12):
        values = (np.random.default_rng(0).normal(size=(50, 4)) * scale).astype(np.float32)
        half, exponent = as_half(values)
        restored = np.ldexp(half.astype(np.float64), exponent)
        np.testing.assert_allclose(restored, values, rtol=2**-10)
    half, exponent = as_half(np.zeros((2, 2), np.float32))
    assert exponent == 0
    assert not half.any()
    assert np.isinf(as_half(np.array([[np.inf, 1.0]], np.float32))[0][0, 0])


def test_the_draw_is_nested_and_does_not_follow_the_rows():
    ids = {"val": [f"{n:016x}" for n in range(30)], "test": [f"{n:016x}" for n in range(20, 90)]}
    small, large = (drawn_rows(ProbeSpec(sets=("val", "test"), images=n, seed=4), ids) for n in (20, 60))
    picked = [{ids[name][row] for name, rows in found.items() for row in rows} for found in (small, large)]
    assert [len(p) for p in picked] == [20, 60]
    assert picked[0] <= picked[1]
    turned = {name: of_set[::-1] for name, of_set in ids.items()}
    again = drawn_rows(ProbeSpec(sets=("val", "test"), images=20, seed=4), turned)
    assert {turned[name][row] for name, rows in again.items() for row in rows} == picked[0]
    other = drawn_rows(ProbeSpec(sets=("val", "test"), images=20, seed=5), ids)
    assert {ids[name][row] for name, rows in other.items() for row in rows} != picked[0]


def test_frozen_parameters_are_in_the_table_at_distance_0():
    built = build_model(TINY, 2, 0)
    start = {name: p.detach().clone() for name, p in built.module.named_parameters()}
    built.module.conv1.weight.requires_grad_(False)
    table = weight_table(start, built.module, built.head).to_pandas().set_index("parameter")
    assert not table.loc["conv1.weight", "trained"]
    assert table.loc["conv1.weight", "squared_distance"] == 0
    assert table.loc["conv1.weight", "product"] == pytest.approx(table.loc["conv1.weight", "squared_start"])
