"""Models of a scale: built from a seed, with the tensors of their head known by name.

The head is what depends on the number of outputs: two models of the scale are compared on torch's meta device, which
holds no numbers, so this works for any factory and costs milliseconds. What was learnt about a scale is kept for the
life of the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_spaces.exceptions import UserError
from search_spaces.identity import ScaleCard, canonical
from search_spaces.study import ScaleSpec
from search_spaces.trial import ResolvedScale
from trainables.factories import Factory, Origin, find_factory
from trainables.meta_device import NothingDrawn
from trainables.random_state import own_random_state
from trainables.timm_weights import published_weights
from trainables.unet import EncoderNames, encoder_names, make_unet

FEW_PARAMETERS = 10_000_000
"""Up to here a model is tried with numbers: 40 MB. A forward pass on the meta device makes torch import its compiler,
which takes 160 MB and seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known about a model without its weights.

    Attributes:
        head: Names (of the state dict) of the tensors whose shape depends on the number of outputs.
        parameters: Trainable numbers, head included.
        backbone_parameters: Trainable numbers without the head.
        encoder: Of a U-Net: the classifier's names of what is not its head, which is the decoder with its last layer.
    """

    head: tuple[str, ...]
    parameters: int
    backbone_parameters: int
    encoder: EncoderNames | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A model with freshly drawn weights, on the CPU, in float32 and training mode.

    Attributes:
        module: (B, 3, input_size, input_size) to (B, num_outputs), or a U-Net to (B, num_outputs, input_size,
            input_size).
        scale: What it was built from.
        factory: What built it.
        head, parameters, backbone_parameters, encoder: See ModelFacts.
    """

    module: nn.Module
    scale: ResolvedScale
    factory: Factory
    head: tuple[str, ...]
    parameters: int
    backbone_parameters: int
    encoder: EncoderNames | None = None


def build_model(
    scale: ResolvedScale, num_outputs: int, seed: int, import_paths: Sequence[str] = (), dense: bool = False
) -> BuiltModel:
    """Build a model; the same scale, outputs and seed give the same weights, whatever happened in the process before.

    Args:
        scale: What to build.
        num_outputs: Outputs, at least 1.
        seed: Seed of the initial weights, at least 0. Neither uses nor changes the global random state.
        import_paths: Folders in which a user's module is looked up first.
        dense: Whether each pixel has outputs: a U-Net with the scale as encoder (``trainables.unet``).

    Raises:
        UserError: The factory is unknown, fails, has changed since the study was planned, or makes a model that does
            not turn images of the scale's size into finite outputs, or cannot be an encoder.
    """
    if num_outputs < 1:
        raise ValueError(f"num_outputs must be at least 1, got {num_outputs}")
    factory = find_factory(scale.factory, import_paths)
    if scale.factory_sha256 is not None and factory.sha256 != scale.factory_sha256:
        raise UserError(
            f"scale {scale.name!r}: the code of {scale.factory} has changed since the study was planned "
            f"(was {scale.factory_sha256[:8]}, is {str(factory.sha256)[:8]}); plan and run the study again"
        )
    facts = _facts(factory, scale, num_outputs)
    classifier_head = facts.head
    if dense:
        facts = _dense_facts(factory, scale, num_outputs, classifier_head)
    with own_random_state(seed):
        if dense:
            module: nn.Module = make_unet(factory, scale, num_outputs, classifier_head)
            assert facts.encoder is not None
            module.parts = facts.encoder.parts  # type: ignore[assignment]
        else:
            module = factory.make(num_outputs, scale.arguments, scale.input_size)
        module = module.to(torch.float32)
    _refuse_non_finite(module, factory, scale, num_outputs, dense)
    return BuiltModel(
        module=module.train(),
        scale=scale,
        factory=factory,
        head=facts.head,
        parameters=facts.parameters,
        backbone_parameters=facts.backbone_parameters,
        encoder=facts.encoder,
    )


def model_facts(scale: ResolvedScale, num_outputs: int, import_paths: Sequence[str] = ()) -> ModelFacts:
    """Head and size of a model, without building its weights where the factory allows that.

    Raises:
        UserError: As for build_model.
    """
    return _facts(find_factory(scale.factory, import_paths), scale, num_outputs)


def check_scale(name: str, spec: ScaleSpec, import_paths: Sequence[str] = ()) -> None:
    """Refuse a scale that could not be trained.

    Args:
        name: Name of the scale; its factory if ``spec`` names none.
        spec: What the study says.
        import_paths: Folders in which a user's module is looked up first.

    Raises:
        UserError: As for build_model.
    """
    factory = find_factory(spec.factory or name, import_paths)
    size = spec.input_size or factory.native_size
    if size is not None:
        scale = ResolvedScale(name=name, factory=factory.text, arguments=spec.arguments, input_size=size)
        _facts(factory, scale, num_outputs=2)


def scale_card(text: str, import_paths: Sequence[str] = ()) -> ScaleCard:
    """Facts about a scale that its trials' identity needs; nothing is built.

    Args:
        text: The factory, as in a study.
        import_paths: Folders in which a user's module is looked up first.

    Raises:
        UserError: No such factory, or it does not take ``num_classes``.
    """
    factory = find_factory(text, import_paths)
    normalise, revision = published_weights(factory) if factory.origin is Origin.TIMM else (None, None)
    return ScaleCard(
        input_size=factory.native_size, factory_sha256=factory.sha256, normalise=normalise, revision=revision
    )


_known_facts: dict[tuple[object, ...], ModelFacts] = {}
_known_dense_facts: dict[tuple[object, ...], ModelFacts] = {}
_seen_finite: set[tuple[object, ...]] = set()


