"""The residual network without normalisation."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_sparse.checks import check_count

__all__ = ["FixupResNet110"]

_WIDTHS = (16, 32, 64)
_BLOCKS_PER_STAGE = 18


class FixupBlock(nn.Module):
    """Two 3 x 3 convolutions with scalar biases and a scale, beside a shortcut without parameters.

    Where the stride is 2 the shortcut takes every other pixel and adds as many channels of zeros.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output: the same at stride 1, twice as many at stride 2.
        stride: Of the first convolution, 1 or 2.
        num_blocks: Residual blocks in the net, which set the scale of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, num_blocks: int) -> None:
        super().__init__()
        self.stride = stride
        self.bias1a, self.bias1b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.bias2a, self.scale = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))
        self.bias2b = nn.Parameter(torch.zeros(1))
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        std = (2 / (9 * out_channels * num_blocks)) ** 0.5  # He's, by fan out, over the root of the depth
        nn.init.normal_(self.conv1.weight, 0.0, std)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        biased = x + self.bias1a
        branch = F.relu(self.conv1(biased) + self.bias1b)
        branch = self.conv2(branch + self.bias2a) * self.scale + self.bias2b
        return F.relu(branch + (x if self.stride == 1 else _halved(biased)))


class FixupResNet110(nn.Module):
    """ResNet-110 without normalisation, 54 blocks: 1,719,856 weights and 282 other parameters on CIFAR-10.

    The last convolution of every block and the classifier start at zero.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.

    Raises:
        SparsityError: If a size is no positive integer.

    Source:
        Zhang et al., "Fixup Initialization", ICLR 2019 (arXiv:1901.09321). Parameter names are those of the
        DCTpS paper's code (github.com/IlanPrice/DCTpS).
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("num_classes", num_classes)
        self.conv1 = nn.Conv2d(in_channels, _WIDTHS[0], 3, padding=1, bias=False)
        self.bias1 = nn.Parameter(torch.zeros(1))
        self.layer1 = _stage(16, 16)
        self.layer2 = _stage(16, 32)
        self.layer3 = _stage(32, 64)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.bias2 = nn.Parameter(torch.zeros(1))
        self.fc = nn.Linear(_WIDTHS[-1], num_classes)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images shaped ``(N, in_channels, H, W)``, 32 x 32 as a rule."""
        x = F.relu(self.conv1(images) + self.bias1)
        x = self.avgpool(self.layer3(self.layer2(self.layer1(x)))).flatten(1)
        return cast(Tensor, self.fc(x + self.bias2))


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return 18 blocks of one width; the first halves the image where the width doubles."""
    num_blocks = len(_WIDTHS) * _BLOCKS_PER_STAGE
    first = FixupBlock(in_channels, out_channels, out_channels // in_channels, num_blocks)
    rest = [FixupBlock(out_channels, out_channels, 1, num_blocks) for _ in range(_BLOCKS_PER_STAGE - 1)]
    return nn.Sequential(first, *rest)


def _halved(x: Tensor) -> Tensor:
    """Return every other pixel, with as many channels of zeros behind the channels."""
    pixels = x[:, :, ::2, ::2]
    return torch.cat([pixels, torch.zeros_like(pixels)], 1)
