"""Residual networks with batch normalisation, for small and for large images."""

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias, cast, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_sparse.checks import check_choice, check_count, check_counts

__all__ = ["ResNet", "ResNet18", "ResNet34", "ResNet50", "Stem", "shortcut"]

Stem: TypeAlias = Literal["cifar", "imagenet"]
"""What comes before the stages; see ``ResNet``."""

_STAGES = 4


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut.

    Args:
        in_channels: Channels of the input.
        width: Channels inside and of the output.
        stride: Of the first convolution and of the shortcut.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, width, H / stride, W / stride)``."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + self.shortcut(x))


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 beside a shortcut; the output is four times as wide.

    Args:
        in_channels: Channels of the input.
        width: Channels inside.
        stride: Of the 3 x 3 convolution and of the shortcut.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, 4 width, H / stride, W / stride)``."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return F.relu(branch + self.shortcut(x))


class ResNet(nn.Module, ABC):
    """Four stages of residual blocks behind a convolution. Children say which blocks, and how many.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.
        stem: ``"cifar"`` is a 3 x 3 convolution, which keeps the image's size; ``"imagenet"`` one of 7 x 7
            with stride 2, and max pooling with stride 2, as in the paper and in torchvision.

    Raises:
        SparsityError: If a size is no positive integer, the stem is unknown, or a child's ``num_blocks``
            are not four positive integers.

    Source:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385); the small
        stem, and the names of the layers, are those of the DCTpS paper's code (github.com/IlanPrice/DCTpS).
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        stem: Stem = "cifar",
    ) -> None:
        super().__init__()
        block, num_blocks = self.block, self.num_blocks
        check_counts("num_blocks", num_blocks, _STAGES, "There is a number for each stage.")
        check_count("in_channels", in_channels)
        check_count("num_classes", num_classes)
        check_choice("stem", stem, get_args(Stem))
        small = stem == "cifar"
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(block, 64, 64, num_blocks[0], stride=1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, num_blocks[1], stride=2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, num_blocks[2], stride=2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, num_blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, num_classes)

    @property
    @abstractmethod
    def block(self) -> type[BasicBlock] | type[Bottleneck]:
        """``BasicBlock`` or ``Bottleneck``."""

    @property
    @abstractmethod
    def num_blocks(self) -> tuple[int, int, int, int]:
        """Blocks in each of the four stages."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images shaped ``(N, in_channels, H, W)``: 32 x 32, or 224 x 224, as a rule."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return cast(Tensor, self.fc(self.avgpool(x).flatten(1)))


class ResNet18(ResNet):
    """ResNet-18: 11,164,352 weights and 9,610 other parameters on CIFAR-10.

    On Tiny ImageNet, with 200 classes, it has 11,261,632 and 9,800; the papers take its small stem there too.
    With the stem for ImageNet it has 11,172,032 weights, and 11,678,912 with 1000 classes, as in torchvision.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.
        stem: ``"cifar"`` for 32 x 32 images, ``"imagenet"`` for 224 x 224.
    """

    block = BasicBlock
    num_blocks = (2, 2, 2, 2)


class ResNet34(ResNet):
    """ResNet-34: 21,265,088 weights and 17,034 other parameters on CIFAR-10.

    With the stem for ImageNet and 1000 classes it has 21,779,648 weights and 18,024 other parameters, as in
    torchvision.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.
        stem: ``"cifar"`` for 32 x 32 images, ``"imagenet"`` for 224 x 224.
    """

    block = BasicBlock
    num_blocks = (3, 4, 6, 3)


class ResNet50(ResNet):
    """ResNet-50: 23,467,712 weights and 53,130 other parameters on CIFAR-10.

    With the stem for ImageNet and 1000 classes it has 25,502,912 weights and 54,120 other parameters, as in
    torchvision.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.
        stem: ``"cifar"`` for 32 x 32 images, ``"imagenet"`` for 224 x 224.
    """

    block = Bottleneck
    num_blocks = (3, 4, 6, 3)


def _stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, width: int, num_blocks: int, stride: int
) -> nn.Sequential:
    """Return blocks of one width, of which the first has the stride."""
    rest = [block(width * block.expansion, width, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(block(in_channels, width, stride), *rest)


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return the identity as an empty sequence, or a 1 x 1 convolution where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))
