"""A look at the start of a fit: after callbacks have made the net sparse, before a step, without a trace."""

import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toy import loader, make_toy, masks_of, trainer, weights_of

from lightning_sparse import DCTpSConversion, PruneAtInit, RigLCallback, diagnose_start
from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.randomness import rng_state, same_rng_state

CALLBACKS = {
    "masked": lambda: PruneAtInit("snip", density=0.1, seed=0),
    "compact": lambda: PruneAtInit("erk", density=0.1, seed=0, storage="compact"),
    "dctps": lambda: DCTpSConversion(0.1, seed=0),
    "moving": lambda: RigLCallback(0.1, every_n_steps=2, seed=0),
    "two": lambda: [PruneAtInit("erk", density=0.1, seed=0), RigLCallback(every_n_steps=2, seed=0)],
}


class StopAfterOneStep(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.masks = masks_of(pl_module)
        trainer.should_stop = True


def listed(callbacks):
    return callbacks if isinstance(callbacks, list) else [callbacks]


@pytest.mark.parametrize("kind", CALLBACKS)
def test_what_is_seen_is_the_net_that_training_begins_with(tmp_path, kind):
    torch.manual_seed(0)
    found = diagnose_start(make_toy(), CALLBACKS[kind](), loader(), count=2)
    stop = StopAfterOneStep()
    trainer(tmp_path, *listed(CALLBACKS[kind]()), stop, max_epochs=1).fit(make_toy(), loader())
    assert {row.name: row.kept for row in found.layers} == {
        name.removesuffix(".weight"): int(mask.sum()) for name, mask in stop.masks.items()
    }
    assert found.kept == 102
    assert found.spectrum.outputs == found.classes == 4
    assert len(found.spectrum.values) == 2
    assert found.loss > 0
    assert all(row.output is not None and row.gradient is not None for row in found.layers)


@pytest.mark.parametrize("kind", CALLBACKS)
def test_module_callbacks_and_generators_stay_as_they_are(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, callbacks = make_toy(), CALLBACKS[kind]()
    module.net[5].eval()
    random.seed(0), np.random.seed(0), torch.manual_seed(5)  # noqa: NPY002
    state, modes, before = weights_of(module), [m.training for m in module.modules()], rng_state()
    first = diagnose_start(module, callbacks, loader(shuffle=True), count=2)
    assert same_rng_state(before, rng_state())
    assert weights_of(module).keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in weights_of(module).items())
    assert modes == [m.training for m in module.modules()]
    assert module._trainer is None
    assert not masks_of(module)
    assert diagnose_start(module, callbacks, loader(shuffle=True), count=2) == first
    assert not list(tmp_path.iterdir())


def test_the_first_loss_is_the_one_that_training_logs_first(tmp_path):
    class First(pl.Callback):
        losses = ()

        def on_train_batch_end(self, trainer, pl_module, outputs, *_):
            self.losses += (float(outputs["loss"]),)

    module, first = make_toy(dropout=0.0), First()
    found = diagnose_start(make_toy(dropout=0.0), PruneAtInit("erk", 0.1, seed=0), loader())
    trainer(tmp_path, PruneAtInit("erk", 0.1, seed=0), first, max_epochs=1).fit(module, loader())
    assert found.loss == pytest.approx(first.losses[0], rel=1e-6)


def test_layers_that_scores_have_emptied_are_named():
    class Lopsided(type(make_toy())):
        def __init__(self):
            super().__init__()
            self.net[0].weight.data.mul_(1e-6)

    callback = PruneAtInit("magnitude", density=0.1, min_weights_per_layer=0)
    with pytest.warns(UserWarning, match="Nothing is kept of"):
        found = diagnose_start(Lopsided(), callback, loader())
    assert found.empty == ("net.0",)
    assert not found.connected


class Manual(type(make_toy())):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


def test_without_a_loss_to_be_had_the_rest_is_seen_all_the_same():
    found = diagnose_start(Manual(), PruneAtInit("erk", 0.1, seed=0), loader())
    assert found.loss is None
    assert found.connected
    assert "not measured" in str(found)


class Tokens(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(8, 4), nn.Flatten(), nn.Linear(12, 2))

    def training_step(self, batch, *_):
        return self.net(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_inputs_that_have_no_derivative_are_refused():
    tokens = DataLoader(TensorDataset(torch.randint(0, 8, (4, 3))), 2)
    with pytest.raises(SparsityError, match=r"must be real numbers for a Jacobian, got torch\.int64"):
        diagnose_start(Tokens(), PruneAtInit("erk", 0.5, seed=0), tokens)


def test_wrong_arguments_are_refused():
    with pytest.raises(SparsityError, match="`module`"):
        diagnose_start(nn.Linear(2, 2), PruneAtInit("erk", 0.5), loader())
    with pytest.raises(SparsityError, match="`count` must be"):
        diagnose_start(make_toy(), PruneAtInit("erk", 0.5), loader(), count=0)
