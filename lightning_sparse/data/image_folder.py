"""Images in one folder per class, decoded once."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_sparse.checks import SparsityError, check_count, check_path
from lightning_sparse.data.files import check_classes, class_names
from lightning_sparse.data.images import ImageDataModule
from lightning_sparse.data.labelled import Labelled
from lightning_sparse.extras import import_extra

__all__ = ["ImageFolderDataModule"]


class ImageFolderDataModule(ImageDataModule):
    """Images in ``<data_dir>/train/<class>/`` and, if wanted, ``<data_dir>/test/<class>/`` and ``val``.

    Every image is decoded to RGB once and kept in memory as ``uint8``, so the data set must fit there:
    3 x height x width bytes per image. ``ImageNetDataModule`` reads larger ones file by file.

    Args:
        data_dir: Folder with ``train`` in it.
        image_size: Resize every image to this height and width; None takes them as they are, all of one size.
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 with a ``val`` folder.
        num_workers: Worker processes per loader.
        seed: Seed of the validation split.
        crop_padding: Training images are cropped at random out of themselves with a black margin of so many
            pixels; 0 leaves them whole.
        flip: Whether training images are mirrored at random, left and right.
    """

    def __init__(
        self,
        data_dir: str,
        image_size: int | None = None,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
        crop_padding: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, val_fraction, num_workers, seed, crop_padding, flip)
        check_path("data_dir", data_dir)
        if image_size is not None:
            check_count("image_size", image_size)
        self.data_dir = data_dir
        self.image_size = image_size

    @property
    def classes(self) -> list[str]:
        """Names of the classes: the folders in ``train``, sorted."""
        return class_names(Path(self.data_dir, "train"))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image; read from the first training image unless ``image_size`` sets it."""
        return 3, *self._size

    def prepare_data(self) -> None:
        """Check the folders, which is cheap, before anything is decoded."""
        if Path(self.data_dir, "val").is_dir() and self.val_fraction > 0:
            raise SparsityError(
                f"`val_fraction` must be 0 where {self.data_dir} has a val folder, got {self.val_fraction}. "
                "Set it to 0, or move the folder away."
            )
        classes = self.classes
        for part in self._parts():
            check_classes(classes, Path(self.data_dir, part))

    def load_train(self) -> Labelled:
        """Decode the images in ``train``."""
        self.prepare_data()
        return self._decode("train")

    def load_val(self) -> Labelled | None:
        """Decode the images in ``val``, if there is such a folder."""
        return self._decode("val") if "val" in self._parts() else None

    def load_test(self) -> Labelled | None:
        """Decode the images in ``test``, if there is such a folder."""
        return self._decode("test") if "test" in self._parts() else None

    def _parts(self) -> list[str]:
        return [part for part in ("val", "test") if Path(self.data_dir, part).is_dir()]

    def _open(self, part: str) -> Any:
        class_names(Path(self.data_dir, part))
        datasets = import_extra("torchvision.datasets", "this data set")
        return datasets.ImageFolder(str(Path(self.data_dir, part)))

    @cached_property
    def _size(self) -> tuple[int, int]:
        if self.image_size is not None:
            return self.image_size, self.image_size
        folder = self._open("train")
        width, height = folder.loader(folder.samples[0][0]).size
        return height, width

    def _decode(self, part: str) -> Labelled:
        folder = self._open(part)
        pixels = np.empty((len(folder.samples), 3, *self._size), dtype=np.uint8)
        for index, image in enumerate(self._read(folder)):
            pixels[index] = image.transpose(2, 0, 1)
        return torch.from_numpy(pixels), torch.tensor(folder.targets)

    def _read(self, folder: Any) -> Iterator[np.ndarray]:
        """Yield the images as ``(height, width, 3)``, all of one size."""
        height, width = self._size
        for path, _ in folder.samples:
            image = folder.loader(path)
            if self.image_size is not None:
                image = image.resize((width, height))
            if image.size != (width, height):
                raise SparsityError(
                    "`image_size` must be set where images differ in size, got None: "
                    f"{path} is {image.size[1]} x {image.size[0]}, the first one {height} x {width}."
                )
            yield np.asarray(image)
