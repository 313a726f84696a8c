"""Files of images and their labels: listed from folders of classes or from a table, never opened here."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, first_line
from lightning_sparse.extras import import_extra
from lightning_sparse.selection import some_names

__all__ = ["ImageFiles", "annotated_files", "check_classes", "class_names", "files_by_class"]


@dataclass(frozen=True)
class ImageFiles:
    """Image files of one folder, and their labels.

    Names are kept as one array of bytes. A list of Python strings would be copied by every worker process,
    page by page, as reading a string counts its references: a gigabyte for all of ImageNet in four workers.

    Args:
        folder: Where the files are.
        names: Their paths within it, ``(N,)`` of bytes.
        labels: Numbers of their classes, ``(N,)``.
    """

    folder: str
    names: np.ndarray
    labels: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Return the path of a file."""
        return os.path.join(self.folder, os.fsdecode(self.names[index]))

    def chosen(self, indices: Tensor) -> "ImageFiles":
        """Return some of the files."""
        return ImageFiles(self.folder, self.names[indices.numpy()], self.labels[indices])


def class_names(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted as torchvision numbers them.

    Raises:
        SparsityError: If there is none; a folder below that has the wanted one is named.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    if not names:
        raise SparsityError(
            f"`data_dir` must hold a folder per class in {folder.absolute()}, got none. "
            f"The layout is <data_dir>/{folder.name}/<class>/<image>.{_meant(folder)}"
        )
    return names


def check_classes(expected: list[str], folder: Path) -> None:
    """Raise unless ``folder`` has the class folders of ``train``: labels are numbered by their order.

    Raises:
        SparsityError: It names the classes that only one of the two has.
    """
    odd = sorted(set(expected).symmetric_difference(class_names(folder)))
    if odd:
        raise SparsityError(
            f"`data_dir` must have the same class folders in train and {folder.name}, got "
            f"{some_names(odd)} in one of them only ({len(odd)} in all). "
            "Unpack the data set once more, or take these away."
        )


def files_by_class(folder: Path, classes: list[str]) -> ImageFiles:
    """List the images in the folders of classes, and in folders within them.

    Raises:
        SparsityError: If a class has no image.
    """
    torchvision = import_extra("torchvision.datasets.folder", "this data set")
    numbers = {name: number for number, name in enumerate(classes)}
    try:
        found = torchvision.make_dataset(str(folder), numbers, torchvision.IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise SparsityError(
            f"`data_dir` must hold images of every class, got none of some in {folder.absolute()}: "
            f"{first_line(error)}. Unpack the data set once more, or take the folders of such classes away."
        ) from error
    start = len(str(folder)) + 1
    names = np.array([os.fsencode(path[start:]) for path, _ in found])
    return ImageFiles(str(folder), names, torch.tensor([label for _, label in found]))


def annotated_files(folder: Path, table: Path, classes: list[str]) -> ImageFiles:
    """List the images that a table names: a line each, with the file and its class between tabs.

    Args:
        folder: Where the images are.
        table: File of text; more columns are left alone.
        classes: Names of all classes, in the order of their numbers.

    Raises:
        SparsityError: If a line is none of that kind, names another class, or a file that is not there.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    there = set(os.listdir(folder))
    names, labels = [], []
    for count, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        name, _, rest = line.partition("\t")
        label = numbers.get(rest.partition("\t")[0])
        if label is None or name not in there:
            what = f"image {name!r}, which is not in {folder}" if label is not None else repr(line[:80])
            raise SparsityError(
                f"`data_dir` must have an image of {folder} and its class in every line of {table}, got "
                f"{what} in line {count}. Unpack the archive once more."
            )
        names.append(os.fsencode(name))
        labels.append(label)
    if not names:
        raise SparsityError(
            f"`data_dir` must have images in {table}, got none. Unpack the archive once more."
        )
    return ImageFiles(str(folder), np.array(names), torch.tensor(labels))


def _meant(folder: Path) -> str:
    """Ask whether a folder below ``data_dir`` was meant."""
    root = folder.parent
    below = sorted(root.iterdir()) if root.is_dir() else []
    meant = next((path for path in below if (path / folder.name).is_dir()), None)
    return f" Did you mean {meant}?" if meant is not None else ""
