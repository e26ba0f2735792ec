"""Residual networks for small images: a ladder of one width and growing depth.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (2015), section 4.2: a 3x3 convolution, three stages
of ``n`` basic blocks with 16, 32 and 64 channels (``width``, twice, four times), global average pooling and a linear
layer; depth 6n + 2. Shortcuts hold no weights (the paper's option A). Any input size works, 32 pixels is native.

Tensor names are those of the checkpoints published by github.com/akamaster/pytorch_resnet_cifar10
(``conv1``, ``bn1``, ``layer1.0.conv1``, ..., ``linear``), so that they load with ``strip_prefix: "module."``.

In a study: ``factory: "trainables.ladder_nets:resnet20"``, ``input_size: 32``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without weights.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output, at least ``channels_in``.
        stride: Stride of the first convolution, and of the shortcut.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self._stride = stride
        self._new_channels = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self._stride, :: self._stride]
        # The published weights were trained with half of the zero channels on either side.
        before = self._new_channels // 2
        return F.pad(x, (0, 0, 0, 0, before, self._new_channels - before)) if self._new_channels else x


class CifarResNet(nn.Module):
    """A residual network of depth 6n + 2.

    Args:
        num_classes: Outputs.
        depth: Number of layers with weights: 8, 14, 20, ...
        width: Channels of the first stage.

    Raises:
        ValueError: No such depth or width.
    """

    def __init__(self, num_classes: int, depth: int, width: int = 16) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 with n of at least 1 (8, 14, 20, ...), got {depth}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.linear = nn.Linear(4 * width, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """Convolutions as in He et al. 2015, "Delving Deep into Rectifiers", equation 10; batch norm as identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 4 * width, H / 4, W / 4), sizes rounded up."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, num_classes)."""
        return self.linear(torch.mean(self.forward_features(x), dim=(2, 3)))  # type: ignore[no-any-return]


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)))


def resnet8(num_classes: int, width: int = 16) -> CifarResNet:
    """Depth 8, one block per stage."""
    return CifarResNet(num_classes, depth=8, width=width)


def resnet14(num_classes: int, width: int = 16) -> CifarResNet:
    """Depth 14, two blocks per stage."""
    return CifarResNet(num_classes, depth=14, width=width)


def resnet20(num_classes: int, width: int = 16) -> CifarResNet:
    """Depth 20, three blocks per stage."""
    return CifarResNet(num_classes, depth=20, width=width)


def resnet32(num_classes: int, width: int = 16) -> CifarResNet:
    """Depth 32, five blocks per stage."""
    return CifarResNet(num_classes, depth=32, width=width)


def resnet44(num_classes: int, width: int = 16) -> CifarResNet:
    """Depth 44, seven blocks per stage."""
    return CifarResNet(num_classes, depth=44, width=width)


def resnet56(num_classes: int, width: int = 16) -> CifarResNet:
    """Depth 56, nine blocks per stage."""
    return CifarResNet(num_classes, depth=56, width=width)


def resnet110(num_classes: int, width: int = 16) -> CifarResNet:
    """Depth 110, eighteen blocks per stage."""
    return CifarResNet(num_classes, depth=110, width=width)
