"""A scale's network as the encoder of a U-Net, for tasks that label pixels (Ronneberger et al. 2015).

Decoder and head are those of segmentation_models_pytorch, which has kept them alike for years: nearest upsampling,
skips by concatenation, two 3 x 3 convolutions with batch norm per level, 256-128-64-32-16 channels (of a shallower
encoder the last ones). The encoder is

- of a timm scale the library's ``tu-`` encoder, which is timm's ``features_only`` network;
- of a torchvision network or a factory of one's own the feature extractor that torchvision traces from the classifier
  with torch.fx: at each resolution the last map before the head.

Either holds the tensors of the scale's classifier, whose names they keep in ``EncoderNames``: so every source fills the
encoder by the classifier's names, all of it or not at all, and the decoder always starts fresh.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.exceptions import UserError
from search_spaces.trial import ResolvedScale
from trainables.factories import Factory, Origin
from trainables.meta_device import NothingDrawn
from trainables.parts import Part, parts_of

DECODER_CHANNELS = (256, 128, 64, 32, 16)
MOST_LEVELS = len(DECODER_CHANNELS)

WHAT_WORKS = (
    "What works: convolutional networks and transformers whose maps halve from stage to stage, such as timm's resnet, "
    "efficientnet, convnext and swin, torchvision's resnet, densenet, vgg and squeezenet, and a factory of your own "
    "that torch.fx can trace"
)

_HALVED = (0.35, 0.6)
"""Side of a map over that of the level before, for the next level: pooling without padding is not exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderNames:
    """Where the classifier's tensors are in a U-Net.

    Attributes:
        names: Name in the state dict of the U-Net -> name in that of the scale's classifier; the whole encoder.
        unused: The classifier's tensors that the encoder has no use for: of its last layers, without the head.
        head: The classifier's head.
        parts: The classifier's parts without what the encoder has no use for, of tensors by their names in the U-Net.
    """

    names: Mapping[str, str]
    unused: frozenset[str]
    head: tuple[str, ...]
    parts: tuple[Part, ...]


class UNet(nn.Module):
    """Encoder, decoder and head.

    Args:
        encoder: (B, 3, s, s) to maps from the image itself down to the smallest.
        channels: Of these maps.
        num_classes: Outputs per pixel.
        encoder_path: Path of the module inside the encoder that holds the classifier's tensors.
    """

    def __init__(self, encoder: nn.Module, channels: Sequence[int], num_classes: int, encoder_path: str) -> None:
        super().__init__()
        smp = _library()
        levels = len(channels) - 1
        self.encoder, self.channels = encoder, tuple(channels)
        self.decoder = smp.decoders.unet.decoder.UnetDecoder(
            encoder_channels=channels, decoder_channels=DECODER_CHANNELS[-levels:], n_blocks=levels
        )
        self.segmentation_head = smp.base.SegmentationHead(DECODER_CHANNELS[-1], num_classes, kernel_size=3)
        smp.base.initialization.initialize_decoder(self.decoder)
        smp.base.initialization.initialize_head(self.segmentation_head)
        self.encoder_path = f"encoder.{encoder_path}"
        self.parts: tuple[Part, ...] = ()
        """See ``EncoderNames``; set by who knows the classifier."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, num_classes, s, s) logits from (B, 3, s, s)."""
        logits: Tensor = self.segmentation_head(self.decoder(self.encoder(images)))
        return logits


