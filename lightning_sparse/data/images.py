"""Images held in memory, and the data module of all data sets that are."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_sparse.checks import (
    SparsityError,
    check_callable,
    check_count,
    check_flag,
    check_kind,
    check_number,
)
from lightning_sparse.data.labelled import Labelled, LabelledImages, split
from lightning_sparse.extras import import_extra

__all__ = ["ImageDataModule", "InMemoryImages", "channel_statistics", "crop_and_flip"]

Augment: TypeAlias = Callable[[Tensor], Tensor]
"""Changes an image ``(C, H, W)`` at random, by the global generator of its process."""


def crop_and_flip(size: tuple[int, int], padding: int, flip: bool) -> Augment | None:
    """Return what crops an image out of itself with a black margin, and mirrors every second one.

    Args:
        size: Height and width of the images.
        padding: Width of the margin on each side, in pixels; 0 does not crop.
        flip: Whether to mirror left and right.

    Returns:
        A transform of torchvision, or None if there is nothing to do.
    """
    if not padding and not flip:
        return None
    transforms = import_extra("torchvision.transforms.v2", "this data set")
    steps = [transforms.RandomCrop(size, padding=padding)] * bool(padding)
    augment: Augment = transforms.Compose(steps + [transforms.RandomHorizontalFlip()] * flip)
    return augment


def channel_statistics(images: Tensor) -> Labelled:
    """Return mean and standard deviation of every channel, shaped ``(C, 1, 1)``.

    A constant channel gets standard deviation 1, so that normalising leaves zeros and not NaN.
    """
    total, squares = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for part in torch.split(images, 4096):  # a float64 copy of everything would be 8 times the data set
        pixels = part.double()
        total += pixels.sum(dim=(0, 2, 3))
        squares += pixels.square().sum(dim=(0, 2, 3))
    mean = total / (images.numel() / images.shape[1])
    std = (squares / (images.numel() / images.shape[1]) - mean.square()).clamp(min=0).sqrt()
    std[std == 0] = 1
    return mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)


class InMemoryImages(Dataset[Labelled]):
    """Images and labels as two tensors, read a whole batch at a time.

    Images stay as they are given (``uint8`` takes a quarter of the memory of floats) and become normalised
    ``float32`` when read. A DataLoader over this data set needs ``collate_fn=collate``.

    Args:
        images: ``(N, C, H, W)``, ``uint8`` or floating point.
        labels: ``(N,)``, ``int64``.
        mean: Subtracted from the images; broadcast against ``(C, H, W)``.
        std: Divides the images; broadcast against ``(C, H, W)``.
        augment: Changes each image, as it is given, before it is normalised.

    Raises:
        SparsityError: If ``images`` and ``labels`` do not fit together, or an argument is of another kind.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Tensor | float = 0.0,
        std: Tensor | float = 1.0,
        augment: Augment | None = None,
    ) -> None:
        for name, value in {"images": images, "labels": labels}.items():
            check_kind(name, value, Tensor)
        for name, number in {"mean": mean, "std": std}.items():
            if not isinstance(number, Tensor):
                check_number(name, number, "(-inf, inf)" if name == "mean" else "(0, inf)")
        if augment is not None:
            check_callable("augment", augment)
        if images.dim() != 4 or labels.shape != images.shape[:1]:
            raise SparsityError(
                "`images` must be (N, C, H, W) and `labels` (N,), "
                f"got {tuple(images.shape)} and {tuple(labels.shape)}."
            )
        self.images = images
        self.labels = labels
        self.mean = mean
        self.std = std
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Labelled:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> Labelled:
        index = torch.as_tensor(indices)
        # index_select copies, so the arithmetic may be in place; it takes half the time of images[index].
        images = self.images.index_select(0, index)
        if self.augment is not None:
            images = torch.stack([self.augment(image) for image in images])
        return images.float().sub_(self.mean).div_(self.std), self.labels[index]


class ImageDataModule(LabelledImages, ABC):
    """Loads a data set once, splits a validation share off, normalises and batches.

    All images are normalised with the channel means and standard deviations measured on the training share.
    Children say where the images come from: ``load_train``, ``load_test`` and, for a data set with
    validation images of its own, ``load_val``.

    Args:
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 trains on all of them.
        num_workers: Worker processes per loader. The images are in memory, so 0 is usually fastest.
        seed: Seed of the split. The order of batches follows the global generator (``seed_everything``).
        crop_padding: Training images are cropped at random out of themselves with a black margin of so many
            pixels; 0 leaves them whole.
        flip: Whether training images are mirrored at random, left and right.

    Raises:
        SparsityError: If an argument is of another kind, or out of range.
    """

    def __init__(
        self,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
        crop_padding: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, val_fraction, num_workers, seed)
        check_count("crop_padding", crop_padding, 0)
        check_flag("flip", flip)
        self.crop_padding = crop_padding
        self.flip = flip

    @abstractmethod
    def load_train(self) -> Labelled:
        """Return the training images, validation share included, and their labels."""

    @abstractmethod
    def load_test(self) -> Labelled | None:
        """Return the test images and their labels, or None if there are none."""

    def load_val(self) -> Labelled | None:
        """Return validation images that are stored apart; None splits them off the training images."""
        return None

    def datasets(self) -> dict[str, Dataset[Labelled]]:
        """Load and split everything."""
        parts = self._load_parts()
        mean, std = channel_statistics(parts["train"][0])
        augment = crop_and_flip(self.input_shape[1:], self.crop_padding, self.flip)
        return {
            name: InMemoryImages(*part, mean, std, augment if name == "train" else None)
            for name, part in parts.items()
        }

    def _load_parts(self) -> dict[str, Labelled]:
        """Return training, validation and test images; the latter two only if there are any."""
        train, val, test = self.load_train(), self.load_val(), self.load_test()
        if val is None and self.val_fraction > 0:
            images, labels = train
            kept, held_out = split(len(labels), self.val_fraction, self.seed)
            train, val = (images[kept], labels[kept]), (images[held_out], labels[held_out])
        parts = {"train": train, "val": val, "test": test}
        return {name: part for name, part in parts.items() if part is not None}
