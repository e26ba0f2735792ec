"""Initial weights: from a source into a freshly built model, with a receipt of what was done.

The head keeps its fresh weights whatever the source, so that with one seed all sources start from the same head.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from search_spaces.exceptions import UserError
from search_spaces.models import StrictModel
from search_spaces.study import CheckpointSource, Normalisation, RandomSource, TimmSource
from search_spaces.trial import MeanVarSource, ResolvedScale, ResolvedSource, UpstreamSource
from trainables.checkpoint_files import read_safetensors, read_state_dict
from trainables.factories import Origin
from trainables.hashing import file_sha256
from trainables.matching import Match, match_backbone
from trainables.mean_var import MeanVarReport, apply_mean_var
from trainables.models import BuiltModel, build_model
from trainables.timm_weights import fetch_pretrained

HEAD_KEY = "head"
"""Metadata key of a kept ``weights.safetensors``: JSON list of the names of the head's tensors."""


class Receipt(StrictModel):
    """``receipt.json``: where a trial's initial weights came from and what was done with them.

    Attributes:
        source: The study's name of the source.
        form: random, file, timm or trial.
        content: sha256 of the file, timm's revision, or id of the upstream trial; None for random weights.
        file: Name of the checkpoint file, without its folder.
        strip_prefix, drop: As the study says.
        normalise: Input scaling that the weights are used with.
        contents: Data sets that the weights have seen, as the study says.
        backbone_tensors: Tensors of the model without its head, buffers included.
        matched_tensors: How many of them were loaded.
        matched_numbers: Numbers in them.
        missing: Batch norm counters that the checkpoint lacks; they stay 0.
        dropped: Tensors of the checkpoint that were left out.
        head: Tensors that keep their fresh weights.
        seed: Init seed: of the head, of random weights and of the transform.
        transform: mean_var or None.
        norm: What the transform did with normalisation layers.
        transform_drawn, transform_reset, transform_kept: Tensors that the transform drew, reset and kept.
        backbone_sha256: Hash of the backbone's numbers as training starts.
    """

    source: str
    form: Literal["random", "file", "timm", "trial"]
    content: str | None
    file: str | None = None
    strip_prefix: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    normalise: Normalisation
    contents: tuple[str, ...] = ()
    backbone_tensors: int
    matched_tensors: int
    matched_numbers: int
    missing: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    head: tuple[str, ...]
    seed: int
    transform: Literal["mean_var"] | None = None
    norm: Literal["reset", "resample", "keep"] | None = None
    transform_drawn: int = 0
    transform_reset: int = 0
    transform_kept: int = 0
    backbone_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """What a load did, for the receipt."""

    form: Literal["random", "file", "timm", "trial"]
    match: Match | None = None
    file: str | None = None
    strip_prefix: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()


def initialise(built: BuiltModel, source: ResolvedSource, fetch_upstream: Callable[[str], Path], seed: int) -> Receipt:
    """Put a source's weights into a model, in place.

    Args:
        built: The model, with fresh weights drawn from ``seed``.
        source: Where the weights come from.
        fetch_upstream: Trial id -> local path of that trial's ``weights.safetensors``.
        seed: The trial's init seed.

    Raises:
        UserError: The weights are missing, are not those that the study was planned with, or do not fill the backbone.
    """
    transform: MeanVarSource | None = None
    report = MeanVarReport(drawn=0, reset=0, kept=0)
    if isinstance(source.weights, MeanVarSource):
        transform = source.weights
        loaded = _load(built, transform.of, source, fetch_upstream)
        report = apply_mean_var(built.module, built.head, transform.norm, seed)
    else:
        loaded = _load(built, source.weights, source, fetch_upstream)
    backbone = {n: t for n, t in built.module.state_dict().items() if n not in built.head}
    match = loaded.match
    return Receipt(
        source=source.name,
        form=loaded.form,
        content=source.content,
        file=loaded.file,
        strip_prefix=loaded.strip_prefix,
        drop=loaded.drop,
        normalise=source.normalise,
        contents=loaded.contents,
        backbone_tensors=len(backbone),
        matched_tensors=len(match.tensors) if match else 0,
        matched_numbers=sum(t.numel() for t in match.tensors.values()) if match else 0,
        missing=match.missing if match else (),
        dropped=match.dropped if match else (),
        head=built.head,
        seed=seed,
        transform=transform.transform if transform else None,
        norm=transform.norm if transform else None,
        transform_drawn=report.drawn,
        transform_reset=report.reset,
        transform_kept=report.kept,
        backbone_sha256=tensors_sha256(backbone),
    )


