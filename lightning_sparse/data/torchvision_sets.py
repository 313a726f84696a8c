"""MNIST, FashionMNIST, CIFAR-10 and CIFAR-100, read through torchvision."""

from pathlib import Path
from typing import Any, ClassVar

import torch

from lightning_sparse.checks import SparsityError, check_flag, check_path, first_line
from lightning_sparse.data.images import ImageDataModule
from lightning_sparse.data.labelled import Labelled
from lightning_sparse.extras import import_extra

__all__ = ["CIFAR10DataModule", "CIFAR100DataModule", "FashionMNISTDataModule", "MNISTDataModule"]


class _TorchvisionDataModule(ImageDataModule):
    """A data set that torchvision reads or downloads; children name it."""

    _dataset: ClassVar[str]
    _folder: ClassVar[str]

    def __init__(
        self,
        data_dir: str = "data",
        download: bool = False,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
        crop_padding: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, val_fraction, num_workers, seed, crop_padding, flip)
        check_path("data_dir", data_dir)
        check_flag("download", download)
        self.data_dir = data_dir
        self.download = download

    def prepare_data(self) -> None:
        """Download the data set, or check that it is there."""
        if self.download:
            self._fetch()
        elif not Path(self.data_dir, self._folder).is_dir():
            raise SparsityError(self._not_found())

    def load_train(self) -> Labelled:
        """Return the training images."""
        return self._load(train=True)

    def load_test(self) -> Labelled:
        """Return the test images."""
        return self._load(train=False)

    def _load(self, train: bool) -> Labelled:
        try:
            dataset = self._dataset_class()(self.data_dir, train=train)
        except RuntimeError as error:  # torchvision's answer to missing and to damaged files
            raise SparsityError(self._not_found()) from error
        pixels = torch.as_tensor(dataset.data)
        grey = pixels.dim() == 3
        images = pixels.unsqueeze(1) if grey else pixels.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(dataset.targets)

    def _fetch(self) -> None:
        try:
            self._dataset_class()(self.data_dir, download=True)
        except (
            RuntimeError
        ) as error:  # torchvision's answer where no server has given it a file that is whole
            folder = Path(self.data_dir, self._folder).absolute()
            raise SparsityError(
                f"`download` must find {self._dataset} on the network, got: {first_line(error).rstrip(':')}. "
                f"Try again, or put its files into {folder} yourself."
            ) from error

    def _dataset_class(self) -> Any:
        return getattr(import_extra("torchvision.datasets", "this data set"), self._dataset)

    def _not_found(self) -> str:
        folder = Path(self.data_dir, self._folder).absolute()
        return (
            f"`data_dir` must hold {self._dataset}, got missing or damaged files in {folder}. "
            "Point `data_dir` at the folder above, or set `download: true`."
        )


class MNISTDataModule(_TorchvisionDataModule):
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28.

    Args:
        data_dir: Folder that holds ``MNIST/raw``.
        download: Fetch the data set into ``data_dir`` if it is not there.
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 trains on all of them.
        num_workers: Worker processes per loader.
        seed: Seed of the validation split.
        crop_padding: Training images are cropped at random out of themselves with a black margin of so many
            pixels; 0 leaves them whole.
        flip: Whether training images are mirrored at random, left and right.
    """

    input_shape = (1, 28, 28)
    num_classes = 10
    _dataset = "MNIST"
    _folder = "MNIST/raw"


class FashionMNISTDataModule(_TorchvisionDataModule):
    """FashionMNIST: 60,000 training and 10,000 test images of clothing, 28 x 28.

    Args:
        data_dir: Folder that holds ``FashionMNIST/raw``.
        download: Fetch the data set into ``data_dir`` if it is not there.
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 trains on all of them.
        num_workers: Worker processes per loader.
        seed: Seed of the validation split.
        crop_padding: Training images are cropped at random out of themselves with a black margin of so many
            pixels; 0 leaves them whole.
        flip: Whether training images are mirrored at random, left and right.
    """

    input_shape = (1, 28, 28)
    num_classes = 10
    _dataset = "FashionMNIST"
    _folder = "FashionMNIST/raw"


class CIFAR10DataModule(_TorchvisionDataModule):
    """CIFAR-10: 50,000 training and 10,000 test images in colour, 32 x 32.

    Args:
        data_dir: Folder that holds ``cifar-10-batches-py``.
        download: Fetch the data set into ``data_dir`` if it is not there.
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 trains on all of them.
        num_workers: Worker processes per loader.
        seed: Seed of the validation split.
        crop_padding: Training images are cropped at random out of themselves with a black margin of so many
            pixels; 0 leaves them whole.
        flip: Whether training images are mirrored at random, left and right.
    """

    input_shape = (3, 32, 32)
    num_classes = 10
    _dataset = "CIFAR10"
    _folder = "cifar-10-batches-py"


class CIFAR100DataModule(_TorchvisionDataModule):
    """CIFAR-100: 50,000 training and 10,000 test images in colour, 32 x 32.

    Args:
        data_dir: Folder that holds ``cifar-100-python``.
        download: Fetch the data set into ``data_dir`` if it is not there.
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 trains on all of them.
        num_workers: Worker processes per loader.
        seed: Seed of the validation split.
        crop_padding: Training images are cropped at random out of themselves with a black margin of so many
            pixels; 0 leaves them whole.
        flip: Whether training images are mirrored at random, left and right.
    """

    input_shape = (3, 32, 32)
    num_classes = 100
    _dataset = "CIFAR100"
    _folder = "cifar-100-python"
