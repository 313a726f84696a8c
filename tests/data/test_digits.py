import sys
from typing import Any

import pytest
import torch

from lightning_sparse.data import DigitsDataModule


def test_every_digit_is_in_exactly_one_part() -> None:
    module = DigitsDataModule()
    loaders: list[Any] = [module.train_dataloader(), module.val_dataloader(), module.test_dataloader()]
    sizes = [len(loader.dataset) for loader in loaders]
    assert sizes == [1294, 144, 359]
    assert sum(sizes) == 1797


def test_batches_have_the_declared_shape() -> None:
    module = DigitsDataModule(batch_size=16)
    images, labels = next(iter(module.train_dataloader()))
    assert images.shape == (16, *module.input_shape)
    assert labels.dtype == torch.int64
    assert 0 <= int(labels.min()) <= int(labels.max()) < module.num_classes


def test_turned_images_are_the_same_ones_turned() -> None:
    upright, turned = DigitsDataModule(), DigitsDataModule(quarter_turns=3)
    for load in ("load_train", "load_test"):
        images, labels = getattr(turned, load)()
        expected, same = getattr(upright, load)()
        assert torch.equal(images.rot90(1, (2, 3)), expected)
        assert torch.equal(labels, same)


def test_the_test_images_follow_the_seed() -> None:
    first, again, other = (DigitsDataModule(seed=seed).load_test()[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("fraction", "message"),
    [(1.0, r"must be in \(0, 1\), got 1.0"), (0, r"must be in \(0, 1\), got 0\. It is a share")],
)
def test_test_fraction_is_checked(fraction: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"`test_fraction` .*{message}"):
        DigitsDataModule(test_fraction=fraction)


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_NoSklearn(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=r'`sklearn` .*pip install "lightning-sparse\[recipes\]"'):
        DigitsDataModule().setup()


class _NoSklearn:
    """An import hook that behaves as if scikit-learn were not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "sklearn":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
