"""Networks with a lighter top, for Transfusion's "slim" experiment: pretrained bottom, fewer channels above.

Raghu et al. 2019, section 5: pretrained weights up to block2, then a random top of fewer channels, match full transfer.
The paper's factor is not known; a public port halves the channels, which is the default. Bottom tensors have the full
network's names and shapes, so a ``{transform: slim, of: ..., up_to: layer2}`` source fills them.

In a study: ``factory: "trainables.slim_nets:slim_resnet50"``, ``arguments: {shrink: 2}``, ``input_size: 224``.
"""

from __future__ import annotations

from torch import nn

from trainables.cbr_nets import CBR, Padding

_RESNET_CHANNELS = (64, 128, 256, 512)


def slim_resnet50(num_classes: int, shrink: float = 2, up_to: int = 2) -> nn.Module:
    """ResNet-50 whose stages above ``layer{up_to}`` have fewer channels.

    Args:
        num_classes: Outputs.
        shrink: Channels of the upper stages are divided by this, at least 1.
        up_to: Last stage of full width: 0 (the stem alone) to 3.

    Raises:
        ValueError: An argument out of its range.
    """
    import timm

    _check(shrink, up_to, len(_RESNET_CHANNELS) - 1)
    channels = tuple(c if n <= up_to else _divided(c, shrink) for n, c in enumerate(_RESNET_CHANNELS, start=1))
    model: nn.Module = timm.create_model("resnet50", pretrained=False, num_classes=num_classes, channels=channels)
    return model


def slim_cbr_small(
    num_classes: int, shrink: float = 2, up_to: int = 2, padding: Padding = "same", dropout: float = 0.0
) -> CBR:
    """CBR-Small whose units above ``block{up_to}`` have fewer channels; arguments as for ``slim_resnet50`` and CBR."""
    full = (32, 64, 128, 256)
    _check(shrink, up_to, len(full) - 1)
    channels = tuple(c if n <= up_to else _divided(c, shrink) for n, c in enumerate(full, start=1))
    return CBR(num_classes, channels, 7, padding, dropout=dropout)


def _check(shrink: float, up_to: int, most: int) -> None:
    if shrink < 1:
        raise ValueError(f"shrink must be at least 1, got {shrink}")
    if not 0 <= up_to <= most:
        raise ValueError(f"up_to must be 0 to {most}, got {up_to}")


def _divided(channels: int, shrink: float) -> int:
    return max(1, round(channels / shrink))
