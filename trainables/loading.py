"""Weights of a checkpoint file, of timm or of another trial, into a freshly built model: all of the backbone, or
refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from search_spaces.catalogue import catalogue, find_entry, other_hash
from search_spaces.exceptions import UserError
from search_spaces.source_specs import CheckpointSource, RandomSource, TimmSource
from search_spaces.trial import ResolvedSource, UpstreamSource
from trainables.checkpoint_files import read_safetensors, read_source
from trainables.factories import Origin
from trainables.hashing import file_sha256
from trainables.key_maps import KeyMap
from trainables.matching import Match, match_backbone
from trainables.models import BuiltModel
from trainables.timm_files import LOCAL_VARIABLE, content_at_hand, is_local, local_file
from trainables.timm_weights import fetch_pretrained, revision_of
from trainables.unet import EncoderNames

Wanted = Callable[[str], bool]
"""Whether a tensor's name belongs to the part of the model that is to be filled."""

HEAD_KEY = "head"
"""Metadata key of a kept ``weights.safetensors``: JSON list of the names of the head's tensors."""


ENCODER_KEY = "encoder"
"""Metadata key of the kept weights of a U-Net: JSON, name of a tensor -> its name in the scale's classifier."""

UNUSED_KEY = "unused"
"""Metadata key of the kept weights of a U-Net: JSON list of the classifier's tensors that its encoder lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWeights:
    """What a trial keeps of its network, as ``weights.safetensors`` has it.

    Attributes:
        tensors: Its state dict.
        metadata: Of the file; of it, ``names_of`` alone matters to what starts from the weights.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


FetchUpstream = Callable[[str], Path | KeptWeights]
"""Gives the weights of a trial by its id: the local path of their file, or what it holds."""


