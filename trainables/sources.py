"""Initial weights: from a source into a freshly built model, with a receipt of what was done.

The head keeps its fresh weights whatever the source, so that with one seed all sources start from the same head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from search_spaces.exceptions import UserError
from search_spaces.models import StrictModel
from search_spaces.normalisation import Normalisation
from search_spaces.source_specs import GaborSpec
from search_spaces.trial import MeanVarSource, PartialSource, ResolvedScale, ResolvedSource, UpstreamNet, UpstreamSource
from trainables.freezing import freeze
from trainables.gabor import apply_gabor
from trainables.loading import HEAD_KEY as HEAD_KEY
from trainables.loading import FetchUpstream, KeptWeights, Loaded, copy_into, load, names_of, subject
from trainables.mean_var import MeanVarReport, apply_mean_var
from trainables.models import BuiltModel, build_model
from trainables.parts import below, parts_of


class Receipt(StrictModel):
    """``receipt.json``: where a trial's initial weights came from and what was done with them.

    Attributes:
        source: The study's name of the source.
        form: random, file, timm or trial.
        content: sha256 of the file, timm's revision (of a local file ``name.tag@sha256:HASH``), or id of the upstream
            trial; None for random weights.
        file: Name of the checkpoint file, or of the local file of timm's weights, without its folder.
        catalogue: Entry of the catalogue that says how the file is read.
        keep, strip_prefix, rename, drop: As the study or the catalogue says; each rule of ``rename`` as "pattern
            -> to".
        normalise: Input scaling that the weights are used with.
        contents: Data sets that the weights have seen, as the study says.
        backbone_tensors: Tensors of the model without its head, buffers included.
        matched_tensors: How many of them were loaded.
        matched_numbers: Numbers in them.
        missing: Batch norm counters that the checkpoint lacks; they stay 0.
        fresh: Tensors that keep their fresh weights, as the trial of masks that the others come from has none of them:
            a U-Net has no use for the classifier's last layers.
        dropped: Tensors of the checkpoint that were left out.
        head: Tensors that keep their fresh weights.
        seed: Init seed: of the head, of random weights and of the transform.
        transform: mean_var, partial, slim, gabor or None.
        draw, norm: How mean_var drew, and what it did with normalisation layers.
        up_to: Cut point of partial and slim.
        transform_drawn, transform_reset, transform_kept: Tensors that the transform drew anew (or put back to their
        random
            start), reset, and kept.
        backbone_sha256: Hash of the backbone's numbers as training starts.
    """

    source: str
    form: Literal["random", "file", "timm", "trial"]
    content: str | None
    file: str | None = None
    catalogue: str | None = None
    keep: str | None = None
    strip_prefix: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    normalise: Normalisation
    contents: tuple[str, ...] = ()
    backbone_tensors: int
    matched_tensors: int
    matched_numbers: int
    missing: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    head: tuple[str, ...]
    seed: int
    transform: Literal["mean_var", "partial", "slim", "gabor"] | None = None
    draw: Literal["gaussian", "permutation", "resampling"] | None = None
    norm: Literal["reset", "resample", "keep"] | None = None
    up_to: str | None = None
    transform_drawn: int = 0
    transform_reset: int = 0
    transform_kept: int = 0
    backbone_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transformed:
    """What a transform did, for the receipt."""

    transform: Literal["mean_var", "partial", "slim", "gabor"] | None = None
    draw: Literal["gaussian", "permutation", "resampling"] | None = None
    norm: Literal["reset", "resample", "keep"] | None = None
    up_to: str | None = None
    report: MeanVarReport = field(default_factory=MeanVarReport)


def initialise(built: BuiltModel, source: ResolvedSource, fetch_upstream: FetchUpstream, seed: int) -> Receipt:
    """Put a source's weights into a model, in place.

    Args:
        built: The model, with fresh weights drawn from ``seed``.
        source: Where the weights come from.
        fetch_upstream: Gives the kept weights of a trial.
        seed: The trial's init seed.

    Raises:
        UserError: The weights are missing, are not those that the study was planned with, or do not fill the backbone.
    """
    loaded, done = _start(built, source, fetch_upstream, seed)
    backbone = {n: t for n, t in built.module.state_dict().items() if n not in built.head}
    match = loaded.match
    return Receipt(
        source=source.name,
        form=loaded.form,
        content=source.content,
        file=loaded.file,
        catalogue=loaded.catalogue,
        keep=loaded.keep,
        strip_prefix=loaded.strip_prefix,
        rename=loaded.rename,
        drop=loaded.drop,
        normalise=source.normalise,
        contents=loaded.contents,
        backbone_tensors=len(backbone),
        matched_tensors=len(match.tensors) if match else 0,
        matched_numbers=sum(t.numel() for t in match.tensors.values()) if match else 0,
        missing=match.missing if match else (),
        fresh=loaded.fresh,
        dropped=match.dropped if match else (),
        head=built.head,
        seed=seed,
        transform=done.transform,
        draw=done.draw,
        norm=done.norm,
        up_to=done.up_to,
        transform_drawn=done.report.drawn,
        transform_reset=done.report.reset,
        transform_kept=done.report.kept,
        backbone_sha256=tensors_sha256(backbone),
    )


def _start(
    built: BuiltModel, source: ResolvedSource, fetch_upstream: FetchUpstream, seed: int
) -> tuple[Loaded, _Transformed]:
    """Load and transform."""
    weights = source.weights
    if isinstance(weights, MeanVarSource):
        loaded = load(built, weights.of, source, fetch_upstream)
        report = apply_mean_var(built.module, built.head, weights.norm, seed, weights.draw)
        return loaded, _Transformed(transform=weights.transform, draw=weights.draw, norm=weights.norm, report=report)
    if isinstance(weights, PartialSource):
        return _load_bottom(built, weights, source, fetch_upstream)
    if isinstance(weights, GaborSpec):
        apply_gabor(built.module, weights, seed)
        kept = len(built.module.state_dict()) - len(built.head) - 1
        report = MeanVarReport(drawn=1, reset=0, kept=kept)
        return Loaded(form="random"), _Transformed(transform="gabor", report=report)
    return load(built, weights, source, fetch_upstream), _Transformed()


def _load_bottom(
    built: BuiltModel, weights: PartialSource, source: ResolvedSource, fetch_upstream: FetchUpstream
) -> tuple[Loaded, _Transformed]:
    """Pretrained up to the cut, random above, batch norm's statistics included in both."""
    parts = parts_of(built.module, built.head)
    bottom = below(parts, weights.up_to, f"{subject(built, source)}: {weights.transform}")
    backbone = {n: t for n, t in built.module.state_dict().items() if n not in built.head}
    above = {n: t.clone() for n, t in backbone.items() if n not in bottom}
    if weights.transform == "slim":
        modules = tuple(f"{part.name}." for part in parts if set(part.tensors) <= bottom)
        loaded = load(built, weights.of, source, fetch_upstream, lambda n: n in bottom or n.startswith(modules))
    else:
        loaded = load(built, weights.of, source, fetch_upstream)
        copy_into(built.module, above)
    report = MeanVarReport(drawn=len(above), reset=0, kept=len(bottom))
    return loaded, _Transformed(transform=weights.transform, up_to=weights.up_to, report=report)


