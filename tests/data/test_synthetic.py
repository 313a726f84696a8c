from typing import Any

import pytest
import torch

from lightning_sparse.data import SyntheticDataModule


def test_sizes_shapes_and_classes() -> None:
    module = SyntheticDataModule(shape=[1, 4, 5], num_classes=3, size=30, test_size=6, val_fraction=0.2)
    loaders: list[Any] = [module.train_dataloader(), module.val_dataloader(), module.test_dataloader()]
    assert [len(loader.dataset) for loader in loaders] == [24, 6, 6]
    assert module.load_train()[0].shape == (30, *module.input_shape)
    assert module.load_train()[1].bincount().tolist() == [10, 10, 10]
    assert module.num_classes == 3


def test_is_seeded() -> None:
    first, again, other = (SyntheticDataModule(seed=seed).load_train()[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_images_tell_the_classes_of_test_images() -> None:
    module = SyntheticDataModule(shape=[3, 8, 8])
    (images, labels), (test_images, test_labels) = module.load_train(), module.load_test()
    means = torch.stack([images[labels == label].mean(dim=0) for label in range(module.num_classes)])
    nearest = torch.cdist(test_images.flatten(1), means.flatten(1)).argmin(dim=1)
    assert (nearest == test_labels).float().mean() > 0.95
    assert not torch.equal(images[:10], test_images[:10])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"shape": [32, 32]},
            r"`shape` must be 3 integers of at least 1, got \[32, 32\]. They are \[C, H, W\]",
        ),
        ({"shape": [3, 0, 32]}, r"`shape` .* got \[3, 0, 32\]"),
        ({"num_classes": 1}, "`num_classes` must be an integer of at least 2, got 1"),
        ({"size": 9}, "`size` must be an integer of at least 10, got 9"),
        ({"test_size": 0}, "`test_size` must be an integer of at least 1, got 0"),
        ({"noise": -1.0}, r"`noise` must be in \[0, inf\), got -1.0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticDataModule(**arguments)
