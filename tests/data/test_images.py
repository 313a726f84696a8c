import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_sparse.data import (
    DigitsDataModule,
    ImageDataModule,
    InMemoryImages,
    SyntheticDataModule,
    collate,
)
from lightning_sparse.data.images import channel_statistics
from lightning_sparse.data.labelled import Labelled, split


class Numbered(ImageDataModule):
    """Two-pixel images that carry their own index, so that a split can be read off them."""

    input_shape = (1, 1, 2)
    num_classes = 2
    loads = 0

    def load_train(self) -> Labelled:
        self.loads += 1
        return _numbered(50)

    def load_test(self) -> Labelled | None:
        return _numbered(10)


class WithValidation(Numbered):
    def load_val(self) -> Labelled | None:
        return _numbered(7)

    def load_test(self) -> Labelled | None:
        return None


def _numbered(count: int) -> Labelled:
    numbers = torch.arange(count)
    return numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 1, 2).contiguous(), numbers


def _labels(loader: Any) -> list[int]:
    return torch.cat([labels for _, labels in loader]).tolist()


def test_split_sides_are_disjoint_and_exhaustive() -> None:
    kept, held_out = split(50, 0.1, seed=3)
    assert len(held_out) == 5
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(50))


@pytest.mark.parametrize(("count", "share", "expected"), [(10, 0.25, 3), (10, 0.24, 2), (10, 0.0, 0)])
def test_split_rounds_half_up(count: int, share: float, expected: int) -> None:
    assert len(split(count, share, seed=0)[1]) == expected


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_split_refuses_an_empty_side(share: float) -> None:
    with pytest.raises(
        ValueError, match=rf"`val_fraction` must leave an image on each side, got {share} of 10 images"
    ):
        split(10, share, seed=0)


def test_validation_share_is_disjoint_exhaustive_and_seeded() -> None:
    def parts(seed: int) -> tuple[list[int], list[int]]:
        module = Numbered(val_fraction=0.2, seed=seed, batch_size=8)
        return _labels(module.train_dataloader()), _labels(module.val_dataloader())

    train, val = parts(0)
    assert len(val) == 10
    assert sorted(train + val) == list(range(50))
    assert parts(0)[1] == val
    assert parts(1)[1] != val


def test_the_split_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Numbered().setup()
    assert torch.equal(torch.get_rng_state(), before)


def test_without_validation_share_there_is_no_loader() -> None:
    module = Numbered(val_fraction=0)
    assert module.val_dataloader() == []
    assert sorted(_labels(module.train_dataloader())) == list(range(50))


def test_own_validation_images_replace_the_split() -> None:
    module = WithValidation(val_fraction=0)
    assert _labels(module.val_dataloader()) == list(range(7))
    assert sorted(_labels(module.train_dataloader())) == list(range(50))


def test_without_test_images_there_is_no_loader() -> None:
    assert WithValidation().test_dataloader() == []


def test_setup_loads_once() -> None:
    module = Numbered()
    for stage in ("fit", "validate", "test", "fit"):
        module.setup(stage)
    module.train_dataloader()
    assert module.loads == 1


def test_training_batches_are_shuffled_and_complete() -> None:
    module = Numbered(val_fraction=0, batch_size=16)
    first, second = _labels(module.train_dataloader()), _labels(module.train_dataloader())
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))
    assert [len(labels) for _, labels in module.train_dataloader()] == [16, 16, 16, 2]


def _all(loader: DataLoader[Labelled]) -> Tensor:
    return torch.cat([images for images, _ in loader])


@pytest.mark.parametrize("make", [DigitsDataModule, SyntheticDataModule])
def test_normalised_training_images_have_mean_0_and_std_1(make: Callable[[], ImageDataModule]) -> None:
    images = _all(make().train_dataloader())
    std, mean = torch.std_mean(images.double(), dim=(0, 2, 3), correction=0)
    assert images.dtype == torch.float32
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones_like(std), atol=1e-5, rtol=0)


def test_test_images_use_the_statistics_of_the_training_images() -> None:
    module = Numbered(val_fraction=0)  # the integers 0 to 49: mean 24.5, variance (50 ** 2 - 1) / 12
    expected = (torch.arange(10) - 24.5) / (2499 / 12) ** 0.5
    torch.testing.assert_close(_all(module.test_dataloader())[:, 0, 0, 0], expected)


