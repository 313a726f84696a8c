"""Wide residual networks for small images, with normalisation before each convolution."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_count, check_number

__all__ = ["WideResNet"]


class PreActivationBlock(nn.Module):
    """Two 3 x 3 convolutions, each behind normalisation and ReLU, beside a shortcut.

    Where the number of channels changes, the shortcut is a 1 x 1 convolution behind the first ReLU too.

    Args:
        in_channels: Channels of the input.
        width: Channels inside and of the output.
        stride: Of the first convolution and of the shortcut.
        dropout: Share of the activations before the second convolution to drop in training.
    """

    def __init__(self, in_channels: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = in_channels == width
        self.shortcut = None if same else nn.Conv2d(in_channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, width, H / stride, W / stride)``."""
        active = F.relu(self.bn1(x))
        branch = self.conv1(active)
        branch = self.conv2(self.dropout(F.relu(self.bn2(branch))))
        return cast(Tensor, branch + (x if self.shortcut is None else self.shortcut(active)))


class WideResNet(nn.Module):
    """WRN-depth-width: three stages of residual blocks of 16, 32 and 64 times ``width`` channels.

    WRN-22-2 has 1,076,912 weights and 2,730 other parameters on CIFAR-10.

    Args:
        depth: Number of layers by the paper's count, 6n + 4: n blocks in each stage.
        width: Channels of a stage, as a multiple of those of the narrow network.
        dropout: Share of the activations inside each block to drop in training.
        in_channels: Channels of an image.
        num_classes: Number of outputs.

    Raises:
        SparsityError: If ``depth`` is not 10, 16, 22, ..., a size is no positive integer, or ``dropout`` is
            not in [0, 1).

    Source:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv:1605.07146); WRN-22-2 is the
        network of CIFAR-10 in Evci et al., "Rigging the Lottery", ICML 2020.
    """

    def __init__(
        self,
        depth: int = 22,
        width: int = 2,
        dropout: float = 0.0,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_count("depth", depth, 10)
        if (depth - 4) % 6:
            raise SparsityError(f"`depth` must be 6n + 4, such as 16, 22 or 28, got {depth}.")
        check_count("width", width)
        check_number("dropout", dropout, "[0, 1)", "It is the share to drop.")
        check_count("in_channels", in_channels)
        check_count("num_classes", num_classes)
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stage1 = _stage(16, 16 * width, blocks, 1, dropout)
        self.stage2 = _stage(16 * width, 32 * width, blocks, 2, dropout)
        self.stage3 = _stage(32 * width, 64 * width, blocks, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images shaped ``(N, in_channels, H, W)``, 32 x 32 as a rule."""
        x = self.stage3(self.stage2(self.stage1(self.conv1(images))))
        return cast(Tensor, self.fc(self.avgpool(F.relu(self.bn(x))).flatten(1)))


def _stage(in_channels: int, width: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = PreActivationBlock(in_channels, width, stride, dropout)
    return nn.Sequential(first, *(PreActivationBlock(width, width, 1, dropout) for _ in range(blocks - 1)))