class TracedEncoder(nn.Module):
    """Maps of a traced classifier.

    Args:
        net: Images to maps by name.
        nodes: These names, largest map first.
    """

    def __init__(self, net: nn.Module, nodes: Sequence[str]) -> None:
        super().__init__()
        self.net, self._nodes = net, tuple(nodes)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The images, and the maps."""
        maps = self.net(images)
        return [images, *(maps[name] for name in self._nodes)]


def make_unet(factory: Factory, scale: ResolvedScale, num_classes: int, head: Sequence[str]) -> UNet:
    """A U-Net with freshly drawn weights.

    Args:
        factory: Of the scale.
        scale: Its arguments and input size.
        num_classes: Outputs per pixel.
        head: Names of the classifier's head.

    Raises:
        UserError: The network has no maps of halving resolution, cannot be traced, or the library is not installed.
    """
    _library()
    if factory.origin is Origin.TIMM:
        return _of_timm(factory, scale, num_classes)
    return _traced(factory, scale, num_classes, head)


def encoder_names(unet: UNet, classifier: nn.Module, head: Sequence[str], what: str) -> EncoderNames:
    """Match the tensors of a U-Net's encoder with those of the classifier it was made from.

    timm flattens some names (``stages.0.downsample`` is ``stages_0.downsample``); apart from that they are alike.

    Args:
        unet: The U-Net.
        classifier: Of the same scale; its numbers are not looked at.
        head: Names of its head.
        what: Names the scale; starts the message.

    Raises:
        UserError: A tensor of the encoder is not in the classifier, so that no source could be trusted to fill it.
    """
    own = classifier.state_dict()
    known = {_flat(name): name for name in own}
    if len(known) != len(own):
        raise UserError(f"{what}: names of its tensors differ in dots only; that is not supported with masks")
    prefix = f"{unet.encoder_path}."
    names: dict[str, str] = {}
    for name, tensor in unet.state_dict().items():
        if name.startswith("encoder."):
            found = known.get(_flat(name.removeprefix(prefix)))
            if found is None or own[found].shape != tensor.shape:
                raise UserError(f"{what}: tensor {name} of its encoder is not one of the network itself. {WHAT_WORKS}")
            names[name] = found
    used = {*names.values(), *head}
    here = {theirs: ours for ours, theirs in names.items()}
    parts = [
        Part(name=p.name, tensors=tuple(here[t] for t in p.tensors if t in here)) for p in parts_of(classifier, head)
    ]
    return EncoderNames(
        names=names,
        unused=frozenset(name for name in own if name not in used),
        head=tuple(head),
        parts=tuple(part for part in parts if part.tensors),
    )


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _library() -> Any:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise UserError(
            f"masks need segmentation_models_pytorch, which cannot be imported ({error}); install it with: pip install "
            "'scalecurves[segmentation]'"
        ) from error
    return smp


def _of_timm(factory: Factory, scale: ResolvedScale, num_classes: int) -> UNet:
    keywords = factory.keywords(scale.arguments, scale.input_size)
    levels = _timm_levels(factory, keywords, scale)
    encoder_of = _library().encoders.get_encoder
    try:
        with NothingDrawn():  # the library looks at the model on the meta device first
            encoder = encoder_of(f"tu-{factory.name}", in_channels=3, depth=levels, weights=None, **keywords)
    except Exception as error:
        raise _refusal(scale, factory, f"its maps cannot be had ({type(error).__name__}: {error})") from error
    return UNet(encoder, encoder.out_channels, num_classes, "model")


def _timm_levels(factory: Factory, keywords: Mapping[str, Any], scale: ResolvedScale) -> int:
    """Halvings of the resolution that timm states for the maps of a model."""
    import timm

    try:
        with torch.device("meta"), NothingDrawn():
            info = timm.create_model(factory.name, features_only=True, **keywords).feature_info
        reductions = list(info.reduction())
    except Exception as error:
        raise _refusal(scale, factory, f"timm gives no maps of it ({type(error).__name__}: {error})") from error
    if any(b != 2 * a for a, b in itertools.pairwise(reductions)) or len(reductions) < 2 or reductions[0] > 4:
        raise _refusal(scale, factory, f"its maps are {reductions} times smaller than the image, not halved each time")
    return min(int(reductions[-1]).bit_length() - 1, MOST_LEVELS)


def _refusal(scale: ResolvedScale, factory: Factory, why: str) -> UserError:
    return UserError(f"scale {scale.name!r}: {factory.text} cannot be the encoder of a U-Net: {why}. {WHAT_WORKS}")


def _traced(factory: Factory, scale: ResolvedScale, num_classes: int, head: Sequence[str]) -> UNet:
    from torchvision.models.feature_extraction import create_feature_extractor

    classifier = factory.make(num_classes, scale.arguments, scale.input_size)
    nodes, channels = _levels(classifier, factory, scale, head)
    net = create_feature_extractor(classifier, return_nodes=list(nodes), suppress_diff_warning=True)
    return UNet(TracedEncoder(net, nodes), (3, *channels), num_classes, "net")


def _levels(
    classifier: nn.Module, factory: Factory, scale: ResolvedScale, head: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Names and channels of the last map of each resolution below the image's, before the head."""
    maps = _maps(classifier, factory, scale, head)
    last: dict[int, tuple[str, int]] = {}
    side = scale.input_size
    for name, shape in maps:
        if shape[2] <= side:
            side = shape[2]
            last[side] = (name, shape[1])
    chosen: list[tuple[str, int]] = []
    above = scale.input_size
    for side in sorted(last, reverse=True):
        if side == above:
            continue
        if not _HALVED[0] * above <= side <= _HALVED[1] * above:
            break
        chosen.append(last[side])
        above = side
    if not chosen:
        sides = sorted(last, reverse=True)
        raise _refusal(scale, factory, f"its maps of {scale.input_size} px images have sides {sides}, not halved")
    chosen = chosen[:MOST_LEVELS]
    return [name for name, _ in chosen], [channels for _, channels in chosen]


def _maps(
    classifier: nn.Module, factory: Factory, scale: ResolvedScale, head: Sequence[str]
) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of each square map in the order of computation, up to the head."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    heads = {name.rpartition(".")[0] for name in head}
    try:
        in_training, names = get_graph_node_names(classifier, suppress_diff_warning=True)
        shared = [name for name in names if name in set(in_training)]
        every = create_feature_extractor(classifier, return_nodes=shared, suppress_diff_warning=True).eval()
        size = scale.input_size
        with torch.no_grad():
            found = every(torch.zeros(1, 3, size, size, device=next(classifier.parameters()).device))
    except Exception as error:
        why = f"torch.fx cannot trace it ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else '-'})"
        raise _refusal(scale, factory, why) from error
    maps = []
    for name in shared:
        if any(name == module or name.startswith(f"{module}.") for module in heads):
            break
        value = found[name]
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] == value.shape[3]:
            maps.append((name, tuple(value.shape)))
    return maps