def names_of(head: Sequence[str], encoder: EncoderNames | None) -> dict[str, str]:
    """Metadata of kept weights that say what their tensors are.

    Args:
        head: Names of the head's tensors.
        encoder: Of a U-Net.
    """
    names = {HEAD_KEY: json.dumps(list(head))}
    if encoder is not None:
        names |= {ENCODER_KEY: json.dumps(dict(encoder.names)), UNUSED_KEY: json.dumps(sorted(encoder.unused))}
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a load did, for the receipt."""

    form: Literal["random", "file", "timm", "trial"]
    match: Match | None = None
    fresh: tuple[str, ...] = ()
    file: str | None = None
    catalogue: str | None = None
    keep: str | None = None
    strip_prefix: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()


def load(
    built: BuiltModel,
    weights: RandomSource | CheckpointSource | TimmSource | UpstreamSource,
    source: ResolvedSource,
    fetch_upstream: FetchUpstream,
    wanted: Wanted | None = None,
) -> Loaded:
    """Load into a model, in place; the head keeps its fresh weights.

    Args:
        built: The model.
        weights: Where the weights come from.
        source: The source that they belong to, for messages and the expected content.
        fetch_upstream: Gives the kept weights of a trial.
        wanted: The part of the model that is to be filled; None is the whole backbone.

    Raises:
        UserError: The weights are missing, are not those that the study was planned with, or do not fill the backbone.
    """
    if isinstance(weights, RandomSource):
        return Loaded(form="random")
    if isinstance(weights, CheckpointSource):
        return _load_file(built, weights, source, wanted)
    if isinstance(weights, TimmSource):
        return _load_timm(built, weights, source, wanted)
    return _load_trial(built, weights, source, fetch_upstream, wanted)


def _load_file(built: BuiltModel, weights: CheckpointSource, source: ResolvedSource, wanted: Wanted | None) -> Loaded:
    sha256 = file_sha256(weights.file)
    if source.content is not None and sha256 != source.content:
        raise UserError(
            f"source {source.name!r}: {weights.file} has changed since the study was planned "
            f"(was {source.content[:8]}, is {sha256[:8]}); plan and run the study again"
        )
    prefixes = (weights.strip_prefix,) if isinstance(weights.strip_prefix, str) else weights.strip_prefix
    what = f"{subject(built, source)}, file {weights.file}"
    _refuse_scaling_of_others(weights, built, what)
    names = KeyMap(keep=weights.keep, strip_prefix=prefixes, rename=weights.rename)
    try:
        checkpoint = read_source(weights)
        match = _fill(built, checkpoint, what, names, weights.drop, wanted)
    except UserError as error:
        raise UserError(f"{error}{_of_the_catalogue(weights, built, sha256)}") from None
    return Loaded(
        form="file",
        match=match,
        file=Path(weights.file).name,
        catalogue=weights.catalogue,
        keep=weights.keep,
        strip_prefix=prefixes,
        rename=tuple(f"{rule.pattern} -> {rule.to}" for rule in weights.rename),
        drop=weights.drop,
        contents=weights.contents,
    )


def _refuse_scaling_of_others(weights: CheckpointSource, built: BuiltModel, what: str) -> None:
    """Names and shapes do not show that the published weights of a network expect other inputs than its layout says."""
    entry = catalogue().get(weights.catalogue or "")
    name = "" if entry is None else entry.instead.get(built.factory.name, "")
    if name and find_entry(name).normalise != weights.normalise:
        raise UserError(
            f"{what}: the published weights of {built.factory.name} expect inputs that are scaled otherwise than by "
            f"catalogue entry {weights.catalogue}: write catalogue: {name}. A file of your own needs no entry: "
            "{file: ..., drop: [...], normalise: ...}"
        )


def _of_the_catalogue(weights: CheckpointSource, built: BuiltModel, sha256: str) -> str:
    """What the catalogue knows about a file that does not fit."""
    entry = catalogue().get(weights.catalogue or "")
    if entry is None:
        return ""
    lines = []
    if entry.architectures and built.factory.name not in entry.architectures:
        lines.append(f"catalogue entry {weights.catalogue} is for {', '.join(entry.architectures)}")
    if other := entry.instead.get(built.factory.name):
        lines.append(f"published weights of {built.factory.name} are read by catalogue entry {other}")
    if entry.convert and Path(weights.file).suffix != ".safetensors":
        lines.append(f"convert it first: python -m orchestrator.sources convert {entry.convert} IN OUT.safetensors")
    if difference := other_hash(weights.catalogue, sha256):
        lines.append(difference)
    return "".join(f"\n  hint: {line}" for line in lines)


def _load_timm(built: BuiltModel, weights: TimmSource, source: ResolvedSource, wanted: Wanted | None) -> Loaded:
    if built.factory.origin is not Origin.TIMM:
        raise UserError(f"{subject(built, source)}: timm has weights for its own models only, not {built.factory.text}")
    revision = revision_of(built.factory, weights.timm)
    _refuse_other_content(content_at_hand(revision), source, subject(built, source))
    local = local_file(revision)
    # With a part wanted only, the scale's arguments make another network than the published one.
    arguments = built.scale.arguments if wanted is None else {}
    tensors = fetch_pretrained(built.factory, weights.timm, arguments, built.scale.input_size)
    match = _fill(built, tensors, f"{subject(built, source)}, timm weights {weights.timm}", wanted=wanted)
    return Loaded(form="timm", match=match, file=local.name if local else None, contents=weights.contents)


def _refuse_other_content(found: str, source: ResolvedSource, what: str) -> None:
    """timm's own weights are what timm says; a local file can be another one than that of the plan, or missing."""
    planned = source.content
    if planned is not None and planned != found and (is_local(planned) or is_local(found)):
        raise UserError(
            f"{what}: timm's weights were {planned} when the study was planned, here they are {found}; name the same "
            f"folder by {LOCAL_VARIABLE} everywhere, or plan and run the study again"
        )


