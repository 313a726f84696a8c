"""Tiny ImageNet and ImageNet, read from their files as they are needed."""

from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError, check_count
from lightning_sparse.data.files import ImageFiles, annotated_files, check_classes, files_by_class
from lightning_sparse.data.streamed import StreamedDataModule
from lightning_sparse.extras import import_extra

__all__ = ["ImageNetDataModule", "TinyImageNetDataModule"]


class TinyImageNetDataModule(StreamedDataModule):
    """Tiny ImageNet: 100,000 training and 10,000 validation images of 200 classes, 64 x 64.

    The folder is as its archive has it: ``train/<class>/images/*.JPEG``, ``val/images/*.JPEG`` and
    ``val/val_annotations.txt``, which tells their classes. Nothing is moved. The images of ``test`` have no
    labels, and are not read. Training images are cropped out of themselves with a black margin of 4 pixels,
    and mirrored, as in the papers.

    Args:
        data_dir: Folder with ``train`` and ``val`` in it, ``tiny-imagenet-200`` as a rule.
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 validates on ``val``, which is
            what ``test`` measures in either case.
        num_workers: Worker processes per loader; as many as there are cores is a good start.
        prefetch: Batches that each worker reads ahead.
        persistent_workers: Keep workers from epoch to epoch; see ``StreamedDataModule``.
        seed: Seed of the split. The order of batches follows the global generator (``seed_everything``).
        crop_padding: Width of the margin that training images are cropped with; 0 leaves them whole.
        flip: Whether training images are mirrored at random, left and right.

    Raises:
        SparsityError: If an argument is of another kind, or out of range; before any image is read, if the
            folders are not those of the archive.

    Source:
        Wu et al., "Tiny ImageNet Challenge", 2017. Mean, standard deviation and margin are those of the DCTpS
        paper's code (github.com/IlanPrice/DCTpS), which has them from FORCE's (github.com/naver/force).
    """

    input_shape = (3, 64, 64)
    mean = (0.4802, 0.4481, 0.3975)
    std = (0.2770, 0.2691, 0.2821)

    def __init__(
        self,
        data_dir: str = "data/tiny-imagenet-200",
        batch_size: int = 128,
        val_fraction: float = 0.0,
        num_workers: int = 4,
        prefetch: int = 2,
        persistent_workers: bool = False,
        seed: int = 0,
        crop_padding: int = 4,
        flip: bool = True,
    ) -> None:
        super().__init__(
            data_dir, batch_size, val_fraction, num_workers, prefetch, persistent_workers, seed, flip
        )
        check_count("crop_padding", crop_padding, 0)
        self.crop_padding = crop_padding

    def crop(self, training: bool) -> list[Any]:
        """Return a crop out of the image with its margin, or nothing."""
        v2 = import_extra("torchvision.transforms.v2", "this data set")
        crops = training and self.crop_padding > 0
        return [v2.RandomCrop(self.input_shape[1:], padding=self.crop_padding)] if crops else []

    def check_val(self, folder: Path) -> None:
        """Raise unless the images and their table are there."""
        for part, there in {
            "images": (folder / "images").is_dir(),
            "val_annotations.txt": (folder / "val_annotations.txt").is_file(),
        }.items():
            if not there:
                raise SparsityError(
                    f"`data_dir` must hold Tiny ImageNet as its archive has it, got no {folder / part}. "
                    "Unpack the archive once more: no file needs to be moved."
                )

    def val_files(self, folder: Path) -> ImageFiles:
        """List the images that the table names."""
        return annotated_files(folder / "images", folder / "val_annotations.txt", self.classes)


class ImageNetDataModule(StreamedDataModule):
    """ImageNet, or any images in one folder per class: ``train/<class>/*.JPEG``, ``val/<class>/*.JPEG``.

    Training images are random crops of 8 to 100% of the area, resized, and mirrored; others are resized and
    cropped in the middle, which takes 7/8 of the shorter side.

    Args:
        data_dir: Folder with ``train`` and ``val`` in it.
        image_size: Height and width of what the net is given.
        batch_size: Images per batch.
        val_fraction: Share of the training images held out for validation; 0 validates on ``val``, which is
            what ``test`` measures in either case.
        num_workers: Worker processes per loader; as many as there are cores is a good start.
        prefetch: Batches that each worker reads ahead.
        persistent_workers: Keep workers from epoch to epoch; see ``StreamedDataModule``.
        seed: Seed of the split. The order of batches follows the global generator (``seed_everything``).
        flip: Whether training images are mirrored at random, left and right.

    Raises:
        SparsityError: If an argument is of another kind, or out of range; before any image is read, if the
            folders of ``val`` are not those of ``train``.

    Source:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. Crops, mean and
        standard deviation are those of torchvision's training recipes.
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(
        self,
        data_dir: str = "data/imagenet",
        image_size: int = 224,
        batch_size: int = 256,
        val_fraction: float = 0.0,
        num_workers: int = 4,
        prefetch: int = 2,
        persistent_workers: bool = False,
        seed: int = 0,
        flip: bool = True,
    ) -> None:
        super().__init__(
            data_dir, batch_size, val_fraction, num_workers, prefetch, persistent_workers, seed, flip
        )
        check_count("image_size", image_size)
        self.image_size = image_size

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return 3, self.image_size, self.image_size

    def crop(self, training: bool) -> list[Any]:
        """Return the random crop, or the one in the middle."""
        v2 = import_extra("torchvision.transforms.v2", "this data set")
        if training:
            return [v2.RandomResizedCrop(self.image_size)]
        return [v2.Resize(round(self.image_size * 8 / 7)), v2.CenterCrop(self.image_size)]

    def check_val(self, folder: Path) -> None:
        """Raise unless it has the classes of ``train``."""
        check_classes(self.classes, folder)

    def val_files(self, folder: Path) -> ImageFiles:
        """List the images in the folders of classes."""
        return files_by_class(folder, self.classes)