def check_source(
    scale: ResolvedScale, source: ResolvedSource, num_outputs: int, import_paths: Sequence[str] = ()
) -> int:
    """Try before anything is trained whether a scale can be built and filled from a source.

    Args:
        scale: What to build.
        source: Where its weights come from; those of a trial do not exist yet and are not tried.
        num_outputs: Outputs of the model.
        import_paths: Folders in which a user's module is looked up first.

    Returns:
        Trainable numbers of the model.

    Raises:
        UserError: As for build_model and initialise.
    """
    built = build_model(scale, num_outputs, seed=0, import_paths=import_paths)
    weights = source.weights.of if isinstance(source.weights, MeanVarSource) else source.weights
    if not isinstance(weights, UpstreamSource):
        initialise(built, source, _no_upstream, seed=0)
    return built.parameters


def _no_upstream(trial_id: str) -> Path:
    raise UserError(f"the weights of trial {trial_id} are not at hand")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes and numbers, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        if tensor.numel():
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load(
    built: BuiltModel,
    weights: RandomSource | CheckpointSource | TimmSource | UpstreamSource,
    source: ResolvedSource,
    fetch_upstream: Callable[[str], Path],
) -> _Loaded:
    if isinstance(weights, RandomSource):
        return _Loaded(form="random")
    if isinstance(weights, CheckpointSource):
        return _load_file(built, weights, source)
    if isinstance(weights, TimmSource):
        return _load_timm(built, weights, source)
    return _load_trial(built, weights, source, fetch_upstream)


def _load_file(built: BuiltModel, weights: CheckpointSource, source: ResolvedSource) -> _Loaded:
    sha256 = file_sha256(weights.file)
    if source.content is not None and sha256 != source.content:
        raise UserError(
            f"source {source.name!r}: {weights.file} has changed since the study was planned "
            f"(was {source.content[:8]}, is {sha256[:8]}); plan and run the study again"
        )
    prefixes = (weights.strip_prefix,) if isinstance(weights.strip_prefix, str) else weights.strip_prefix
    checkpoint = read_state_dict(weights.file, weights.state_key)
    match = _fill(built, checkpoint, f"{_subject(built, source)}, file {weights.file}", prefixes, weights.drop)
    return _Loaded(
        form="file",
        match=match,
        file=Path(weights.file).name,
        strip_prefix=prefixes,
        drop=weights.drop,
        contents=weights.contents,
    )


def _load_timm(built: BuiltModel, weights: TimmSource, source: ResolvedSource) -> _Loaded:
    if built.factory.origin is not Origin.TIMM:
        raise UserError(
            f"{_subject(built, source)}: timm has weights for its own models only, not {built.factory.text}"
        )
    tensors = fetch_pretrained(built.factory, weights.timm, built.scale.arguments, built.scale.input_size)
    match = _fill(built, tensors, f"{_subject(built, source)}, timm weights {weights.timm}")
    return _Loaded(form="timm", match=match, contents=weights.contents)


def _load_trial(
    built: BuiltModel, weights: UpstreamSource, source: ResolvedSource, fetch_upstream: Callable[[str], Path]
) -> _Loaded:
    trial_id = weights.upstream_trial_id
    tensors, metadata = read_safetensors(fetch_upstream(trial_id))
    if HEAD_KEY not in metadata:
        raise UserError(
            f"{_subject(built, source)}: the weights of trial {trial_id} do not say which tensors are the head"
        )
    if metadata.get("trial_id", trial_id) != trial_id or metadata.get("selected", "true") != "true":
        raise UserError(
            f"{_subject(built, source)}: the kept weights of trial {trial_id} are not those that it was scored with; "
            "delete them and run again (execution.keep_weights was final when it was trained)"
        )
    head = tuple(json.loads(metadata[HEAD_KEY]))
    backbone = {n: t for n, t in tensors.items() if n not in head}
    match = _fill(built, backbone, f"{_subject(built, source)}, weights of trial {trial_id}")
    dropped = tuple(sorted({*match.dropped, *head}))
    return _Loaded(form="trial", match=Match(tensors=match.tensors, missing=match.missing, dropped=dropped))


def _subject(built: BuiltModel, source: ResolvedSource) -> str:
    return f"source {source.name!r} for scale {built.scale.name!r}"


def _fill(
    built: BuiltModel,
    checkpoint: Mapping[str, Tensor],
    what: str,
    strip_prefix: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
) -> Match:
    match = match_backbone(built.module.state_dict(), built.head, checkpoint, what, strip_prefix, drop)
    _copy_into(built.module, match.tensors)
    return match


def _copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy by name, converting to the model's number formats (float16 checkpoints become float32)."""
    own = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