def _load_trial(
    built: BuiltModel,
    weights: UpstreamSource,
    source: ResolvedSource,
    fetch_upstream: FetchUpstream,
    wanted: Wanted | None,
) -> Loaded:
    trial_id = weights.upstream_trial_id
    tensors, metadata = _kept(fetch_upstream(trial_id))
    if HEAD_KEY not in metadata:
        raise UserError(
            f"{subject(built, source)}: the weights of trial {trial_id} do not say which tensors are the head"
        )
    if metadata.get("trial_id", trial_id) != trial_id or metadata.get("selected", "true") != "true":
        raise UserError(
            f"{subject(built, source)}: the kept weights of trial {trial_id} are not those that it was scored with; "
            "delete them and run again (execution.keep_weights was final when it was trained)"
        )
    head = tuple(json.loads(metadata[HEAD_KEY]))
    places: dict[str, str] = json.loads(metadata.get(ENCODER_KEY, "{}"))
    backbone = {places.get(n, n): t for n, t in tensors.items() if n not in head}
    fresh = _without_counterpart(built, metadata)
    what = f"{subject(built, source)}, weights of trial {trial_id}"
    match = _fill(built, backbone, what, wanted=_all_but(fresh, wanted))
    return Loaded(form="trial", match=replace(match, dropped=tuple(sorted({*match.dropped, *head}))), fresh=fresh)


def _kept(weights: Path | KeptWeights) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    return read_safetensors(weights) if isinstance(weights, Path) else (weights.tensors, weights.metadata)


def _without_counterpart(built: BuiltModel, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """A classifier's last layers that a U-Net of the same scale, which the weights are of, does not have."""
    if built.encoder is not None:
        return ()
    unused = set(json.loads(metadata.get(UNUSED_KEY, "[]")))
    return tuple(name for name in built.module.state_dict() if name in unused and name not in built.head)


def _all_but(names: tuple[str, ...], wanted: Wanted | None) -> Wanted | None:
    if not names:
        return wanted
    return lambda name: name not in names and (wanted is None or wanted(name))


def subject(built: BuiltModel, source: ResolvedSource) -> str:
    """What a message is about."""
    return f"source {source.name!r} for scale {built.scale.name!r}"


def _fill(
    built: BuiltModel,
    checkpoint: Mapping[str, Tensor],
    what: str,
    names: KeyMap = KeyMap(),  # noqa: B008 - frozen
    drop: tuple[str, ...] = (),
    wanted: Wanted | None = None,
) -> Match:
    view = _Backbone.of(built)
    match = match_backbone(
        view.tensors,
        view.head,
        checkpoint,
        what,
        names.strip_prefix,
        drop,
        keep=names.keep,
        rename=names.rename,
        wanted=view.wanted(wanted),
    )
    copy_into(built.module, {view.places[name]: tensor for name, tensor in match.tensors.items()})
    return match


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backbone:
    """What a checkpoint fills, under the names of the scale's classifier, which a U-Net has under others.

    Attributes:
        tensors: Name -> tensor of the model.
        head: The classifier's head, which is never loaded.
        places: Name -> name in the model.
        unused: Tensors of the classifier that the model has no use for.
    """

    tensors: Mapping[str, Tensor]
    head: tuple[str, ...]
    places: Mapping[str, str]
    unused: frozenset[str] = frozenset()

    @classmethod
    def of(cls, built: BuiltModel) -> _Backbone:
        state = built.module.state_dict()
        if built.encoder is None:
            return cls(tensors=state, head=built.head, places={name: name for name in state})
        places = {named: place for place, named in built.encoder.names.items()}
        return cls(
            tensors={named: state[place] for named, place in places.items()},
            head=built.encoder.head,
            places=places,
            unused=built.encoder.unused,
        )

    def wanted(self, asked: Wanted | None) -> Wanted | None:
        """Whether a name is to be filled, from the same of names in the model."""
        if asked is None and not self.unused:
            return None
        return lambda name: name not in self.unused and (asked is None or asked(self.places.get(name, name)))


def copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy by name, converting to the model's number formats (float16 checkpoints become float32)."""
    own = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
