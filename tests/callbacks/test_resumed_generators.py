"""Generators of classes, of other callbacks and of numpy's bits: a resumed run goes on where they were."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from resumed import Noisy, Small, assert_goes_on, plain, rows, whole_and_resumed

from lightning_sparse.trainer.generators import generator_states, restore_generators_


class OfClass(Noisy):
    """Draws from a generator of the class, which each run begins anew."""

    rng = np.random.default_rng(3)

    def __init__(self):
        type(self).rng = np.random.default_rng(3)
        super().__init__(lambda: torch.from_numpy(self.rng.normal(size=6)).float())


class Inherits(OfClass):
    """Has it from a class that it inherits from."""

    def __init__(self):
        OfClass.rng = np.random.default_rng(3)
        Noisy.__init__(self, lambda: torch.from_numpy(self.rng.normal(size=6)).float())


class Transform:
    settings = {"draws": torch.Generator()}  # noqa: RUF012

    def __call__(self):
        return torch.randn(6, generator=self.settings["draws"])


def transformed():
    Transform.settings["draws"] = torch.Generator().manual_seed(3)
    return Noisy(Transform())


@pytest.mark.parametrize("make", [OfClass, Inherits, transformed])
def test_generators_of_classes(make, tmp_path):
    assert_goes_on(*whole_and_resumed(tmp_path, lambda: plain(make())))


class Mixes(pl.Callback):
    def __init__(self, seed=1):
        self.draws = torch.Generator().manual_seed(seed)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch[0].add_(torch.randn(batch[0].shape, generator=self.draws))


class MixesNumpy(pl.Callback):
    def __init__(self):
        self.held = [np.random.default_rng(2)]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch[0].add_(float(self.held[0].normal()))


@pytest.mark.parametrize(
    "make", [lambda: [Mixes()], lambda: [Mixes(1), Mixes(2)], lambda: [Mixes(), MixesNumpy()]]
)
def test_generators_of_other_callbacks(make, tmp_path):
    assert_goes_on(*whole_and_resumed(tmp_path, lambda: plain(rows()), more=make))


class DrawsBits(Small):
    def __init__(self):
        super().__init__()
        self.bits = np.random.PCG64(3)

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0] + (self.bits.random_raw() % 100) / 100, batch[1]), batch_idx)


def test_bits_of_the_module(tmp_path):
    assert_goes_on(*whole_and_resumed(tmp_path, lambda: plain(rows()), make_module=DrawsBits))


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_every_kind_of_bits(kind):
    bits = getattr(np.random, kind)(5)
    bits.random_raw(7)
    saved = generator_states({"bits": bits})
    expected = bits.random_raw(20).tolist()
    other = getattr(np.random, kind)(6)
    assert restore_generators_({"bits": other}, saved) == []
    assert other.random_raw(20).tolist() == expected
    assert restore_generators_({"bits": np.random.default_rng(1)}, saved) == ["bits"]
