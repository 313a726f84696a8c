"""Data modules: images, in memory or read when needed, in batches. Optional packages are imported on use."""

from lightning_sparse.data.digits import DigitsDataModule
from lightning_sparse.data.image_folder import ImageFolderDataModule
from lightning_sparse.data.imagenet import ImageNetDataModule, TinyImageNetDataModule
from lightning_sparse.data.images import ImageDataModule, InMemoryImages
from lightning_sparse.data.labelled import LabelledImages, collate
from lightning_sparse.data.streamed import StreamedDataModule
from lightning_sparse.data.synthetic import SyntheticDataModule
from lightning_sparse.data.torchvision_sets import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    FashionMNISTDataModule,
    MNISTDataModule,
)

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "ImageNetDataModule",
    "InMemoryImages",
    "LabelledImages",
    "MNISTDataModule",
    "StreamedDataModule",
    "SyntheticDataModule",
    "TinyImageNetDataModule",
    "collate",
]
