"""Lightning's finders in the middle of a fit: nothing is counted, moved or warned of that they take back."""

import warnings

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from toy import Toy, assert_equal, loader, masks_of, trainer, weights_of

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
)

EVERY_THREE = {"every_n_steps": 3, "stop_at": 11}
CALLBACKS = {
    "prune": lambda: [PruneAtInit("snip", 0.3), ExactResume()],
    "verified": lambda: [PruneAtInit("erk", 0.3, verify=True)],
    "rigl": lambda: [RigLCallback(0.3, **EVERY_THREE), ExactResume()],
    "set": lambda: [SETCallback(0.3, seed=0, **EVERY_THREE)],
    "prune, rigl": lambda: [PruneAtInit("erk", 0.3), RigLCallback(verify=True, **EVERY_THREE)],
    "dctps, rigl": lambda: [DCTpSConversion(0.3), RigLCallback(**EVERY_THREE)],
    "dctps": lambda: [DCTpSConversion(0.3), ExactResume()],
    "asni": lambda: [ASNISigmoidPruner(density=0.6)],  # at once, after the first of two epochs
    "imp": lambda: [IterativeMagnitudePruning(0.3, rounds=2, epochs_per_round=1)],
    "gradual": lambda: [GradualMagnitudePruning(0.3, stop=7, every_n_steps=2)],
}


class FindsRate(LearningRateFinder):
    """Looks for a learning rate at the start of some epochs, and changes nothing."""

    def __init__(self, epochs):
        super().__init__(num_training_steps=7, update_attr=False)
        self.epochs = epochs

    def on_fit_start(self, *_):
        """Wait."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch in self.epochs:
            self.lr_find(trainer, pl_module)


class FindsBatchSize(BatchSizeFinder):
    """Tries batch sizes at the start of some epochs, and comes back to the one it started with."""

    def __init__(self, epochs):
        super().__init__(steps_per_trial=4, init_val=4, max_trials=1)
        self.epochs = epochs

    def on_fit_start(self, *_):
        """Wait."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch in self.epochs:
            self.scale_batch_size(trainer, pl_module)


class Scaled(Toy):
    """Has a learning rate and a batch size to be found."""

    lr = 0.1
    batch_size = 8

    def train_dataloader(self):
        return loader(32 // self.batch_size, self.batch_size)

    def val_dataloader(self):
        return loader(1)


def make():
    pl.seed_everything(0, verbose=False)
    return Scaled(dropout=0.0)


def fit(tmp_path, callbacks):
    module = make()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module="lightning_sparse")
        warnings.filterwarnings(
            "error", message=".*(Callback|Conversion|Pruner|Pruning|PruneAtInit|ExactResume)"
        )
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")
        runner = trainer(tmp_path, *callbacks, max_epochs=4, limit_val_batches=0)
        runner.fit(module)
    return module, [callback._clock.state_dict() for callback in callbacks if hasattr(callback, "_clock")]


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_rate_finder_in_mid_training_changes_and_says_nothing(tmp_path, name):
    alone, clocks = fit(tmp_path, CALLBACKS[name]())
    for finder_first in (True, False):
        callbacks, finder = CALLBACKS[name](), FindsRate([0, 1, 2])
        found, found_clocks = fit(tmp_path, [finder, *callbacks] if finder_first else [*callbacks, finder])
        assert finder.optimal_lr is not None
        assert_equal(weights_of(found), weights_of(alone))
        assert_equal(masks_of(found), masks_of(alone))
        assert found_clocks == clocks


@pytest.mark.parametrize("name", CALLBACKS)
def test_nor_does_a_finder_of_batch_sizes(tmp_path, name):
    callbacks, finder = CALLBACKS[name](), FindsBatchSize([1])
    module, _ = fit(tmp_path, [*callbacks, finder])
    assert finder.optimal_batch_size == module.batch_size
    assert all(
        not weight[~masks_of(module)[n]].any()
        for n, weight in module.named_parameters()
        if n in masks_of(module)
    )
