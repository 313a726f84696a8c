"""VGG networks with batch normalisation and a single linear layer, for small images."""

from abc import ABC, abstractmethod
from typing import cast

from torch import Tensor, nn

from lightning_sparse.checks import check_count

__all__ = ["VGG", "VGG11", "VGG13", "VGG16", "VGG19"]

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module, ABC):
    """Five stages of normalised 3 x 3 convolutions, an average over the pixels, and one linear layer.

    Max pooling ends each stage, so that an image needs 32 pixels a side. Children say how many convolutions
    the stages have.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.

    Raises:
        SparsityError: If a size is no positive integer.

    Source:
        Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015 (arXiv:1409.1556); what follows
        the convolutions as in Damadi et al. (2021), section 4.1. As their parameter counts say, convolutions
        have biases beside those of the normalisation.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("num_classes", num_classes)
        layers: list[nn.Module] = []
        for count, width in zip(self.num_convs, _WIDTHS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
            layers.append(nn.MaxPool2d(2))
        self.convs = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(_WIDTHS[-1], num_classes)

    @property
    @abstractmethod
    def num_convs(self) -> tuple[int, int, int, int, int]:
        """Convolutions in each stage."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images shaped ``(N, in_channels, H, W)``, 32 x 32 or larger."""
        return cast(Tensor, self.fc(self.avgpool(self.convs(images)).flatten(1)))


class VGG11(VGG):
    """VGG-11: 9,231,114 parameters on CIFAR-10, of which 9,222,848 are weights.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.
    """

    num_convs = (1, 1, 2, 2, 2)


class VGG13(VGG):
    """VGG-13: 9,416,010 parameters on CIFAR-10, of which 9,407,168 are weights.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.
    """

    num_convs = (2, 2, 2, 2, 2)


class VGG16(VGG):
    """VGG-16: 14,728,266 parameters on CIFAR-10, of which 14,715,584 are weights.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.
    """

    num_convs = (2, 2, 3, 3, 3)


class VGG19(nn.Module):
    """VGG-19 of the DCTpS paper: 20,024,000 weights and 11,018 other parameters on CIFAR-10.

    It is no child of ``VGG``: its convolutions have no biases, the last stage is averaged without max
    pooling before, and its layers have other names.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.

    Raises:
        SparsityError: If a size is no positive integer.

    Source:
        Simonyan and Zisserman, as for ``VGG``, in the form that de Jorge et al. (2021) and Price and Tanner
        (2021) train. The layers have the names of their codes (github.com/naver/force,
        github.com/IlanPrice/DCTpS).
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("num_classes", num_classes)
        layers: list[nn.Module] = []
        for count, width in zip((2, 2, 4, 4, 4), _WIDTHS, strict=True):
            layers += [nn.MaxPool2d(2)] * bool(layers)
            for _ in range(count):
                convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
        self.feature = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images shaped ``(N, in_channels, H, W)``, 16 x 16 or larger."""
        return cast(Tensor, self.classifier(self.avgpool(self.feature(images)).flatten(1)))
