from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_sparse.checks import SparsityError
from lightning_sparse.data import ImageFolderDataModule

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("torchvision")


def _write(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10, size: int = 6) -> None:
    """Write images whose colour is (class, index, 0), as PNG: lossless."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((size, size + 2, 3), (label, index, 0), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def _module(folder: Path, **arguments: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(folder), **arguments)


def test_reads_classes_pixels_and_shape(tmp_path: Path) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / "test", count=3)
    module = _module(tmp_path)
    assert module.num_classes == 2
    assert module.input_shape == (3, 6, 8)
    images, labels = module.load_train()
    assert images.dtype == torch.uint8
    assert images.shape == (20, 3, 6, 8)
    assert labels.tolist() == [0] * 10 + [1] * 10
    assert images[13, :, 0, 0].tolist() == [1, 3, 0]


def test_splits_the_training_images(tmp_path: Path) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / "test", count=3)
    module = _module(tmp_path, val_fraction=0.2)
    loaders: list[Any] = [module.train_dataloader(), module.val_dataloader(), module.test_dataloader()]
    assert [len(loader.dataset) for loader in loaders] == [16, 4, 6]


def test_image_size_resizes(tmp_path: Path) -> None:
    _write(tmp_path / "train")
    module = _module(tmp_path, image_size=5)
    assert module.input_shape == (3, 5, 5)
    assert next(iter(module.train_dataloader()))[0].shape == (18, 3, 5, 5)


def test_a_validation_folder_replaces_the_split(tmp_path: Path) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / "val", count=2)
    loader: Any = _module(tmp_path, val_fraction=0).val_dataloader()
    assert len(loader.dataset) == 4
    with pytest.raises(ValueError, match=r"`val_fraction` must be 0 where .* got 0.1"):
        _module(tmp_path).prepare_data()


def test_the_test_folder_is_optional(tmp_path: Path) -> None:
    _write(tmp_path / "train")
    module = _module(tmp_path)
    module.setup("fit")
    assert module.test_dataloader() == []


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_odd_size_names_file_and_argument(part: str, tmp_path: Path) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / "test", count=1)
    Image.new("RGB", (9, 4)).save(tmp_path / part / "dog" / "odd.png")
    with pytest.raises(ValueError, match=r"`image_size` .* got None: .*odd.png is 4 x 9, .* 6 x 8"):
        _module(tmp_path).setup()
    _module(tmp_path, image_size=6).setup()


def test_missing_folder_or_classes(tmp_path: Path) -> None:
    for _ in range(2):  # without train, then with a train folder that holds no class
        with pytest.raises(
            SparsityError, match=r"`data_dir` must hold a folder per class in .*train, got none"
        ):
            _module(tmp_path).prepare_data()
        (tmp_path / "train").mkdir(exist_ok=True)


def test_a_class_without_images(tmp_path: Path) -> None:
    _write(tmp_path / "train")
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        _module(tmp_path).setup()


def test_classes_must_agree(tmp_path: Path) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / "test", classes=("cat", "horse"))
    with pytest.raises(ValueError, match="in train and test, got dog, horse in one of them only"):
        _module(tmp_path).prepare_data()


def test_image_size_is_checked() -> None:
    with pytest.raises(ValueError, match="`image_size` must be an integer of at least 1, got 0"):
        ImageFolderDataModule("anywhere", image_size=0)
