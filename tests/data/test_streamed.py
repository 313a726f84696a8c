import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resumed import Small, assert_goes_on, whole_and_resumed
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.data import ImageNetDataModule, StreamedDataModule, TinyImageNetDataModule

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("torchvision")

CLASSES = ("n01", "n02", "n03")
TRAIN, VAL = 8, 2  # images of each class
EITHER = pytest.mark.parametrize("kind", [TinyImageNetDataModule, ImageNetDataModule])


def _write(path: Path, red: int, green: int = 0, size: tuple[int, int] = (64, 64)) -> None:
    """Write an image whose left half is of one colour, and whose right half has blue in it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    pixels[...] = (red, green, 0)
    pixels[:, size[1] // 2 :, 2] = 200
    Image.fromarray(pixels).save(path, format="JPEG", quality=95, subsampling=0)


def _tiny(root: Path) -> Path:
    """Make what the archive of Tiny ImageNet has in it, but smaller; red tells the class, green the image."""
    lines = []
    for label, name in enumerate(CLASSES):
        for index in range(TRAIN):
            _write(root / "train" / name / "images" / f"{name}_{index}.JPEG", 60 * label, 30 * index)
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
    for index in range(VAL * len(CLASSES)):  # classes take turns, as in a table that is not sorted
        label = 2 - index % 3
        _write(root / "val" / "images" / f"val_{index}.JPEG", 60 * label, 30 * index)
        lines.append(f"val_{index}.JPEG\t{CLASSES[label]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    _write(root / "test" / "images" / "test_0.JPEG", 0)
    return root


def _imagenet(root: Path) -> Path:
    """Make folders as ImageNet's, with images of several sizes."""
    for part, count in {"train": TRAIN, "val": VAL}.items():
        for label, name in enumerate(CLASSES):
            for index in range(count):
                path = root / part / name / f"{name}_{index}.JPEG"
                _write(path, 60 * label, 30 * index, (80 + index, 96))
    return root


MAKE = {TinyImageNetDataModule: _tiny, ImageNetDataModule: _imagenet}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """Both data sets, to read only."""
    return {kind: make(tmp_path_factory.mktemp("data")) for kind, make in MAKE.items()}


def _data(kind: Any, folder: Path, **arguments: Any) -> StreamedDataModule:
    small = {} if kind is TinyImageNetDataModule else {"image_size": 32}
    return kind(str(folder), **{"batch_size": 4, "num_workers": 0, **small, **arguments})


