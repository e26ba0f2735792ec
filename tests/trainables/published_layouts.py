"""Checkpoints as they were published: the exact names and nesting of each training code, around random weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
Layout = Callable[[State], Any]

WIDTH = 64
"""Features of the narrow ResNet-50 that the layouts hold."""


def _noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(99))


def _prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _other(state: State) -> State:
    """A second network of the same names and shapes."""
    return {n: t + 1 if t.is_floating_point() else t for n, t in state.items()}


def _linear(name: str, outputs: int, inputs: int = WIDTH) -> State:
    return {f"{name}.weight": _noise(outputs, inputs), f"{name}.bias": _noise(outputs)}


def _norm(name: str, size: int) -> State:
    vectors = {f"{name}.{leaf}": _noise(size) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": torch.tensor(3)}


def moco(state: State, head: State) -> Any:
    encoders = {**_prefixed("module.encoder_q.", {**state, **head}), **_prefixed("module.encoder_k.", _other(state))}
    queue = {"module.queue": _noise(128, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": {**encoders, **queue}, "optimizer": {"state": {}}}


def two_layers(name: str) -> State:
    return {**_linear(f"{name}.0", WIDTH), **_linear(f"{name}.2", 128)}


def swav(state: State) -> Any:
    head = {
        **_linear("projection_head.0", WIDTH),
        **_norm("projection_head.1", WIDTH),
        **_linear("projection_head.3", 16),
    }
    return _prefixed("module.", {**state, **head, "prototypes.weight": _noise(30, 16)})


def barlow_full(state: State) -> Any:
    projector = {"module.projector.0.weight": _noise(32, WIDTH), **_norm("module.projector.1", 32)}
    loss = {f"module.bn.{leaf}": _noise(32) for leaf in ("running_mean", "running_var")}
    model = {**_prefixed("module.backbone.", state), **projector, **loss}
    return {"epoch": 1000, "model": model, "optimizer": {"state": {}, "param_groups": []}}


def pycontrast(*heads: str, averaged: bool = False) -> Layout:
    def layout(state: State) -> Any:
        model = _prefixed("module.encoder.", {**state, **_linear("fc", 1000)})
        for head in heads:
            model |= two_layers(f"module.{head}")
        ema = {"model_ema": _prefixed("encoder.", _other(state))} if averaged else {}
        options = argparse.Namespace(method="InsDis", arch="resnet50", epochs=200)
        return {"opt": options, "model": model, "contrast": {"memory": _noise(4, 8)}, "epoch": 200, **ema}

    return layout


def simclr_v2(state: State) -> Any:
    """The names of Separius/SimCLRv2-Pytorch, written the other way round from papers, not from the catalogue."""
    names = {"conv1": "net.0.0", "bn1": "net.0.1.0"}
    inner = {"conv1": "net.0", "bn1": "net.1.0", "conv2": "net.2", "bn2": "net.3.0", "conv3": "net.4", "bn3": "net.5.0"}
    shortcut = {"0": "projection.shortcut", "1": "projection.bn.0"}
    renamed: State = {}
    for name, tensor in state.items():
        steps = name.split(".")
        if steps[0] in names:
            renamed[f"{names[steps[0]]}.{steps[1]}"] = tensor
            continue
        stage, block = steps[0].removeprefix("layer"), steps[1]
        place = shortcut[steps[3]] if steps[2] == "downsample" else inner[steps[2]]
        renamed[f"net.{stage}.blocks.{block}.{place}.{steps[-1]}"] = tensor
    return {
        "resnet": {**renamed, **_linear("fc", 1000)},
        "head": {**_linear("layers.0", WIDTH), **_norm("layers.1", 8)},
    }


def dino_full(state: State) -> Any:
    head = {
        **_linear("head.mlp.0", 32),
        "head.last_layer.weight_g": _noise(8, 1),
        "head.last_layer.weight_v": _noise(8, 4),
    }
    student = _prefixed("module.", {**_prefixed("backbone.", _other(state)), **head})
    return {"student": student, "teacher": {**_prefixed("backbone.", state), **head}, "epoch": 800}


def supervised(classes: int, prefix: str = "") -> Layout:
    def layout(state: State) -> Any:
        return {"epoch": 10, "state_dict": _prefixed(prefix, {**state, **_linear("fc", classes)}), "best_acc1": 0.5}

    return layout


def solo_learn(backbone: str) -> Layout:
    def layout(state: State) -> Any:
        parts = {
            **_prefixed(f"{backbone}.", state),
            **_prefixed(f"momentum_{backbone}.", _other(state)),
            **two_layers("projector"),
            **two_layers("momentum_projector"),
            **_linear("classifier", 100),
            "queue": _noise(2, 8),
        }
        hyper = {"method": "mocov2plus", "max_epochs": 400}
        return {"state_dict": parts, "hyper_parameters": hyper, "pytorch-lightning_version": "1.5.9", "epoch": 399}

    return layout


def vissl(state: State) -> Any:
    model = {"trunk": _prefixed("_feature_blocks.", state), "heads": two_layers("0.clf")}
    return {"phase_idx": 9, "classy_state_dict": {"base_model": {"model": model, "meta": {}}}, "loss": 1.0}


def lightning(state: State) -> Any:
    parts = {**_prefixed("model.", {**state, **_linear("fc", 5)}), "loss.weight": _noise(5)}
    return {"state_dict": parts, "pytorch-lightning_version": "2.4.0", "epoch": 3}


LAYOUTS: dict[str, Layout] = {
    "insdis": pycontrast("head"),
    "pirl": pycontrast("head", "head_jig"),
    "infomin": pycontrast("head", "head_jig", averaged=True),
    "moco_v1": lambda state: moco(state, _linear("fc", 128)),
    "moco_v2": lambda state: moco(state, two_layers("fc")),
    "pcl_v1": lambda state: moco(state, _linear("fc", 128)),
    "pcl_v2": lambda state: moco(state, two_layers("fc")),
    "simclr_v1": lambda state: {"state_dict": {**state, **_linear("fc", 1000)}},
    "simclr_v2": simclr_v2,
    "sela_v2": swav,
    "deepcluster_v2": swav,
    "swav": swav,
    "barlow_twins": dict,
    "barlow_twins_full": barlow_full,
    "dino_resnet50": dict,
    "dino_resnet50_full": dino_full,
    "imagenet_supervised": lambda state: {**state, **_linear("fc", 1000)},
    "inat2021_supervised": supervised(10_000),
    "inat2021_supervised_scratch": supervised(10_000),
    "inat2021_mini_supervised": supervised(10_000),
    "inat2021_mini_supervised_scratch": supervised(10_000, "module."),
    "chestxray14": supervised(14),
    "chexpert": supervised(14, "module."),
    "imagenet_chestxray14": supervised(14),
    "imagenet_chexpert": supervised(14, "module."),
    "torchvision": lambda state: {**state, **_linear("fc", 1000)},
    "dataparallel": supervised(7, "module."),
    "lightning": lightning,
    "solo_learn": solo_learn("backbone"),
    "solo_learn_encoder": solo_learn("encoder"),
    "vissl": vissl,
}
"""Catalogue entry -> its published layout around the backbone of a ResNet-50 with torchvision's names."""
