"""Images that are decoded when they are needed, so that a data set may be of any size."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_sparse.checks import (
    SparsityError,
    check_callable,
    check_flag,
    check_kind,
    check_path,
    first_line,
)
from lightning_sparse.data.files import ImageFiles, class_names, files_by_class
from lightning_sparse.data.labelled import Labelled, LabelledImages, split
from lightning_sparse.extras import import_extra

__all__ = ["StreamedDataModule", "StreamedImages"]

Transform: TypeAlias = Callable[[Any], Tensor]
"""Makes ``uint8`` pixels ``(3, H, W)``, all of one size, of an image of Pillow."""


class StreamedImages(Dataset[Labelled]):
    """Images and labels of files, a whole batch at a time; nothing of them stays in memory.

    A DataLoader over this data set needs ``collate_fn=collate``.

    Args:
        files: The files, and the labels of their images.
        transform: Makes ``uint8`` pixels ``(3, H, W)`` of an image in RGB. It may draw from PyTorch's global
            generator, that of its process.
        mean: Of each channel, as a share of the brightest; subtracted.
        std: Of each channel; divides what is left.

    Raises:
        SparsityError: If an argument is of another kind; later, if a file holds no image.
    """

    def __init__(
        self, files: ImageFiles, transform: Transform, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        check_kind("files", files, ImageFiles)
        check_callable("transform", transform)
        self.files = files
        self.transform = transform
        self.mean = 255 * torch.tensor(mean).view(-1, 1, 1)
        self.std = 255 * torch.tensor(std).view(-1, 1, 1)
        self._read = import_extra("torchvision.datasets.folder", "this data set").default_loader

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Labelled:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> Labelled:
        pixels = [self.transform(self._open(index)) for index in indices]
        for index, image in zip(indices, pixels, strict=True):
            if image.shape != pixels[0].shape:
                raise SparsityError(
                    f"`data_dir` must hold images of one size, got {self.files.path(index)} of "
                    f"{tuple(image.shape)} beside {tuple(pixels[0].shape)}. Resize them first."
                )
        images = torch.stack(pixels).float().sub_(self.mean).div_(self.std)
        return images, self.files.labels[torch.as_tensor(indices)]

    def _open(self, index: int) -> Any:
        path = self.files.path(index)
        try:
            return self._read(path)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises of damaged files
            raise SparsityError(
                f"`data_dir` must hold images that can be read, got {path}: {first_line(error)}. Unpack the "
                "data set once more, or take the file away."
            ) from error


class StreamedDataModule(LabelledImages, ABC):
    """Reads images from their files as they are needed. Children know the layout of the folders.

    Memory does not grow with the data set: of each image only the name of its file is kept. Decoding and
    cropping take longer than a small net's step, so worker processes read ahead.

    **Validation and test.** The labelled images of ``val`` are what ``test`` measures. With
    ``val_fraction`` 0, the default, they are what is validated on as well, as in the papers: an accuracy of
    the best epoch is then chosen on the images that it is measured on. A larger ``val_fraction`` holds
    training images out for validation, and leaves ``val`` to the test alone.

    **What can be repeated.** With ``seed_everything(seed, workers=True)`` and the same ``num_workers`` two
    runs see the same images, crops and flips. With ``ExactResume`` so does a run that is resumed at the end
    of an epoch. In mid-epoch it is not exact: the dataloader begins the epoch again. With
    ``persistent_workers`` it is not exact either: workers that stay keep their random numbers to themselves.

    Args:
        data_dir: Folder with ``train`` and ``val`` in it.
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 validates on ``val``.
        num_workers: Worker processes per loader; as many as there are cores is a good start.
        prefetch: Batches that each worker reads ahead.
        persistent_workers: Keep workers from epoch to epoch. That saves their start, and costs the exact
            resumption.
        seed: Seed of the split. The order of batches follows the global generator (``seed_everything``).
        flip: Whether training images are mirrored at random, left and right.

    Raises:
        SparsityError: If an argument is of another kind, or out of range; before any image is read, if the
            folders are not as they have to be.
    """

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 128,
        val_fraction: float = 0.0,
        num_workers: int = 4,
        prefetch: int = 2,
        persistent_workers: bool = False,
        seed: int = 0,
        flip: bool = True,
    ) -> None:
        super().__init__(batch_size, val_fraction, num_workers, seed, prefetch, persistent_workers)
        check_path("data_dir", data_dir)
        check_flag("flip", flip)
        self.data_dir = data_dir
        self.flip = flip

    @property
    @abstractmethod
    def mean(self) -> tuple[float, float, float]:
        """Mean of each channel over the training images, from 0 to 1."""

    @property
    @abstractmethod
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of each channel."""

    @abstractmethod
    def crop(self, training: bool) -> list[Any]:
        """Return the transforms that bring images to their size, at random in training."""

    @abstractmethod
    def check_val(self, folder: Path) -> None:
        """Raise unless the folder ``val`` is as it has to be."""

    @abstractmethod
    def val_files(self, folder: Path) -> ImageFiles:
        """List the labelled images of the folder ``val``."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes: the folders in ``train``, sorted."""
        return class_names(Path(self.data_dir, "train"))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def prepare_data(self) -> None:
        """Check the folders, before anything is read."""
        class_names(Path(self.data_dir, "train"))
        self.check_val(Path(self.data_dir, "val"))

    def datasets(self) -> dict[str, Dataset[Labelled]]:
        """List the files."""
        self.prepare_data()
        train = val = files_by_class(Path(self.data_dir, "train"), self.classes)
        test = self.val_files(Path(self.data_dir, "val"))
        kept, held_out = split(len(train), self.val_fraction, self.seed)
        if self.val_fraction > 0:
            train, val = train.chosen(kept), train.chosen(held_out)
        else:
            val = test
        return {
            "train": StreamedImages(train, self._transform(training=True), self.mean, self.std),
            "val": StreamedImages(val, self._transform(training=False), self.mean, self.std),
            "test": StreamedImages(test, self._transform(training=False), self.mean, self.std),
        }

    def _transform(self, training: bool) -> Transform:
        v2 = import_extra("torchvision.transforms.v2", "this data set")
        flip = [v2.RandomHorizontalFlip()] * (training and self.flip)
        transform: Transform = v2.Compose([*self.crop(training), *flip, v2.PILToTensor()])
        return transform
