"""Which size images have in a trial: the scale's, what the protocol says, or a rule by the data set's images."""

from __future__ import annotations

from search_spaces.exceptions import UserError
from search_spaces.hyperrule import LARGEST_MODEL, resolution
from search_spaces.identity import ScaleCard, TaskCard
from search_spaces.protocol import Protocol
from search_spaces.study import ScaleSpec


def follows_rule(protocol: Protocol, scale: ScaleSpec) -> bool:
    """Whether the rule decides: it is written, or comes with the recipe and the scale's input size is not written."""
    if protocol.image_size != "hyperrule":
        return False
    return scale.input_size is None or "image_size" in protocol.model_fields_set


def rule_sizes(protocol: Protocol, scale: ScaleSpec, manifest: str, card: TaskCard | None) -> tuple[int, int]:
    """(side that images are resized to, side of the crop) by BiT-HyperRule.

    Args:
        protocol: Its variant counts; the text's reading if it has none.
        scale: The text gives R152x4 larger images.
        manifest: Name, for messages.
        card: The data set's; None if it could not be read.

    Raises:
        UserError: The manifest records no image sizes.
    """
    if card is None or card.image_area is None:
        raise UserError(
            f"manifest {manifest!r} records no image sizes, which protocol.image_size: hyperrule goes by; import it "
            "again with the images at hand, or write image_size: [resize, crop]"
        )
    name = str(scale.factory).removeprefix("timm:").partition(".")[0]
    return resolution(card.image_area, protocol.variant or "text", name == LARGEST_MODEL)


def with_sizes(protocol: Protocol, scale: ScaleSpec, manifest: str, card: TaskCard | None) -> Protocol:
    """The protocol of a scale and a data set: what a rule makes of the images is written as numbers.

    Args:
        protocol: As planned.
        scale: Of the cell.
        manifest: Of the cell's task.
        card: The manifest's.

    Raises:
        UserError: See ``rule_sizes``.
    """
    if protocol.image_size != "hyperrule":
        return protocol
    if not follows_rule(protocol, scale):
        return protocol.model_copy(update={"image_size": "scale"})
    sizes = rule_sizes(protocol, scale, manifest, card)
    return protocol.model_copy(update={"image_size": sizes, "storage_size": sizes[0]})


def input_size(name: str, scale: ScaleSpec, card: ScaleCard, protocol: Protocol) -> int:
    """Side in pixels of a model's input.

    Args:
        name: Of the scale, for messages.
        scale: What the study says of it.
        card: Facts about it.
        protocol: See ``with_sizes``.

    Raises:
        UserError: Nobody states a size, or the study states two.
    """
    if not isinstance(protocol.image_size, str):
        crop = protocol.image_size[1]
        if scale.input_size not in (None, crop):
            raise UserError(
                f"scales.{name}.input_size is {scale.input_size}, protocol.image_size says {crop}; leave one out"
            )
        return crop
    size = scale.input_size or card.input_size
    if size is None:
        raise UserError(f"scale {name!r}: {scale.factory} states no native input size; give scales.{name}.input_size")
    return size
