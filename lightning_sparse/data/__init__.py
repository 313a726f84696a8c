"""Data modules: images in memory, split, normalised and batched. Optional packages are imported on use."""

from lightning_sparse.data.digits import DigitsDataModule
from lightning_sparse.data.image_folder import ImageFolderDataModule
from lightning_sparse.data.images import ImageDataModule, InMemoryImages, collate
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
    "InMemoryImages",
    "MNISTDataModule",
    "SyntheticDataModule",
    "collate",
]