def check_source(
    scale: ResolvedScale,
    source: ResolvedSource,
    num_outputs: int,
    import_paths: Sequence[str] = (),
    frozen: str | None = None,
    dense: bool = False,
    upstream: UpstreamNet | None = None,
) -> int:
    """Try before anything is trained whether a scale can be built, filled from a source, and frozen.

    Args:
        scale: What to build.
        source: Where its weights come from; those of a trial do not exist yet.
        num_outputs: Outputs of the model.
        import_paths: Folders in which a user's module is looked up first.
        frozen: The protocol's ``freeze``.
        dense: Whether it is to predict each pixel.
        upstream: The network of the trial that the weights are to come from, with which they are tried by name and
            shape; None where it is known to fit.

    Returns:
        Trainable numbers of the model before anything is frozen.

    Raises:
        UserError: As for build_model, initialise and freeze.
    """
    built = build_model(scale, num_outputs, seed=0, import_paths=import_paths, dense=dense)
    weights = source.weights
    if upstream is not None:
        _try_upstream(built, source, upstream, import_paths)
    elif not isinstance(getattr(weights, "of", weights), UpstreamSource):
        initialise(built, source, _no_upstream, seed=0)
    elif isinstance(weights, PartialSource):
        below(parts_of(built.module, built.head), weights.up_to, f"{subject(built, source)}: {weights.transform}")
    freeze(built.module, built.head, frozen, f"protocol.freeze for scale {scale.name!r}")
    return built.parameters


def _try_upstream(
    built: BuiltModel, source: ResolvedSource, upstream: UpstreamNet, import_paths: Sequence[str]
) -> None:
    """Start from the fresh weights of another network, which has the names and shapes of its trained ones."""
    scale = upstream.scale
    other = build_model(scale, upstream.num_outputs, seed=0, import_paths=import_paths, dense=upstream.dense)
    kept = KeptWeights(tensors=other.module.state_dict(), metadata=names_of(other.head, other.encoder))
    try:
        initialise(built, source, lambda _: kept, seed=0)
    except UserError as error:
        kind = "masks" if upstream.dense else "labels"
        raise UserError(
            f"{error}\n  that trial learns {kind} with scale {scale.name!r} ({scale.factory}) at {scale.input_size} px"
        ) from None


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
