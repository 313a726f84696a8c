"""Made-up images of any shape, for tests, examples and timings."""

from collections.abc import Sequence

import torch

from lightning_sparse.checks import check_count, check_counts, check_number
from lightning_sparse.data.images import ImageDataModule
from lightning_sparse.data.labelled import Labelled

__all__ = ["SyntheticDataModule"]


class SyntheticDataModule(ImageDataModule):
    """One random prototype per class, plus noise: learnable within an epoch, and nothing to download.

    Args:
        shape: Channels, height and width of an image.
        num_classes: Number of classes, equally frequent.
        size: Number of training images, validation share included.
        test_size: Number of test images.
        noise: Standard deviation of the noise; the prototypes have standard deviation 1.
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 trains on all of them.
        num_workers: Worker processes per loader.
        seed: Seed of the images and of the split.
    """

    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        size: int = 256,
        test_size: int = 64,
        noise: float = 1.0,
        batch_size: int = 32,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_fraction, num_workers, seed)
        check_counts("shape", shape, 3, "They are [C, H, W].")
        check_count("num_classes", num_classes, 2)
        check_count("size", size, num_classes, "Each class needs an image.")
        check_count("test_size", test_size)
        check_number("noise", noise, "[0, inf)")
        self._shape = (shape[0], shape[1], shape[2])
        self._num_classes = num_classes
        self.size = size
        self.test_size = test_size
        self.noise = noise

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return self._shape

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes

    def load_train(self) -> Labelled:
        """Draw the training images."""
        images, labels = self._draw()
        return images[: self.size], labels[: self.size]

    def load_test(self) -> Labelled:
        """Draw the test images: other noise around the same prototypes."""
        images, labels = self._draw()
        return images[self.size :], labels[self.size :]

    def _draw(self) -> Labelled:
        generator = torch.Generator().manual_seed(self.seed)
        prototypes = torch.randn(self.num_classes, *self.input_shape, generator=generator)
        labels = torch.arange(self.size + self.test_size) % self.num_classes
        noise = torch.randn(len(labels), *self.input_shape, generator=generator)
        return prototypes[labels] + self.noise * noise, labels
