"""A training that has diverged: what prunes, rewinds or moves weights says so, and writes nothing."""

import math

import pytest
import pytorch_lightning as pl
import torch
from rounds import ENDS_EARLY
from toy import loader, make_toy, trainer

from lightning_sparse import (
    ASNISigmoidPruner,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
)
from lightning_sparse.files.from_file import FromFile

DIVERGED = r"NaN, got \d+ in 'net\.\d\.weight' .*If training has diverged"


class Diverges(pl.Callback):
    """Training diverges in its epoch 1, at the second of four steps: one loss is NaN."""

    def __init__(self, step=5, value=math.nan):
        self.step, self.value, self.after = step, value, 0

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step:
            loss.data.fill_(self.value)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            for parameter in pl_module.parameters():
                parameter.grad.fill_(self.value)

    def on_train_batch_end(self, trainer, *_):
        self.after = trainer.global_step


@ENDS_EARLY
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("reinit", ["centroids", "original", None])
def test_asni_writes_no_ticket(tmp_path, value, reinit):
    """In the search's last epoch nothing is pruned any more, and nothing was seen of it."""
    asni = ASNISigmoidPruner(density=0.3, search_epochs=2, reinit=reinit, ticket_path=str(tmp_path / "t.pt"))
    diverges = Diverges(value=value)
    with pytest.raises(ValueError, match=DIVERGED):
        trainer(tmp_path, asni, diverges, max_epochs=4).fit(make_toy(), loader())
    assert diverges.after <= 8
    assert not (tmp_path / "t.pt").exists()


@ENDS_EARLY
def test_asni_starts_no_retraining_without_a_ticket(tmp_path):
    diverges = Diverges()
    with pytest.raises(ValueError, match=DIVERGED):
        trainer(tmp_path, ASNISigmoidPruner(density=0.3, search_epochs=2), diverges, max_epochs=4).fit(
            make_toy(), loader()
        )
    assert diverges.after <= 8


@ENDS_EARLY
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("rewind_to_step", [0, 2])
def test_lottery_tickets(tmp_path, rewind_to_step, value):
    imp = IterativeMagnitudePruning(0.3, rounds=2, epochs_per_round=1, rewind_to_step=rewind_to_step)
    with pytest.raises(ValueError, match=DIVERGED):
        trainer(tmp_path, imp, Diverges(3, value), max_epochs=3).fit(make_toy(), loader())


@ENDS_EARLY
def test_a_lottery_ticket_is_not_rewound_to_nan(tmp_path):
    imp = IterativeMagnitudePruning(0.3, rounds=2, epochs_per_round=1, rewind_to_step=3)
    diverges = Diverges(1)
    with pytest.raises(ValueError, match=r"must not be NaN, got .*If training has diverged"):
        trainer(tmp_path, imp, diverges, max_epochs=3).fit(make_toy(), loader())
    assert diverges.after <= 3  # not at the round's end


@pytest.mark.parametrize("callback", [RigLCallback, SETCallback])
def test_connections(tmp_path, callback):
    """Gradients of such weights are never finite again: without a word, nothing would move any more."""
    moving = callback(0.3, every_n_steps=3, stop_at=20)
    with pytest.raises(ValueError, match=DIVERGED):
        trainer(tmp_path, moving, Diverges(3), max_epochs=3).fit(make_toy(), loader())


def test_gradual_pruning(tmp_path):
    gradual, diverges = GradualMagnitudePruning(0.3, stop=11, every_n_steps=2), Diverges(3)
    with pytest.raises(ValueError, match=DIVERGED):
        trainer(tmp_path, gradual, diverges, max_epochs=3).fit(make_toy(), loader())
    assert gradual.prunings == 1


def test_a_ticket_of_an_older_version(tmp_path):
    path = tmp_path / "ticket.pt"
    asni = ASNISigmoidPruner(density=0.3, search_epochs=2, ticket_path=str(path))
    trainer(tmp_path, asni, max_epochs=3).fit(make_toy(), loader())
    ticket = torch.load(path)
    ticket["centroids"]["net.6.weight"].fill_(math.nan)
    torch.save(ticket, path)
    with pytest.raises(ValueError, match=r"got 2 in 'centroids of net\.6\.weight'"):
        trainer(tmp_path, PruneAtInit(FromFile(path, start="centroids"))).fit(make_toy(), loader())
