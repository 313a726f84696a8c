"""MobileNetV2 for small images."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_sparse.checks import check_count
from lightning_sparse.models.resnet import shortcut

__all__ = ["MobileNetV2"]

# Expansion, channels, blocks and first stride of each stage.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """A 1 x 1 convolution that widens, one of 3 x 3 channel by channel, and a 1 x 1 that narrows.

    At stride 1 a shortcut stands beside them: the identity, or a 1 x 1 convolution where the width changes.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expansion: How often wider the inside is than the input.
        stride: Of the 3 x 3 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = expansion * in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, 1) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return cast(Tensor, branch if self.shortcut is None else branch + self.shortcut(x))


class MobileNetV2(nn.Module):
    """MobileNetV2 in its form for 32 x 32 images: 2,261,824 weights and 35,098 other parameters on CIFAR-10.

    The first convolution and the second stage keep the image's size, where the form for ImageNet halves it;
    activations are ReLU instead of ReLU6, and the shortcut of a block that changes the width is a
    convolution.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.

    Raises:
        SparsityError: If a size is no positive integer.

    Source:
        Sandler et al., "MobileNetV2", CVPR 2018 (arXiv:1801.04381). Strides, activations, shortcuts and the
        names of the layers are those of the DCTpS paper's code (github.com/IlanPrice/DCTpS).
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("num_classes", num_classes)
        width, last = 32, 1280
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = []
        for expansion, channels, count, stride in _STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(width, channels, expansion, 1 if index else stride))
                width = channels
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(width, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(last, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images shaped ``(N, in_channels, H, W)``, 32 x 32 as a rule."""
        x = self.layers(F.relu(self.bn1(self.conv1(images))))
        x = F.relu(self.bn2(self.conv2(x)))
        return cast(Tensor, self.linear(self.avgpool(x).flatten(1)))
