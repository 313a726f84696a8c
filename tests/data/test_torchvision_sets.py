"""The data sets are read from tiny files in their own formats, written here: nothing is downloaded."""

import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lightning_sparse.data
from lightning_sparse.checks import SparsityError
from lightning_sparse.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    FashionMNISTDataModule,
    ImageDataModule,
    MNISTDataModule,
)

datasets = pytest.importorskip("torchvision.datasets")


def _write_idx(path: Path, values: np.ndarray[Any, Any]) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def _write_mnist(folder: Path, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    folder.mkdir(parents=True)
    rng, written = np.random.default_rng(seed), {}
    for part, count in (("train", 40), ("t10k", 10)):
        written[part] = rng.integers(0, 256, (count, 28, 28))
        _write_idx(folder / f"{part}-images-idx3-ubyte", written[part])
        _write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return written


def _write_cifar(folder: Path, kind: Any, label_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(kind, attribute, [(name, None) for name, _ in getattr(kind, attribute)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    for name, _ in kind.train_list + kind.test_list:
        pixels = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, label_key: list(range(10))}))
    (folder / kind.meta["filename"]).write_bytes(
        pickle.dumps({kind.meta["key"]: [str(i) for i in range(10)]})
    )


@pytest.mark.parametrize(
    ("make", "name"), [(MNISTDataModule, "MNIST"), (FashionMNISTDataModule, "FashionMNIST")]
)
def test_mnist_reads_the_raw_files(make: type[ImageDataModule], name: str, tmp_path: Path) -> None:
    written = _write_mnist(tmp_path / name / "raw")
    module = make(str(tmp_path), val_fraction=0.25)  # type: ignore[arg-type]
    module.prepare_data()
    images, labels = module.load_train()
    assert torch.equal(images[:, 0], torch.from_numpy(written["train"]).to(torch.uint8))
    assert labels.tolist() == [i % 10 for i in range(40)]
    assert [len(loader.dataset) for loader in _loaders(module)] == [30, 10, 10]
    assert next(iter(module.train_dataloader()))[0].shape[1:] == module.input_shape == (1, 28, 28)


@pytest.mark.parametrize(
    ("make", "kind", "folder", "key", "count"),
    [
        (CIFAR10DataModule, datasets.CIFAR10, "cifar-10-batches-py", "labels", 50),
        (CIFAR100DataModule, datasets.CIFAR100, "cifar-100-python", "fine_labels", 10),
    ],
)
def test_cifar_reads_the_batches(
    make: Any, kind: Any, folder: str, key: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_cifar(tmp_path / folder, kind, key, monkeypatch)
    module = make(str(tmp_path), val_fraction=0)
    module.prepare_data()
    images, labels = module.load_train()
    first = torch.as_tensor(kind(str(tmp_path)).data[0])  # torchvision's own layout: height, width, channel
    assert torch.equal(images[0], first.permute(2, 0, 1))
    assert images.shape == (count, *module.input_shape)
    assert labels.dtype == torch.int64
    assert len(module.test_dataloader().dataset) == 10


def _loaders(module: ImageDataModule) -> list[Any]:
    return [module.train_dataloader(), module.val_dataloader(), module.test_dataloader()]


@pytest.mark.parametrize(
    ("make", "folder", "classes"),
    [
        (MNISTDataModule, "MNIST/raw", 10),
        (FashionMNISTDataModule, "FashionMNIST/raw", 10),
        (CIFAR10DataModule, "cifar-10-batches-py", 10),
        (CIFAR100DataModule, "cifar-100-python", 100),
    ],
)
def test_missing_files_name_the_folder_and_the_ways_out(
    make: Any, folder: str, classes: int, tmp_path: Path
) -> None:
    module = make(str(tmp_path))
    assert module.num_classes == classes
    for load in (module.prepare_data, module.setup):
        with pytest.raises(SparsityError, match=f"`data_dir` .*{folder}.*`download: true`"):
            load()


def test_damaged_files_are_an_error(tmp_path: Path) -> None:
    _write_mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(SparsityError, match="missing or damaged files"):
        MNISTDataModule(str(tmp_path)).setup()


def test_download_is_left_to_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: calls.append(Path(self.root)))
    _write_mnist(tmp_path / "MNIST" / "raw")
    MNISTDataModule(str(tmp_path), download=True).prepare_data()
    assert calls == [tmp_path]


@pytest.mark.parametrize("make", [MNISTDataModule, CIFAR100DataModule])
def test_a_download_that_fails_is_a_line(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise RuntimeError("Error downloading x.gz:\nTried one server")

    monkeypatch.setattr(getattr(datasets, make._dataset), "download", fail)
    with pytest.raises(SparsityError, match=rf"`download` .*got: Error downloading x.gz\. .*{make._folder}"):
        make(str(tmp_path), download=True).prepare_data()


def test_optional_packages_are_imported_on_use_only() -> None:
    package = Path(lightning_sparse.data.__file__).parents[1]
    files = [*package.glob("data/*.py"), *package.glob("models/*.py")]
    extras = re.compile(r"^(import|from) (torchvision|sklearn|jsonargparse|PIL|matplotlib)\b", re.MULTILINE)
    assert len(files) > 8
    assert not [path.name for path in files if extras.search(path.read_text())]