def _all(loader: Any) -> tuple[Tensor, Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def _pixels(data: StreamedDataModule, images: Tensor) -> Tensor:
    """Undo the normalisation by the formula."""
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    return 255 * (images * std.view(3, 1, 1) + mean.view(3, 1, 1))


@EITHER
def test_labels_are_those_of_the_folders_and_images_are_normalised(kind, folders) -> None:
    data = _data(kind, folders[kind])
    data.prepare_data()
    assert data.num_classes == 3
    side = data.input_shape[1]
    for loader, count in ((data.train_dataloader(), TRAIN), (data.test_dataloader(), VAL)):
        images, labels = _all(loader)
        assert images.dtype == torch.float32
        assert images.shape == (3 * count, 3, side, side)
        assert labels.bincount().tolist() == [count] * 3
        red = _pixels(data, images)[:, 0].amax((1, 2))  # black margins aside
        torch.testing.assert_close(red, 60.0 * labels, atol=4, rtol=0)


@EITHER
def test_only_training_images_change_from_epoch_to_epoch(kind, folders) -> None:
    data = _data(kind, folders[kind])
    test, val = _all(data.test_dataloader())[0], _all(data.val_dataloader())[0]
    assert torch.equal(test, val)  # the labelled images of val are both
    assert torch.equal(test, _all(data.test_dataloader())[0])
    blue = _pixels(data, test)[:, 2]
    half = blue.shape[-1] // 2
    assert bool((blue[..., : half - 2] < 5).all())
    assert bool((blue[..., half + 2 :] > 190).all())
    images, _ = data.train_dataloader().dataset.__getitems__([5] * 64)  # type: ignore[attr-defined]
    assert len({image.numpy().tobytes() for image in images}) > 16


def test_crops_of_tiny_imagenet_have_a_black_margin_and_are_mirrored(folders) -> None:
    torch.manual_seed(0)
    folder = folders[TinyImageNetDataModule]
    data = _data(TinyImageNetDataModule, folder, crop_padding=4)
    drawn, _ = data.train_dataloader().dataset.__getitems__([2 * TRAIN + 1] * 300)  # type: ignore[attr-defined]
    images = _pixels(data, drawn)
    black = images[:, 0] < 60  # of red there are 120 elsewhere
    rows = black.all(2).sum(1)
    columns = black.all(1).sum(1)
    assert set(rows.tolist()) == set(columns.tolist()) == set(range(5))
    left, right = images[:, 2, 32, 8], images[:, 2, 32, -8]
    assert bool(((left > 100) ^ (right > 100)).all())
    assert 100 < int((left > 100).sum()) < 200
    whole = _data(TinyImageNetDataModule, folder, crop_padding=0, flip=False)
    images, _ = whole.train_dataloader().dataset.__getitems__([9, 9])  # type: ignore[attr-defined]
    assert torch.equal(images[0], images[1])


def test_images_of_imagenet_are_resized_to_eight_sevenths_and_cropped_in_the_middle(folders) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    folder = folders[ImageNetDataModule]
    data = _data(ImageNetDataModule, folder, image_size=56)
    images, _ = _all(data.test_dataloader())
    with Image.open(folder / "val" / "n02" / "n02_1.JPEG") as image:
        expected = functional.pil_to_tensor(functional.center_crop(functional.resize(image, 64), 56))
    torch.testing.assert_close(_pixels(data, images[3]), expected.float(), atol=1e-3, rtol=0)


@EITHER
def test_a_share_of_the_training_images_can_be_held_out(kind, folders) -> None:
    data = _data(kind, folders[kind], val_fraction=0.25, flip=False)
    parts = data.datasets()
    names = {part: set(parts[part].files.names.tolist()) for part in parts}  # type: ignore[attr-defined]
    assert [len(names[part]) for part in ("train", "val", "test")] == [18, 6, 6]
    assert not names["train"] & names["val"]
    assert parts["val"].files.folder == parts["train"].files.folder  # type: ignore[attr-defined]
    labels = _all(data.val_dataloader())[1]
    red = _pixels(data, _all(data.val_dataloader())[0])[:, 0].amax((1, 2))
    torch.testing.assert_close(red, 60.0 * labels, atol=4, rtol=0)


def test_grey_and_transparent_images_become_rgb(tmp_path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "only").mkdir(parents=True)
        for mode in ("L", "RGBA", "CMYK"):
            kind = "png" if mode == "RGBA" else "jpg"
            Image.new(mode, (40, 40)).save(tmp_path / part / "only" / f"{mode}.{kind}")
    images, _ = _all(_data(ImageNetDataModule, tmp_path).test_dataloader())
    assert images.shape == (3, 3, 32, 32)


# Memory.


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells what a process holds on Linux only")
def test_memory_does_not_grow_with_what_has_been_read(tmp_path) -> None:
    """200 images of 256 x 256 are 39 MB as pixels, and 157 MB in float32."""
    for part, count in {"train": 200, "val": 1}.items():
        _write(tmp_path / part / "only" / "0.JPEG", 100, 100, (256, 256))
        for index in range(1, count):
            (tmp_path / part / "only" / f"{index}.JPEG").hardlink_to(tmp_path / part / "only" / "0.JPEG")
    loader: Any = _data(ImageNetDataModule, tmp_path, image_size=256).train_dataloader()
    batches = iter(loader)
    for _ in range(10):
        next(batches)
    before = _resident()
    read = sum(len(labels) for _, labels in batches)
    assert read == 160
    assert _resident() - before < 20e6


@EITHER
def test_a_worker_is_sent_names_alone(kind, folders) -> None:
    data = _data(kind, folders[kind]).datasets()["train"]
    sent = pickle.dumps(data.files)  # type: ignore[attr-defined]
    pixels = sum(path.stat().st_size for path in folders[kind].rglob("train/**/*.JPEG"))
    assert len(sent) < pixels / 4
    assert pickle.loads(pickle.dumps(data))[7][1] == data[7][1]


# What can be repeated.


@EITHER
def test_the_same_seed_gives_the_same_images_in_workers_too(kind, folders) -> None:
    def images(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return _all(_data(kind, folders[kind], num_workers=2).train_dataloader())[0]

    first = images(3)
    assert torch.equal(first, images(3))
    assert not torch.equal(first, images(4))


class _Seen(Small):
    """The toy of the tests of resuming, for images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_resumed_at_the_end_of_an_epoch_sees_the_images_it_would_have_seen(
    num_workers, folders, tmp_path
) -> None:
    folder = folders[TinyImageNetDataModule]

    def loader() -> Any:
        return _data(TinyImageNetDataModule, folder, num_workers=num_workers).train_dataloader()

    assert_goes_on(*whole_and_resumed(tmp_path, loader, number=1, make_module=_Seen, max_epochs=2))


def test_workers_that_stay_are_said_to_be_out_of_reach(folders, tmp_path) -> None:
    def loader() -> Any:
        data = _data(
            TinyImageNetDataModule,
            folders[TinyImageNetDataModule],
            num_workers=1,
            persistent_workers=True,
            prefetch=3,
        )
        made: Any = data.train_dataloader()
        assert (made.persistent_workers, made.prefetch_factor) == (True, 3)
        return made

    with pytest.warns(UserWarning, match="ExactResume: a resumed run may differ.*`persistent_workers=True`"):
        whole_and_resumed(tmp_path, loader, number=1, make_module=_Seen, max_epochs=2)


# What is wrong is said before any image is read.


@pytest.fixture
def unread(monkeypatch):
    """No image may be opened."""
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))


def _without(path: str) -> Any:
    def break_(root: Path) -> None:
        shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()

    return break_


def _table(text: str) -> Any:
    return lambda root: (root / "val" / "val_annotations.txt").write_text(text)


TINY, LARGE = TinyImageNetDataModule, ImageNetDataModule


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("kind", "break_", "message"),
    [
        (TINY, _without("train"), r"a folder per class in .*train, got none. The layout is .*train/<class>"),
        (LARGE, _without("train"), r"a folder per class in .*train, got none"),
        (LARGE, _without("val"), r"a folder per class in .*val, got none. The layout is .*val/<class>"),
        (TINY, _without("val"), r"as its archive has it, got no .*val/images. Unpack"),
        (TINY, _without("val/images"), r"got no .*val/images. Unpack"),
        (TINY, _without("val/val_annotations.txt"), r"got no .*val_annotations.txt. Unpack"),
        (TINY, _table(""), r"must have images in .*val_annotations.txt, got none"),
        (TINY, _table("val_0.JPEG\tn02\n\n"), r"got '' in line 2"),
        (TINY, _table("val_0.JPEG\tn99\t0\n"), r"got 'val_0.JPEG\\tn99\\t0' in line 1"),
        (TINY, _table("val_77.JPEG\tn02\n"), r"got image 'val_77.JPEG', which is not in .* in line 1"),
        (
            LARGE,
            _without("val/n02"),
            r"same class folders in train and val, got n02 in one of them only \(1 ",
        ),
        (LARGE, lambda root: (root / "train" / "n09").mkdir(), r"got n09 in one of them only"),
        (TINY, lambda root: (root / "train" / "n09").mkdir(), r"got none of some in .*train: .* n09"),
    ],
)
def test_other_folders_are_refused(kind, break_, message, tmp_path, folders) -> None:
    shutil.copytree(folders[kind], tmp_path / "own")
    break_(tmp_path / "own")
    with pytest.raises(SparsityError, match=message):
        _data(kind, tmp_path / "own").setup()


@EITHER
def test_the_folder_above_is_not_meant(kind, folders, tmp_path) -> None:
    (tmp_path / "below").symlink_to(folders[kind])
    with pytest.raises(SparsityError, match=rf"got none.* Did you mean {tmp_path}/below\?"):
        _data(kind, tmp_path).prepare_data()


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_no_image_is_named(content, folders, tmp_path) -> None:
    shutil.copytree(folders[LARGE] / "val", tmp_path / "train")
    shutil.copytree(folders[LARGE] / "val", tmp_path / "val")
    broken = tmp_path / "val" / "n02" / "n02_1.JPEG"
    broken.write_bytes(broken.read_bytes()[:600] if content is None else content)
    data = _data(LARGE, tmp_path)
    with pytest.raises(SparsityError, match=rf"images that can be read, got {broken}: .*\. Unpack the data"):
        _all(data.test_dataloader())


def test_images_of_two_sizes_are_named(tmp_path) -> None:
    _write(_tiny(tmp_path) / "val" / "images" / "val_1.JPEG", 0, 0, (64, 70))
    with pytest.raises(SparsityError, match=r"of one size, got .*val_1.JPEG of \(3, 64, 70\) beside \(3, 64"):
        _all(_data(TINY, tmp_path).test_dataloader())


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (TINY, {"crop_padding": -1}, "`crop_padding` must be an integer of at least 0, got -1"),
        (LARGE, {"image_size": 0}, "`image_size` must be an integer of at least 1, got 0"),
        (TINY, {"prefetch": 0}, "`prefetch` must be an integer of at least 1, got 0"),
        (LARGE, {"persistent_workers": 1}, "`persistent_workers` must be True or False, got 1"),
        (TINY, {"flip": "yes"}, "`flip` must be True or False, got 'yes'"),
        (LARGE, {"data_dir": ""}, "`data_dir` must be a path, got ''"),
        (TINY, {"val_fraction": 1.0}, r"`val_fraction` must be in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_are_checked(kind, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
