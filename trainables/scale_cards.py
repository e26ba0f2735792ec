"""Cards of model scales: family, ladder, size and cost of one image, counted without allocating a single number.

Networks are built on torch's meta device, which knows shapes and no values. Operations are those of
``torch.utils.flop_counter`` (a multiplication and an addition count as two, so 2.0 GFLOPs are 1.0 GMACs); activation
memory is what autograd keeps for the backward pass, in float32, with attention matrices (fused attention keeps less).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.exceptions import UserError
from search_spaces.ladders import ladder_of
from search_spaces.normalisation import NORMALISATIONS
from search_spaces.trial import ResolvedScale
from trainables.factories import Factory, Origin, find_factory
from trainables.meta_device import without_numbers
from trainables.models import model_facts
from trainables.parts import layer_depths, parts_of
from trainables.random_state import own_random_state
from trainables.shipped_cards import OUTPUTS, OWN_SCALES, TORCHVISION, ModelCard, Scaling
from trainables.unet import make_unet
from trainables.unet_costs import UnetCosts

_BATCHES = (2, 4)
"""Images of the counted passes (some batch norm layers refuse one). Memory is their difference: what does not grow with
the images, such as standardised weights, is no part of an image's share."""


def timm_families() -> dict[str, tuple[str, ...]]:
    """timm's families (its modules) -> names of their models."""
    import timm

    return {family: tuple(timm.list_models(module=family)) for family in timm.list_modules()}


def torchvision_names() -> tuple[str, ...]:
    """torchvision's networks for classification, as studies write them."""
    import torchvision

    return tuple(f"{TORCHVISION}:{name}" for name in torchvision.models.list_models(module=torchvision.models))


def family_of(factory: Factory) -> str:
    """See ``ModelCard.family``."""
    if factory.origin is Origin.TIMM:
        from timm.models import model_entrypoint

        return str(model_entrypoint(factory.name).__module__).rpartition(".")[2]
    if factory.origin is Origin.TORCHVISION:
        return TORCHVISION
    known = OWN_SCALES.get(factory.name)
    return known[0] if known else factory.name.partition(":")[0]


def model_card(
    text: str,
    arguments: Mapping[str, Any] | None = None,
    input_size: int | None = None,
    num_classes: int = OUTPUTS,
    import_paths: tuple[str, ...] = (),
) -> ModelCard:
    """Build a scale on the meta device and count it.

    Args:
        text: The factory, as in a study.
        arguments: Of the scale.
        input_size: Side in pixels; the model's native size if not given.
        num_classes: Outputs.
        import_paths: Folders in which a user's module is looked up first.

    Raises:
        UserError: No such factory, no size, or a model that cannot be built or run without numbers.
    """
    factory = find_factory(text, import_paths)
    size = input_size or factory.native_size or OWN_SCALES.get(factory.name, ("", None))[1]
    if size is None:
        raise UserError(f"{text} states no native input size; give one")
    given = dict(arguments or {})
    with _counted(text, size):
        module = without_numbers(lambda: factory.make(num_classes, given, size))
        wider = without_numbers(lambda: factory.make(num_classes + 1, given, size))
        gflops, activation_mib = _cost_of_image(module, size)
    shapes = {n: t.shape for n, t in wider.state_dict().items()}
    head = tuple(n for n, t in module.state_dict().items() if shapes.get(n) != t.shape)
    trained = {n: p.numel() for n, p in module.named_parameters() if p.requires_grad}
    scaling, tags = _published(factory)
    return ModelCard(
        factory=text,
        family=family_of(factory),
        ladder=ladder_of(factory.name if factory.origin is Origin.TIMM else factory.text, arguments),
        depth=max(layer_depths(module).values()) + 1,
        width=_width(module, head),
        parameters=sum(trained.values()),
        backbone_parameters=sum(n for name, n in trained.items() if name not in head),
        num_classes=num_classes,
        input_size=size,
        gflops=gflops,
        activation_mib=activation_mib,
        native_size=factory.native_size,
        mean=scaling[0] if scaling else None,
        std=scaling[1] if scaling else None,
        tags=tags,
        cut_points=tuple(part.name for part in parts_of(module, head)),
    )


def unet_costs(scale: ResolvedScale, num_outputs: int, import_paths: tuple[str, ...] = ()) -> UnetCosts:
    """Build the U-Net of a scale on the meta device and count it.

    Args:
        scale: The encoder.
        num_outputs: Outputs per pixel.
        import_paths: Folders in which a user's module is looked up first.

    Raises:
        UserError: The scale cannot be an encoder, or not be built or run without numbers.
    """
    factory = find_factory(scale.factory, import_paths)
    head = model_facts(scale, num_outputs, import_paths).head
    with _counted(f"the U-Net of {factory.text}", scale.input_size):
        module = make_unet(factory, scale, num_outputs, head)
        gflops, activation_mib = _cost_of_image(module, scale.input_size)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return UnetCosts(parameters=trained, gflops=gflops, activation_mib=activation_mib)


@contextmanager
def _counted(what: str, size: int) -> Iterator[None]:
    """Where networks are built without numbers, and what fails is refused."""
    try:
        with torch.device("meta"), own_random_state(0):
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be counted at {size} pixels: {type(error).__name__}: {error}") from error


def _cost_of_image(module: nn.Module, size: int) -> tuple[float, float]:
    """(1e9 operations, MiB kept for backward) that an image adds to a batch."""
    few, many = (_cost(module.train(), size, images) for images in _BATCHES)
    gflops, mib = ((more - less) / (_BATCHES[1] - _BATCHES[0]) for less, more in zip(few, many, strict=True))
    return round(gflops, 6), round(mib, 3)


def _cost(module: nn.Module, size: int, images: int) -> tuple[float, float]:
    """(1e9 operations, MiB kept for backward) of a batch."""
    own = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept.setdefault(storage, tensor)  # held, so that its storage's address is not given to another
        return tensor

    batch = torch.empty(images, 3, size, size, device="meta")
    counter = FlopCounterMode(display=False)
    with warnings.catch_warnings(), counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        warnings.simplefilter("ignore")
        module(batch)
    mib = sum(t.untyped_storage().nbytes() for t in kept.values()) / 2**20
    return counter.get_total_flops() / 1e9, mib


def _width(module: nn.Module, head: tuple[str, ...]) -> int:
    """As timm says: heads may read several features side by side, and an encoder has none."""
    stated = getattr(module, "head_hidden_size", None)
    if isinstance(stated, int) and stated > 0:
        return stated
    weights = [t for n, t in module.state_dict().items() if n in head and t.ndim >= 2]
    return int(weights[0].shape[1]) if weights else 0


def _published(factory: Factory) -> tuple[Scaling | None, tuple[str, ...]]:
    """Input scaling of the default weights, and all tags that have some."""
    if factory.origin is Origin.TIMM:
        from trainables.timm_weights import published_weights

        scaling, _ = published_weights(factory)
        return scaling.get("default"), tuple(tag for tag in scaling if tag != "default")
    if factory.origin is Origin.TORCHVISION:
        return NORMALISATIONS["imagenet"], ()
    return None, ()