def test_channel_statistics_by_hand() -> None:
    images = torch.tensor([[[[0, 2]], [[7, 7]]], [[[4, 6]], [[7, 7]]]], dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert mean.flatten().tolist() == [3, 7]
    assert std.flatten().tolist() == [pytest.approx(5**0.5), 1]  # the constant channel is not divided by 0


def test_channel_statistics_over_several_parts() -> None:
    images = torch.randn(9000, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    std, mean = torch.std_mean(images.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(channel_statistics(images)[0].flatten(), mean.float())
    torch.testing.assert_close(channel_statistics(images)[1].flatten(), std.float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_batches_equal_stacked_samples(dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (20, 3, 4, 5)).to(dtype)
    data = InMemoryImages(pixels.clone(), torch.arange(20), torch.rand(3, 1, 1), torch.rand(3, 1, 1) + 1)
    images, labels = data.__getitems__([5, 0, 5])
    stacked = collate([data[5], data[0], data[5]])
    assert images.dtype == torch.float32
    assert torch.equal(images, stacked[0])
    assert torch.equal(labels, stacked[1])
    assert torch.equal(data.images, pixels)  # reading leaves what is stored alone


def test_loader_reads_batches_and_collate_pickles() -> None:
    data = InMemoryImages(*_numbered(10))
    loader = DataLoader(data, batch_size=4, collate_fn=pickle.loads(pickle.dumps(collate)))
    assert [labels.tolist() for _, labels in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_workers_change_nothing() -> None:
    def batches(workers: int) -> list[Labelled]:
        torch.manual_seed(0)
        return list(Numbered(batch_size=8, num_workers=workers).train_dataloader())

    for (images, labels), (other_images, other_labels) in zip(batches(0), batches(2), strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_images_and_labels_must_fit() -> None:
    with pytest.raises(ValueError, match=r"`labels` \(N,\), got \(3, 1, 2, 2\) and \(4,\)"):
        InMemoryImages(torch.zeros(3, 1, 2, 2), torch.zeros(4))
    with pytest.raises(ValueError, match=r"`images` must be \(N, C, H, W\)"):
        InMemoryImages(torch.zeros(3, 2, 2), torch.zeros(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0"),
        ({"val_fraction": 1.0}, r"`val_fraction` must be in \[0, 1\), got 1.0. It is a share"),
        ({"val_fraction": -0.1}, r"`val_fraction` must be in \[0, 1\), got -0.1"),
        ({"val_fraction": float("nan")}, "got nan"),
        ({"num_workers": -1}, "`num_workers` must be an integer of at least 0, got -1"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, got -1"),
    ],
)
def test_arguments_are_checked_by_the_constructor(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Numbered(**arguments)


class Growing(Numbered):
    """Images of 4 x 4 pixels, each brighter to the right and further down than the one before it."""

    input_shape = (1, 4, 4)

    def load_train(self) -> Labelled:
        images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).expand(512, -1, -1, -1)
        return images.contiguous(), torch.arange(512)

    load_test = load_train


def test_training_images_are_cropped_and_mirrored_and_no_others() -> None:
    torch.manual_seed(0)
    data = Growing(batch_size=512, val_fraction=0, crop_padding=1, flip=True)
    (tests,) = [images for images, _ in data.test_dataloader()]
    whole = tests[0]
    (images,) = [images for images, _ in data.train_dataloader()]
    black = -data._images["train"].mean / data._images["train"].std
    framed = torch.nn.functional.pad(whole - black, (1, 1, 1, 1)) + black
    crops = [framed[:, top : top + 4, left : left + 4] for top in range(3) for left in range(3)]
    allowed = [*crops, *(crop.flip(-1) for crop in crops)]
    found = [[torch.allclose(image, crop, atol=1e-6) for crop in allowed] for image in images]
    assert all(map(any, found))
    assert all(map(any, zip(*found, strict=True)))  # of 512 images
    assert torch.equal(tests, whole.expand(512, -1, -1, -1))


def test_augmentation_follows_the_global_generator() -> None:
    data = Growing(batch_size=8, val_fraction=0, crop_padding=1)
    torch.manual_seed(3)
    first = torch.cat([images for images, _ in data.train_dataloader()])
    torch.manual_seed(3)
    again = torch.cat([images for images, _ in data.train_dataloader()])
    other = torch.cat([images for images, _ in data.train_dataloader()])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`crop_padding` must be an integer of at least 0, got -1"):
        Growing(crop_padding=-1)
