"""A ladder of very small networks that learn the phantoms in about a second on one core."""

from __future__ import annotations

from torch import Tensor, nn


class PhantomNet(nn.Module):
    """Four 3x3 convolutions with batch normalisation, global average pooling and a linear layer.

    Args:
        num_classes: Outputs.
        width: Channels of the first convolution; the others have two, four and four times as many.
    """

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 4 * width, 4 * width)
        strides = (2, 1, 2, 1)
        blocks = [_block(channels[k], channels[k + 1], stride) for k, stride in enumerate(strides)]
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, num_classes); made for 32 x 32."""
        out: Tensor = self.head(self.pool(self.features(x)).flatten(1))
        return out


def phantom_net(num_classes: int, width: int = 8) -> PhantomNet:
    """In a study: ``{factory: "trainables.phantom_nets:phantom_net", arguments: {width: 8}, input_size: 32}``."""
    return PhantomNet(num_classes, width)


def _block(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())
