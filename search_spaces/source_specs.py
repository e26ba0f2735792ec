"""Where initial weights come from, as a study writes it. Nothing here touches files."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from search_spaces.amounts import Amount, Seed
from search_spaces.catalogue import KeyRule, from_catalogue
from search_spaces.exceptions import unknown
from search_spaces.models import StrictModel
from search_spaces.normalisation import Normalisation

AS_PAPER, NATIVE = "as_paper", "native"
"""Names of input scaling that stand for a choice: ImageNet's for every source, as the benchmark of Hosseinzadeh Taher
et al. 2021 does, or what the weights were trained with."""

Range = tuple[float, float]


class _Scaled(StrictModel):
    """A source that says how its inputs are scaled."""

    @model_validator(mode="before")
    @classmethod
    def _as_paper(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("normalise") == AS_PAPER:
            return {**raw, "normalise": "imagenet"}
        return raw


class RandomSource(_Scaled):
    """No pretraining: the factory's own initialisation, drawn from the trial's init seed."""

    init: Literal["random"] = "random"
    normalise: Normalisation = Normalisation.model_validate("imagenet")


class CheckpointSource(_Scaled):
    """Weights in a file. Every backbone tensor must be found in it by name and shape, or the trial is refused.

    Attributes:
        file: Path of a ``.safetensors``, ``.npz`` or torch file (``.pth``, ``.pt``, ``.th``, ``.tar``, ``.bin``; read
            weights-only).
        state_key: Where the state dict lies inside the file, such as ``state_dict`` or ``model.trunk``; found by itself
            if it is the only nested one.
        keep: Prefix of the encoder's tensors, removed from their names; all others are left out (second encoders,
            queues, projection heads).
        strip_prefix: Then removed from the start of each key; one text or several, each at most once, in this order.
        rename: Then applied to each name, one after the other.
        drop: Prefixes (after all of that) of tensors to leave out: the old head, projection heads, queues.
        normalise: Input scaling that these weights expect; ``as_paper`` is ImageNet's.
        contents: Names of the data sets that the weights have seen, for contamination flags.
        catalogue: Entry of the catalogue that the fields above come from; they may also be given beside it.
    """

    file: str
    state_key: str | None = None
    keep: str | None = None
    strip_prefix: str | tuple[str, ...] = ()
    rename: tuple[KeyRule, ...] = ()
    drop: tuple[str, ...] = ()
    normalise: Normalisation = Normalisation.model_validate("imagenet")
    contents: tuple[str, ...] = ()
    catalogue: str | None = None


class TimmSource(_Scaled):
    """timm's own pretrained weights of the scale's model, online or from the local cache.

    Attributes:
        timm: Pretrained tag such as ``a1_in1k``, or ``default``.
        normalise: Input scaling; that of the weights' ``pretrained_cfg`` if not given (or ``native``); ``as_paper`` is
            ImageNet's.
        contents: Data sets that the weights have seen.
    """

    timm: str
    normalise: Normalisation | None = None
    contents: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _native(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("normalise") == NATIVE:
            return {**raw, "normalise": None}
        return raw


class ByScaleSource(StrictModel):
    """Weights per scale. A scale of the study that is missing here is an exclusion with a reason."""

    by_scale: dict[str, CheckpointSource | TimmSource] = Field(min_length=1)

    @field_validator("by_scale", mode="before")
    @classmethod
    def _by_key(cls, raw: Any) -> Any:
        return {k: _weights(v) for k, v in raw.items()} if isinstance(raw, dict) else raw


class TransformSource(StrictModel):
    """Weights derived from another source.

    Attributes:
        of: Name of that source.
    """

    of: str


class MeanVarSpec(TransformSource):
    """Weights with the scale of trained ones and none of their features (Transfusion, Raghu et al. 2019).

    Attributes:
        draw: How each conv and linear tensor is made from the source's, by the trial's init seed: ``gaussian`` (i.i.d.
            from a normal with its mean and standard deviation, as in the paper), ``permutation`` (its own numbers in
            another order) or ``resampling`` (its own numbers, drawn with replacement).
        norm: What happens to normalisation layers: ``reset`` (weight 1, bias 0, mean 0, variance 1), ``resample``
            (affine drawn like the rest, statistics reset) or ``keep``.
    """

    transform: Literal["mean_var"]
    draw: Literal["gaussian", "permutation", "resampling"] = "gaussian"
    norm: Literal["reset", "resample", "keep"] = "reset"


class PartialSpec(TransformSource):
    """The bottom of a network from a source, the top random, all of it trained (Transfusion's weight transfusion).

    Attributes:
        transform: ``partial``: the source fills the whole model, and what lies above the cut is put back to its random
            start. ``slim``: the model's top is lighter than the source's, so only what lies below the cut is asked for.
        up_to: Last part that keeps the source's weights: ``conv1``, ``bn1``, ``layer1`` ... of a ResNet, ``Mixed_5``
            of Inception-v3, ``block2`` of a CBR net, ``stages.1`` of a ConvNeXt (``python -m orchestrator.sources
            show SCALE`` lists them). As families have different parts, also one per scale: ``{r50: layer2, vit:
            blocks.3}``; a scale that is missing there is an exclusion with a reason.
    """

    transform: Literal["partial", "slim"]
    up_to: str | dict[str, str]

    def cut(self, scale: str) -> str | None:
        """The cut point of a scale; None if it has none."""
        return self.up_to if isinstance(self.up_to, str) else self.up_to.get(scale)


class GaborSpec(_Scaled):
    """Random weights, with Gabor filters in the first convolution (Transfusion's synthetic filters).

    The paper's ranges are not published; these are this project's. Lengths are in sides of the kernel.

    Attributes:
        wavelength: Of the wave, never below 2 pixels.
        envelope: Standard deviation of the Gaussian across the wave.
        aspect: That standard deviation over the one along the wave fronts: 1 is round, less is elongated.
        normalise: Input scaling.
    """

    transform: Literal["gabor"]
    wavelength: Range = (0.3, 1.0)
    envelope: Range = (0.15, 0.35)
    aspect: Range = (0.5, 1.0)
    normalise: Normalisation = Normalisation.model_validate("imagenet")

    @model_validator(mode="after")
    def _ranges(self) -> GaborSpec:
        for name in ("wavelength", "envelope", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be 0 < low <= high, got {[low, high]}")
        return self


class UpstreamSpec(StrictModel):
    """The trial whose final backbone another trial starts from."""

    task: str
    data_fraction: Amount = Amount(kind="fraction", value=1.0)
    pretraining_source: str = "random"
    model_scale: str = "same"
    seed: Literal["same"] | Seed = "same"


class TrialSource(StrictModel):
    """The result of another trial, which the engine runs first."""

    trial: UpstreamSpec
    normalise: Normalisation | None = None
    """Input scaling; that of the upstream trial's own source if not given."""


Source = (
    RandomSource | CheckpointSource | TimmSource | ByScaleSource | MeanVarSpec | PartialSpec | GaborSpec | TrialSource
)
_FORMS: dict[str, type[StrictModel]] = {
    "init": RandomSource,
    "file": CheckpointSource,
    "timm": TimmSource,
    "by_scale": ByScaleSource,
    "trial": TrialSource,
}
_TRANSFORMS: dict[str, type[StrictModel]] = {
    "mean_var": MeanVarSpec,
    "partial": PartialSpec,
    "slim": PartialSpec,
    "gabor": GaborSpec,
}
_KEYS = ("init", "file", "catalogue", "timm", "by_scale", "transform", "trial")


def source_form(raw: Any) -> Any:
    """Validate by the key that names the form, so that an error speaks of that form alone."""
    if not isinstance(raw, dict):
        return raw
    if raw.get("catalogue") is not None:
        raw = _from_catalogue(raw)
    if "transform" in raw and not set(_FORMS) & set(raw):
        kind = str(raw["transform"])
        if kind not in _TRANSFORMS:
            raise ValueError(unknown("transform", kind, _TRANSFORMS))
        return _TRANSFORMS[kind].model_validate(raw)
    forms = [key for key in (*_FORMS, "transform") if key in raw]
    if len(forms) != 1:
        raise ValueError(f"a source has exactly one of the keys {', '.join(_KEYS)}; got {sorted(raw) or 'none'}")
    return _FORMS[forms[0]].model_validate(raw)


def _from_catalogue(raw: dict[str, Any]) -> dict[str, Any]:
    others = sorted({"init", "timm", "by_scale", "transform", "trial"} & set(raw))
    if others:
        raise ValueError(f"a catalogue entry stands alone or with file, not with {', '.join(others)}")
    return from_catalogue(raw)


def _weights(raw: Any) -> Any:
    if isinstance(raw, dict):
        if raw.get("catalogue") is not None:
            raw = _from_catalogue(raw)
        if "file" not in raw and "timm" not in raw:
            raise ValueError(f"weights of a scale need the key file (or catalogue, timm); got {sorted(raw) or 'none'}")
        return (CheckpointSource if "file" in raw else TimmSource).model_validate(raw)
    return raw
