from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from search_spaces.exceptions import UserError
from trainables.ladder_nets import resnet8
from trainables.mean_var import apply_mean_var

HEAD = ("linear.weight", "linear.bias")


def _trained_like(seed: int = 0) -> nn.Module:
    """A net whose tensors have all sorts of means and deviations, norm layers included."""
    generator = torch.Generator().manual_seed(seed)
    net = resnet8(num_classes=3, width=32)
    for i, (name, tensor) in enumerate(net.state_dict().items()):
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(
                noise.abs() + 0.5 if "running_var" in name else 0.1 * (i % 7) - 0.2 + 0.05 * (1 + i % 3) * noise
            )
        else:
            tensor.fill_(i)
    return net


def _state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in net.state_dict().items()}


def test_moments_survive_and_features_do_not() -> None:
    net = _trained_like()
    before = _state(net)
    report = apply_mean_var(net, HEAD, "reset", seed=1)
    weights = [n for n, t in before.items() if t.ndim == 4]
    assert report.drawn == len(weights)
    for name in weights:
        old, new = before[name].double(), net.state_dict()[name].double()
        standard_error = float(old.std()) / old.numel() ** 0.5
        assert float(new.mean() - old.mean()) == pytest.approx(0, abs=5 * standard_error)
        assert float(new.std() / old.std()) == pytest.approx(1, abs=5 / (2 * old.numel()) ** 0.5)
        pair = torch.stack([old.flatten(), new.flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / old.numel() ** 0.5


def test_numbers_are_independent_of_each_other_and_normal() -> None:
    net = _trained_like()
    name = "layer3.0.conv2.weight"
    old = net.state_dict()[name].clone().double()
    apply_mean_var(net, HEAD, "reset", seed=1)
    standard = ((net.state_dict()[name].double() - old.mean()) / old.std(correction=0)).flatten()
    n = standard.numel()
    assert abs(float((standard[1:] * standard[:-1]).mean())) < 5 / n**0.5
    assert float((standard.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=5 * 0.4655 / n**0.5)
    assert float((standard.abs() > 2).double().mean()) == pytest.approx(0.0455, abs=5 * 0.2084 / n**0.5)


def test_head_stays() -> None:
    net = _trained_like()
    before = _state(net)
    apply_mean_var(net, HEAD, "resample", seed=1)
    assert all(torch.equal(net.state_dict()[n], before[n]) for n in HEAD)


def test_norm_reset_keep_and_resample() -> None:
    states = {}
    for norm in ("reset", "keep", "resample"):
        net = _trained_like()
        apply_mean_var(net, HEAD, norm, seed=1)
        states[norm] = _state(net)
    before = _state(_trained_like())
    bn = "layer2.0.bn1."
    reset = {n.removeprefix(bn): t for n, t in states["reset"].items() if n.startswith(bn)}
    assert (reset["weight"] == 1).all()
    assert (reset["running_var"] == 1).all()
    assert all((reset[n] == 0).all() for n in ("bias", "running_mean", "num_batches_tracked"))
    assert all(torch.equal(states["keep"][n], before[n]) for n in before if n.startswith(bn))
    resampled = states["resample"]
    assert float(resampled[f"{bn}weight"].mean()) == pytest.approx(float(before[f"{bn}weight"].mean()), abs=0.1)
    assert not torch.equal(resampled[f"{bn}weight"], before[f"{bn}weight"])
    assert (resampled[f"{bn}running_mean"] == 0).all()
    assert (resampled[f"{bn}running_var"] == 1).all()
    convolutions = [n for n, t in before.items() if t.ndim == 4]
    assert all(torch.equal(states["reset"][n], states["keep"][n]) for n in convolutions)


def test_seed_and_name_decide_and_nothing_else() -> None:
    first, second, other = _trained_like(), _trained_like(), _trained_like()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    apply_mean_var(first, HEAD, "reset", seed=4)
    assert torch.equal(torch.rand(2), expected)
    apply_mean_var(second, HEAD, "reset", seed=4)
    apply_mean_var(other, HEAD, "reset", seed=5)
    assert all(torch.equal(a, b) for a, b in zip(_state(first).values(), _state(second).values(), strict=True))
    assert not torch.equal(_state(first)["conv1.weight"], _state(other)["conv1.weight"])
    same_size = ("layer1.0.conv1.weight", "layer1.0.conv2.weight")
    draws = [_standardised(_state(first)[n]) for n in same_size]
    assert not torch.allclose(draws[0], draws[1], atol=0.5)


def _standardised(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor - tensor.mean()) / tensor.std()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "resnetv2_50x1_bit", "efficientnet_b0"])
def test_norm_layers_of_other_families(name: str) -> None:
    """LayerNorm, GroupNorm with activation, and batch norm with activation are reset; everything else is drawn."""
    model = timm.create_model(name, num_classes=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.2, 0.4)
    head = tuple(
        n for n, _ in model.named_parameters() if n.startswith(("head.fc", "head.weight", "head.bias", "class"))
    )
    before = _state(model)
    apply_mean_var(model, head, "reset", seed=0)
    after = _state(model)
    normal = [n for n, p in model.named_parameters() if "norm" in n or ".bn" in n or n.startswith("bn")]
    assert normal
    for parameter in normal:
        assert (after[parameter] == (1.0 if parameter.endswith("weight") else 0.0)).all(), parameter
    for parameter, _ in model.named_parameters():
        if parameter not in normal and parameter not in head:
            assert not torch.equal(after[parameter], before[parameter]), parameter


class OddNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tau = nn.Parameter(torch.ones(3))


def test_unknown_norm_tensor_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), OddNorm())
    with pytest.raises(UserError, match=r"'1\.tau' has no known identity value .*norm: resample or norm: keep"):
        apply_mean_var(net, (), "reset", seed=0)
    assert apply_mean_var(net, (), "keep", seed=0).kept == 1
