"""The small convolutional networks of Transfusion: repeated convolution, batch normalisation, ReLU, max pooling.

Raghu, Zhang, Kleinberg, Bengio, "Transfusion: Understanding Transfer Learning for Medical Imaging" (2019), appendix:
each unit is a convolution of stride 1 followed by a 3x3 max pool of stride 2; then global average pooling and a linear
layer. Channels and kernels are the paper's; what it leaves open (padding, whether LargeT has its last pool, dropout,
the width of Tiny) is an argument. Weights start as torch starts them; the paper's own initialisation is not known.

In a study: ``factory: "trainables.cbr_nets:cbr_small"``, ``input_size: 224``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Padding = Literal["same", "valid"]


class CBR(nn.Module):
    """Units ``block1``, ``block2``, ... of convolution, batch normalisation, ReLU and max pool.

    Args:
        num_classes: Outputs.
        channels: Of each unit's convolution.
        kernel_size: Side of the convolutions, odd.
        padding: ``same``: convolutions keep the size and pools round up; ``valid``: no padding anywhere, as in public
            ports.
        last_pool: Whether the last unit ends in a pool.
        dropout: Probability of dropping a feature before the linear layer.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        channels: Sequence[int],
        kernel_size: int,
        padding: Padding = "same",
        last_pool: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be same or valid, got {padding!r}")
        if not channels or min(channels) < 1:
            raise ValueError(f"channels must be at least 1 and of at least one unit, got {list(channels)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        inputs = (3, *channels[:-1])
        for number, (channels_in, channels_out) in enumerate(zip(inputs, channels, strict=True), start=1):
            pooled = last_pool or number < len(channels)
            self.add_module(f"block{number}", _unit(channels_in, channels_out, kernel_size, padding, pooled))
        self.depth = len(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels[-1], num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, channels[-1], h, w)."""
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"block{number}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, num_classes)."""
        out: Tensor = self.fc(self.dropout(self.pool(self.forward_features(x)).flatten(1)))
        return out


def _unit(channels_in: int, channels: int, kernel_size: int, padding: Padding, pooled: bool) -> nn.Sequential:
    same = padding == "same"
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(channels_in, channels, kernel_size, padding=kernel_size // 2 if same else 0),
        bn=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
    )
    if pooled:
        layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1 if same else 0)
    return nn.Sequential(layers)


def cbr_large_t(num_classes: int, padding: Padding = "same", last_pool: bool = False, dropout: float = 0.0) -> CBR:
    """CBR-LargeT: 7x7, 32-64-128-256-512. The paper lists no pool after the last unit."""
    return CBR(num_classes, (32, 64, 128, 256, 512), 7, padding, last_pool, dropout)


def cbr_large_w(num_classes: int, padding: Padding = "same", last_pool: bool = True, dropout: float = 0.0) -> CBR:
    """CBR-LargeW: 7x7, 64-128-256-512."""
    return CBR(num_classes, (64, 128, 256, 512), 7, padding, last_pool, dropout)


def cbr_small(num_classes: int, padding: Padding = "same", last_pool: bool = True, dropout: float = 0.0) -> CBR:
    """CBR-Small: 7x7, 32-64-128-256."""
    return CBR(num_classes, (32, 64, 128, 256), 7, padding, last_pool, dropout)


def cbr_tiny(
    num_classes: int, padding: Padding = "same", last_pool: bool = True, dropout: float = 0.0, width: int = 64
) -> CBR:
    """CBR-Tiny: 5x5, width to 8 x width.

    Args:
        num_classes: Outputs.
        padding: See CBR.
        last_pool: See CBR.
        dropout: See CBR.
        width: Channels of the first unit. The paper lists 64-128-256-512, which has twice the parameters of Small; 32
            gives a net that is as small as its name.
    """
    return CBR(num_classes, (width, 2 * width, 4 * width, 8 * width), 5, padding, last_pool, dropout)