def _key(factory: Factory, scale: ResolvedScale, num_outputs: int) -> tuple[object, ...]:
    return (factory.text, factory.sha256, canonical(scale.arguments), scale.input_size, num_outputs)


def _facts(factory: Factory, scale: ResolvedScale, num_outputs: int) -> ModelFacts:
    key = _key(factory, scale, num_outputs)
    if key not in _known_facts:
        try:
            facts = _measure(factory, scale, num_outputs, torch.device("meta"))
        except Exception:
            # Some factories and models read numbers, which meta tensors do not have. With numbers, what fails is real.
            facts = _measure(factory, scale, num_outputs, torch.device("cpu"))
        _known_facts[key] = facts
    return _known_facts[key]


def _dense_facts(
    factory: Factory, scale: ResolvedScale, num_outputs: int, classifier_head: tuple[str, ...]
) -> ModelFacts:
    """Facts of a U-Net. With numbers: a forward pass shows which maps there are."""
    key = _key(factory, scale, num_outputs)
    if key not in _known_dense_facts:
        with own_random_state(0):
            unet = make_unet(factory, scale, num_outputs, classifier_head)
            classifier = factory.make(num_outputs, scale.arguments, scale.input_size)
        encoder = encoder_names(unet, classifier, classifier_head, f"scale {scale.name!r}: {factory.text}")
        head = tuple(n for n in unet.state_dict() if n not in encoder.names)
        trainable = {n: p.numel() for n, p in unet.named_parameters() if p.requires_grad}
        parameters = sum(trainable.values())
        _known_dense_facts[key] = ModelFacts(
            head=head,
            parameters=parameters,
            backbone_parameters=parameters - sum(trainable.get(n, 0) for n in head),
            encoder=encoder,
        )
    return _known_dense_facts[key]


def _measure(factory: Factory, scale: ResolvedScale, num_outputs: int, device: torch.device) -> ModelFacts:
    with device, NothingDrawn(), own_random_state(0):
        model = factory.make(num_outputs, scale.arguments, scale.input_size)
        wider = factory.make(num_outputs + 1, scale.arguments, scale.input_size)
        head = _head(model, wider, factory, num_outputs)
    trainable = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    parameters = sum(trainable.values())
    if device.type == "meta" and parameters <= FEW_PARAMETERS:
        device = torch.device("cpu")
        with own_random_state(0):
            model = factory.make(num_outputs, scale.arguments, scale.input_size)
    with device, own_random_state(0):
        for training in (True, False):  # auxiliary outputs often exist in one of the modes only
            outputs_of(model.train(training), factory, scale, num_outputs, device)
    return ModelFacts(
        head=head,
        parameters=parameters,
        backbone_parameters=parameters - sum(trainable.get(n, 0) for n in head),
    )


def _head(model: nn.Module, wider: nn.Module, factory: Factory, num_outputs: int) -> tuple[str, ...]:
    shapes, wider_shapes = ({n: t.shape for n, t in m.state_dict().items()} for m in (model, wider))
    if shapes.keys() != wider_shapes.keys():
        raise UserError(
            f"{factory.text} makes models whose tensors' names depend on num_classes; that is not supported"
        )
    head = tuple(n for n, shape in shapes.items() if shape != wider_shapes[n])
    if not head:
        raise UserError(
            f"{factory.text} makes the same model for {num_outputs} and {num_outputs + 1} outputs: "
            "it must use num_classes for its last layer"
        )
    if len(head) == len(shapes):
        raise UserError(
            f"{factory.text} makes models in which every tensor depends on num_classes: there is no backbone"
        )
    return head


def outputs_of(
    model: nn.Module,
    factory: Factory,
    scale: ResolvedScale,
    num_outputs: int,
    device: torch.device,
    dense: bool = False,
) -> Tensor:
    """Outputs for two images of noise, (2, num_outputs), of a U-Net (2, num_outputs, input_size, input_size).

    Raises:
        UserError: The model fails, or its outputs are of another shape.
    """
    size = scale.input_size
    wanted = (2, num_outputs, size, size) if dense else (2, num_outputs)
    images = torch.randn(2, 3, size, size, device=device)
    try:
        with torch.no_grad():
            outputs = model(images)
    except Exception as error:
        raise UserError(
            f"scale {scale.name!r}: {factory.text} fails on images of {size} x {size} pixels: "
            f"{type(error).__name__}: {error}{_native_hint(factory, size)}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.shape != wanted:
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        mode = "training" if model.training else "evaluation"
        raise UserError(
            f"scale {scale.name!r}: {factory.text} must turn 2 images (2, 3, {size}, {size}) into outputs of shape "
            f"{wanted}; in {mode} mode it gives {got}"
        )
    return outputs


def _native_hint(factory: Factory, size: int) -> str:
    return f" (its native size is {factory.native_size})" if factory.native_size not in (None, size) else ""


def _refuse_non_finite(
    module: nn.Module, factory: Factory, scale: ResolvedScale, num_outputs: int, dense: bool
) -> None:
    """Try the real weights once per process and kind of model."""
    key = (*_key(factory, scale, num_outputs), dense)
    if key in _seen_finite:
        return
    with own_random_state(0):
        outputs = outputs_of(module.eval(), factory, scale, num_outputs, torch.device("cpu"), dense)
    if not bool(torch.isfinite(outputs).all()):
        raise UserError(f"scale {scale.name!r}: {factory.text} gives outputs that are not finite with fresh weights")
    _seen_finite.add(key)
