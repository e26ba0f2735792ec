from __future__ import annotations

import pytest
import torch

from search_spaces.exceptions import UserError
from trainables.ladder_nets import resnet8, resnet14
from trainables.matching import Match, match_backbone

HEAD = ("linear.weight", "linear.bias")


def _state(net=resnet8, width: int = 4, classes: int = 10) -> dict[str, torch.Tensor]:
    return net(num_classes=classes, width=width).state_dict()


def _match(checkpoint: dict[str, torch.Tensor], **keywords) -> Match:
    return match_backbone(_state(classes=2), HEAD, checkpoint, "source 'natural'", **keywords)


def _refusal(checkpoint: dict[str, torch.Tensor], **keywords) -> str:
    with pytest.raises(UserError) as refused:
        _match(checkpoint, **keywords)
    return str(refused.value)


def test_whole_backbone_is_matched_and_the_head_never() -> None:
    found = _match(_state())
    assert found.tensors.keys() == _state().keys() - set(HEAD)
    assert found.dropped == tuple(sorted(HEAD))
    assert found.missing == ()


def test_head_of_the_right_size_is_left_out_too() -> None:
    assert set(HEAD).isdisjoint(_match(_state(classes=2)).tensors)


def test_only_batch_norm_counters_may_be_missing() -> None:
    state = _state()
    counters = {n for n in state if n.endswith("num_batches_tracked")}
    assert counters
    assert set(_match({n: t for n, t in state.items() if n not in counters}).missing) == counters


@pytest.mark.parametrize("name", ["conv1.weight", "layer3.0.bn2.running_var", "bn1.bias"])
def test_one_missing_tensor_is_enough_to_refuse(name: str) -> None:
    state = _state()
    del state[name]
    text = _refusal(state)
    needed = [n for n in state if n not in HEAD and not n.endswith("num_batches_tracked")]
    assert f"missing: 1 of {len(needed) + 1} backbone tensors: {name}" in text


def test_prefixes_are_stripped_at_the_start_once_and_in_order() -> None:
    state = {f"module.module.{n}": t for n, t in _state().items()}
    assert len(_match(state, strip_prefix=("module.", "module.")).tensors) == len(_state()) - 2
    text = _refusal(state, strip_prefix=("module.",))
    assert "'module.'" in text
    assert "add it to strip_prefix" in text
    inner = {f"net.module.{n}": t for n, t in _state().items()}
    assert _refusal(inner, strip_prefix=("module.",))
    assert _match(inner, strip_prefix=("net.", "module.")).tensors
    assert _refusal(inner, strip_prefix=("module.", "net."))


def test_prefix_inside_a_name_is_not_touched() -> None:
    state = {n.replace("layer1.", "layer1.module."): t for n, t in _state().items()}
    assert "missing" in _refusal(state, strip_prefix=("module.",))


def test_likely_prefix_is_named() -> None:
    text = _refusal({f"module.{n}": t for n, t in _state().items()})
    assert "without a prefix the names would fit: 'module.' (" in text


def test_query_and_key_encoders_are_both_named() -> None:
    state = {f"encoder_{side}.{n}": t for side in "qk" for n, t in _state().items()}
    text = _refusal(state)
    assert "'encoder_q.'" in text
    assert "'encoder_k.'" in text
    assert "add one of these to strip_prefix" in text
    found = _match(state, strip_prefix=("encoder_q.",), drop=("encoder_k.",))
    assert len(found.tensors) == len(_state()) - 2


def test_prefix_that_starts_nothing_is_named() -> None:
    text = _refusal({f"encoder.{n}": t for n, t in _state().items()}, strip_prefix=("module.",))
    assert "strip_prefix 'module.' starts no name of the checkpoint" in text
    assert "'encoder.'" in text


def test_two_names_that_become_one() -> None:
    state = _state()
    assert "are both 'conv1.weight'" in _refusal(
        {**state, "module.conv1.weight": torch.ones(1)}, strip_prefix=("module.",)
    )


def test_leftovers_must_be_dropped_by_name() -> None:
    state = {**_state(), "fc.0.weight": torch.ones(3), "fc.2.bias": torch.ones(3), "queue": torch.ones(2, 2)}
    text = _refusal(state)
    assert "not in the model: 3 of" in text
    assert "drop: [fc, queue]" in text
    assert set(_match(state, drop=("fc", "queue")).dropped) == {*HEAD, "fc.0.weight", "fc.2.bias", "queue"}


def test_suggested_drop_spares_the_backbone() -> None:
    state = {**_state(), "bn.weight": torch.ones(3)}
    text = _refusal(state)
    assert "drop: [bn.]" in text
    assert "bn1.weight" in _match(state, drop=("bn.",)).tensors


def test_drop_that_takes_the_backbone_is_named() -> None:
    assert "drop leaves out 4 backbone tensors, such as 'bn1.weight': narrow it" in _refusal(_state(), drop=("bn",))


def test_deeper_network_is_not_taken_for_leftovers() -> None:
    """Every tensor of the small net is in the large one, by name and shape."""
    text = _refusal(_state(resnet14))
    assert "larger network" in text
    assert "drop: [" not in text


def test_other_networks() -> None:
    wide = _refusal(_state(width=6))
    assert "of another shape" in wide
    assert "conv1.weight is (6, 3, 3, 3) float32, must be (4, 3, 3, 3) float32" in wide
    assert "looks like another network" in wide
    foreign = _refusal({f"features.{i}.weight": torch.ones(2) for i in range(40)})
    assert "features.0.weight" in foreign
    assert "(35 more)" in foreign
    assert "looks like another network: 0 of" in foreign


def test_position_embeddings_hint() -> None:
    model = {"pos_embed": torch.ones(1, 5, 2), "a.weight": torch.ones(2), "head.weight": torch.ones(2)}
    with pytest.raises(UserError, match="depend on the input size"):
        match_backbone(model, ("head.weight",), {**model, "pos_embed": torch.ones(1, 9, 2)}, "x")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_numbers_that_are_not_finite_in_float32(bad: float) -> None:
    state = {n: t.double() if t.is_floating_point() else t for n, t in _state().items()}
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = bad
    assert "1 tensors hold numbers that are not finite: layer1.0.conv1.weight" in _refusal(state)


def test_whole_numbers_are_no_weights() -> None:
    state = _state()
    state["conv1.weight"] = state["conv1.weight"].to(torch.int8)
    assert "conv1.weight is (4, 3, 3, 3) int8" in _refusal(state)
