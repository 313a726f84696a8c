"""What every data module here does: hold images out for validation, and make batches."""

import math
from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_sparse.checks import SparsityError, check_count, check_flag, check_number
from lightning_sparse.trainer.packages import LightningDataModule

__all__ = ["Labelled", "LabelledImages", "collate", "split"]

Labelled: TypeAlias = tuple[Tensor, Tensor]
"""Images ``(N, C, H, W)`` and their labels ``(N,)``."""


def collate(batch: Any) -> Any:
    """Pass a batch on that the data set has already put together; stack a list of samples."""
    return batch if isinstance(batch, tuple) else default_collate(batch)


def split(count: int, val_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw which of ``count`` images to hold out.

    Args:
        count: Number of images.
        val_fraction: Share of them to hold out, in [0, 1); 0 holds none out.
        seed: Seed of the draw, which leaves the global generator alone.

    Returns:
        Indices of the images that stay and of the ``floor(val_fraction * count + 0.5)`` held out.

    Raises:
        SparsityError: If ``val_fraction`` is positive and one side would be empty.
    """
    held_out = math.floor(val_fraction * count + 0.5)
    if val_fraction > 0 and not 0 < held_out < count:
        raise SparsityError(
            f"`val_fraction` must leave an image on each side, got {val_fraction} of {count} "
            "images. Hold out more or less."
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[held_out:], order[:held_out]


class LabelledImages(LightningDataModule, ABC):
    """Batches of labelled images. Children say what the data sets are, in memory or read when asked.

    Args:
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 trains on all of them.
        num_workers: Worker processes per loader; 0 reads in the process that trains.
        seed: Seed of the split. The order of batches follows the global generator (``seed_everything``).
        prefetch: Batches that each worker reads ahead.
        persistent_workers: Keep workers from epoch to epoch, random numbers and all.

    Raises:
        SparsityError: If an argument is of another kind, or out of range.
    """

    def __init__(
        self,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
        prefetch: int = 2,
        persistent_workers: bool = True,
    ) -> None:
        super().__init__()
        check_count("batch_size", batch_size)
        check_number("val_fraction", val_fraction, "[0, 1)", "It is a share, not a count.")
        check_count("num_workers", num_workers, 0)
        check_count("seed", seed, 0)
        check_count("prefetch", prefetch)
        check_flag("persistent_workers", persistent_workers)
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.num_workers = num_workers
        self.seed = seed
        self.prefetch = prefetch
        self.persistent_workers = persistent_workers
        self._images: dict[str, Dataset[Labelled]] = {}

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image, ``(C, H, W)``, known before anything is loaded."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes, known before anything is loaded."""

    @abstractmethod
    def datasets(self) -> dict[str, Dataset[Labelled]]:
        """Return the data sets "train", "val" and "test"; the latter two only if there are any."""

    def setup(self, stage: str = "fit") -> None:  # noqa: ARG002 - every stage needs the training images
        """Make the data sets, the first time it is called."""
        if not self._images:
            self._images = self.datasets()

    def train_dataloader(self) -> DataLoader[Labelled]:
        """Return the shuffled training batches; the last one may be smaller."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Labelled] | list[DataLoader[Labelled]]:
        """Return the validation batches, or an empty list if no images are held out."""
        self.setup()
        return self._loader("val") if "val" in self._images else []

    def test_dataloader(self) -> DataLoader[Labelled] | list[DataLoader[Labelled]]:
        """Return the test batches, or an empty list if there are no test images."""
        self.setup()
        return self._loader("test") if "test" in self._images else []

    def predict_dataloader(self) -> DataLoader[Labelled] | list[DataLoader[Labelled]]:
        """Return the test batches."""
        return self.test_dataloader()

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader[Labelled]:
        self.setup()
        workers = self.num_workers > 0
        return DataLoader(
            self._images[part],
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=self.prefetch if workers else None,
            persistent_workers=self.persistent_workers and workers,
        )
