"""The two LeNets of the pruning literature."""

from typing import cast

from torch import Tensor, nn

from lightning_sparse.checks import check_count

__all__ = ["LeNet5", "LeNet300100"]


class LeNet300100(nn.Module):
    """Two hidden layers of 300 and 100 ReLU units: 266,200 weights and 410 biases on MNIST.

    Args:
        in_features: Numbers per image, all channels and pixels.
        num_classes: Number of outputs.

    Raises:
        SparsityError: If a size is no positive integer.
    """

    def __init__(self, in_features: int = 784, num_classes: int = 10) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("num_classes", num_classes)
        self.fcs = nn.Sequential(
            nn.Linear(in_features, 300),
            nn.ReLU(),
            nn.Linear(300, 100),
            nn.ReLU(),
            nn.Linear(100, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images of any shape."""
        return cast(Tensor, self.fcs(images.flatten(1)))


class LeNet5(nn.Module):
    """LeNet-5 without biases, for 32 x 32 images: 61,510 weights on CIFAR-10.

    As in the code of the DCTpS paper (github.com/IlanPrice/DCTpS): average pooling, and 82 hidden units where
    LeCun et al. had 84. Images of 28 x 28 need padding by 2.

    Args:
        in_channels: Channels of an image.
        num_classes: Number of outputs.

    Raises:
        SparsityError: If a size is no positive integer.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("num_classes", num_classes)
        self.convs = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, bias=False),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5, bias=False),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(16, 120, 5, bias=False),
            nn.ReLU(),
        )
        self.fcs = nn.Sequential(
            nn.Linear(120, 82, bias=False), nn.ReLU(), nn.Linear(82, num_classes, bias=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images shaped ``(N, in_channels, 32, 32)``."""
        return cast(Tensor, self.fcs(self.convs(images).flatten(1)))
