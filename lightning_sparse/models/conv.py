"""The small convolutional networks of the lottery ticket literature."""

from abc import ABC, abstractmethod
from typing import cast

from torch import Tensor, nn

from lightning_sparse.checks import check_count

__all__ = ["Conv2", "Conv4", "Conv6", "ConvNet"]

_HIDDEN = 256


class ConvNet(nn.Module, ABC):
    """Pairs of padded 3 x 3 convolutions, each pair followed by 2 x 2 max pooling, and three linear layers.

    Children say how wide the pairs are; both hidden linear layers have 256 units.

    Args:
        in_channels: Channels of an image.
        image_size: Height and width of an image.
        num_classes: Number of outputs.

    Raises:
        SparsityError: If a size is no positive integer, or pooling would leave nothing of the image.

    Source:
        Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, figure 2 (arXiv:1803.03635). Padding,
        pooling and biases as the parameter counts of Damadi et al. (2021), table 1, have them.
    """

    def __init__(self, in_channels: int = 3, image_size: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("num_classes", num_classes)
        halvings = len(self.widths)
        check_count("image_size", image_size, 2**halvings, f"Each of {halvings} poolings halves it.")
        layers: list[nn.Module] = []
        for width in self.widths:
            layers += _pair(in_channels, width)
            in_channels = width
        self.convs = nn.Sequential(*layers)
        self.fcs = nn.Sequential(
            nn.Linear(self.widths[-1] * (image_size >> halvings) ** 2, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, num_classes),
        )

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """Channels of each pair of convolutions."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images shaped ``(N, in_channels, image_size, image_size)``."""
        return cast(Tensor, self.fcs(self.convs(images).flatten(1)))


class Conv2(ConvNet):
    """Conv-2: 4,301,642 parameters on CIFAR-10; 3,317,450 on MNIST (``in_channels=1, image_size=28``).

    Args:
        in_channels: Channels of an image.
        image_size: Height and width of an image.
        num_classes: Number of outputs.
    """

    widths = (64,)


class Conv4(ConvNet):
    """Conv-4: 2,425,930 parameters on CIFAR-10; 1,933,258 on MNIST (``in_channels=1, image_size=28``).

    Args:
        in_channels: Channels of an image.
        image_size: Height and width of an image.
        num_classes: Number of outputs.
    """

    widths = (64, 128)


class Conv6(ConvNet):
    """Conv-6: 2,262,602 parameters on CIFAR-10; 1,802,698 on MNIST (``in_channels=1, image_size=28``).

    Args:
        in_channels: Channels of an image.
        image_size: Height and width of an image.
        num_classes: Number of outputs.
    """

    widths = (64, 128, 256)


def _pair(in_channels: int, width: int) -> list[nn.Module]:
    """Return two convolutions that keep the image's size, and the pooling that halves it."""
    return [
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
