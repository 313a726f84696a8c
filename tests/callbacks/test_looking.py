"""What callbacks say of a net that is not what one would take it for: dense products, nothing trained."""

import copy
import re
import warnings
from pathlib import Path

import forked
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from toy import Toy, assert_equal, loader, make_toy, masks_of, trainer, weights_of

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    FromFile,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparsityMonitor,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*and `max_epochs` is:UserWarning")


def told(run, word):
    """Run, and return the warnings that have a word in them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught if word in str(warning.message)]


# Dense products.


class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def make_standardised():
    torch.manual_seed(0)
    toy = Toy()
    toy.net[0] = Standardised(3, 8, 3)
    return toy


DENSE = "dense in the product"
CALLBACKS = {
    "PruneAtInit": lambda: PruneAtInit("erk", 0.2),
    "RigL": lambda: RigLCallback(0.2, every_n_steps=2),
    "ASNI": lambda: ASNISigmoidPruner(0.2, search_epochs=2, reinit=None),
    "IMP": lambda: IterativeMagnitudePruning(0.2, rounds=1, epochs_per_round=1),
    "gradual": lambda: GradualMagnitudePruning(0.2, stop=3),
}


@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_a_dense_product_is_named_when_fit_starts(tmp_path, make):
    toy = make_standardised()
    (text,) = told(lambda: trainer(tmp_path, make()).fit(toy, loader()), DENSE)
    assert text.startswith("Sparse in the parameter, dense in the product: net.0 (1 in all)")
    assert told(lambda: trainer(tmp_path, PruneAtInit("erk", 0.2)).fit(make_toy(), loader()), DENSE) == []


def test_it_is_told_once_for_a_module(tmp_path):
    toy = make_standardised()
    callback = PruneAtInit("erk", 0.2)
    assert len(told(lambda: trainer(tmp_path, callback).fit(toy, loader()), DENSE)) == 1
    assert told(lambda: trainer(tmp_path, callback, max_epochs=1).fit(toy, loader()), DENSE) == []


def test_training_is_what_it_would_be_without_the_look(tmp_path, monkeypatch):
    def fit():
        toy = make_standardised()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer(tmp_path, RigLCallback(0.2, every_n_steps=2, seed=0)).fit(toy, loader())
        return weights_of(toy)

    looked = fit()
    monkeypatch.setattr("lightning_sparse.callbacks.together.warn_of_dense_products", lambda *_: None)
    plain = fit()
    assert all(torch.equal(looked[name], plain[name]) for name in plain)


def test_converted_layers_are_not_called(tmp_path):
    run = trainer(tmp_path, DCTpSConversion(0.2), RigLCallback(every_n_steps=2))
    assert told(lambda: run.fit(make_toy(), loader()), DENSE) == []


def test_ranks_look_and_the_first_one_tells(tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "look.py"
    said = forked.run(script, output=tmp_path / "output.txt", ranks=2)
    assert sorted(re.findall(r"rank (\d) fitted and warned (\d) times", said)) == [("0", "1"), ("1", "0")]


# Nothing trained.

UNTRAINED = "nothing here has been trained so"
STAGES = ("test", "validate", "predict")
SPARSE = {**CALLBACKS, "DCTpS": lambda: DCTpSConversion(0.2)}
SPARSE["ASNI, unknown length"] = lambda: ASNISigmoidPruner(alpha=80)


class Predicting(Toy):
    def predict_step(self, batch, *_):
        return self.net(batch[0])


def run(stage, tmp_path, callbacks, module, **arguments):
    return told(
        lambda: getattr(trainer(tmp_path, *callbacks), stage)(module, loader(), **arguments), UNTRAINED
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("make", SPARSE.values(), ids=SPARSE)
def test_a_net_that_nobody_has_made_sparse_is_named(tmp_path, stage, make):
    (text,) = run(stage, tmp_path, [make()], Predicting())
    assert text.endswith(
        "no `ckpt_path` is given. Give a checkpoint of the sparse net, or fit the module first."
    )
    assert ("random supports" in text) == isinstance(make(), DCTpSConversion)


def test_of_several_callbacks_all_are_named_at_once(tmp_path):
    callbacks = [PruneAtInit("erk", 0.2), SparsityMonitor(), RigLCallback(every_n_steps=2)]
    (text,) = run("test", tmp_path, callbacks, Predicting())
    assert text.startswith("There are no masks for PruneAtInit and RigLCallback, and the weights are dense")


@pytest.mark.parametrize("make", SPARSE.values(), ids=SPARSE)
def test_after_fit_there_is_nothing_to_say(tmp_path, make):
    module, callback = Predicting(), make()
    runner = trainer(tmp_path, callback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.fit(module, loader())
    runner.save_checkpoint(tmp_path / "last.ckpt")
    assert told(lambda: runner.test(module, loader()), UNTRAINED) == []
    for stage in STAGES:
        assert run(stage, tmp_path, [make()], module) == []  # by a callback that does not know it
        assert run(stage, tmp_path, [make()], Predicting(), ckpt_path=tmp_path / "last.ckpt") == []
    assert run("test", tmp_path, [copy.deepcopy(callback)], copy.deepcopy(module)) == []


def test_weights_that_are_sparse_need_no_masks(tmp_path):
    fitted, module = Predicting(), Predicting()
    trainer(tmp_path, PruneAtInit("erk", 0.2)).fit(fitted, loader())
    module.load_state_dict(fitted.state_dict())
    assert run("test", tmp_path, [PruneAtInit("erk", 0.2)], module) == []


def test_layers_that_start_at_zero_are_not_sparse(tmp_path):
    module = Predicting()
    nn.init.zeros_(module.net[6].weight)
    assert len(run("test", tmp_path, [PruneAtInit("erk", 0.2)], module)) == 1


def test_a_dense_checkpoint_is_named(tmp_path):
    runner = trainer(tmp_path)
    runner.fit(Predicting(), loader())
    runner.save_checkpoint(tmp_path / "dense.ckpt")
    (text,) = run(
        "test", tmp_path, [PruneAtInit("erk", 0.2)], Predicting(), ckpt_path=tmp_path / "dense.ckpt"
    )
    assert "dense.ckpt' holds none that are sparse" in text


def test_masks_in_a_file_that_is_gone_are_no_error(tmp_path):
    assert len(run("test", tmp_path, [PruneAtInit(FromFile(str(tmp_path / "no.pt")))], Predicting())) == 1


def test_the_sanity_validation_of_a_fit_is_not_meant(tmp_path):
    runner = trainer(tmp_path, PruneAtInit("erk", 0.2), num_sanity_val_steps=1)
    assert told(lambda: runner.fit(Predicting(), loader(), loader()), UNTRAINED) == []


# Weights of one time, masks of another.


@pytest.mark.parametrize("make", [RigLCallback, SETCallback])
@pytest.mark.parametrize("stage", ["test", "validate"])
def test_weights_without_their_masks_are_taken_as_they_are(tmp_path, make, stage):
    """Connections moved on after the checkpoint: the last masks would prune what it holds."""
    saves = ModelCheckpoint(tmp_path, filename="early", every_n_train_steps=3, save_weights_only=True)
    callback = make(0.2, every_n_steps=2, stop_at=100)
    fitted = trainer(tmp_path, callback, saves, enable_checkpointing=True)
    toy = make_toy()
    fitted.fit(toy, loader())
    last = weights_of(toy)
    early = torch.load(tmp_path / "early.ckpt", weights_only=True)["state_dict"]
    look = getattr(fitted, stage)
    (text,) = told(
        lambda: look(toy, loader(), ckpt_path=tmp_path / "early.ckpt", verbose=False), "are not zero here"
    )
    assert_equal(weights_of(toy), early)
    stray = sum(int(early[n][~mask].count_nonzero()) for n, mask in masks_of(toy).items())
    assert text.startswith(f"{stray} weights are not zero here that {make.__name__} had pruned")
    toy.load_state_dict(last)
    assert told(lambda: look(toy, loader(), verbose=False), "are not zero here") == []
    assert_equal(weights_of(toy), last)
