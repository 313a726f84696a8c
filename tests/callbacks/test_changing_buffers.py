"""Modules with buffers that grow: every callback that scores or goes back trains them to the end."""

import pytest
import torch
from toy import HoldsMasks, Toy, loader, masks_of, trainer

from lightning_sparse import FORCE, ASNISigmoidPruner, IterativeMagnitudePruning, PruneAtInit


class Resizes(Toy):
    def __init__(self):
        super().__init__()
        self.register_buffer("largest", torch.empty(0))
        self.begun = []

    def training_step(self, batch, *rest):
        if self.largest.numel() == 0:
            self.largest.resize_(3).zero_()
        self.largest += 1
        return super().training_step(batch, *rest)

    def on_train_epoch_start(self):
        self.begun.append(self.largest.tolist())


class Grows(Resizes):
    def training_step(self, batch, *rest):
        self.largest = torch.cat([self.largest, batch[0].mean((1, 2, 3))])
        return Toy.training_step(self, batch, *rest)


class Caches(Resizes):
    def __init__(self):
        super().__init__()
        del self.largest
        self.register_buffer("largest", None)

    def training_step(self, batch, *rest):
        self.largest = torch.ones(1) if self.largest is None else self.largest + 1
        return Toy.training_step(self, batch, *rest)

    def on_train_epoch_start(self):
        self.begun.append(None if self.largest is None else self.largest.tolist())


@pytest.mark.parametrize(
    "make",
    [
        lambda: PruneAtInit("snip", 0.3),
        lambda: PruneAtInit("grasp", 0.3),
        lambda: PruneAtInit(FORCE(2, 1), 0.3),
        lambda: IterativeMagnitudePruning(0.3, rounds=2, epochs_per_round=1),
        lambda: ASNISigmoidPruner(density=0.3, search_epochs=2),
        lambda: ASNISigmoidPruner(density=0.3, search_epochs=2, reinit="original"),
    ],
    ids=["snip", "grasp", "force", "imp", "asni", "asni original"],
)
@pytest.mark.parametrize("kind", [Resizes, Grows, Caches])
def test_trains_to_the_end(tmp_path, kind, make):
    torch.manual_seed(0)
    module, callback, first = kind(), make(), None if kind is Caches else []
    trainer(tmp_path, callback, HoldsMasks(), max_epochs=3).fit(module, loader())
    assert sum(int(mask.sum()) for mask in masks_of(module).values()) == 305
    assert len(module.begun) == 3
    assert module.begun[0] == first  # scoring has left nothing behind
    if not isinstance(callback, PruneAtInit):
        assert module.begun[2] == first  # gone back to, before the module's own hook
