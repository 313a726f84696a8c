"""Steps: learning rates, gradients that stand, digits of weights; exact after a resume, or named."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from resumed import Noisy, Small, assert_goes_on, plain, rows, whole_and_resumed
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torchdata.stateful_dataloader import StatefulDataLoader
from toy import assert_equal, trainer, weights_of

from lightning_sparse import DCTpSConversion, ExactResume, PruneAtInit, RigLCallback


def stateful(data=None, **arguments):
    return StatefulDataLoader(rows() if data is None else data, 4, shuffle=True, **arguments)


def scheduled(make, **config):
    def configure(optimizer):
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), **config}}

    return lambda: Small(configure)


def plateau(monitor, **config):
    """Reduces the rate at each step."""
    return scheduled(
        lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=9.0), monitor=monitor, **config
    )


SCHEDULERS = {
    "plateau of training": plateau("loss"),
    "plateau of a validation": plateau("val_loss"),
    "plateau every second epoch": plateau("val_loss", frequency=2),
    "plateau of steps": plateau("loss", interval="step", frequency=4),
    "step": scheduled(lambda o: StepLR(o, 1, 0.5)),
    "step every second epoch": scheduled(lambda o: StepLR(o, 1, 0.5), frequency=2),
    "one cycle of epochs": scheduled(lambda o: OneCycleLR(o, 0.5, total_steps=4)),
    "one cycle of steps": scheduled(lambda o: OneCycleLR(o, 0.5, total_steps=24), interval="step"),
    "cosine of every third step": scheduled(lambda o: CosineAnnealingLR(o, 8), interval="step", frequency=3),
}
MOMENTS = {
    "epoch end": ("on_train_epoch_end", 2),
    "validation end": ("on_validation_end", 2),
    "step": ("on_train_batch_end", 8),
}


PAIRS = [(scheduler, moment) for scheduler in SCHEDULERS for moment in MOMENTS]
PAIRS.remove(("plateau of training", "step"))  # named: the mean of an epoch


@pytest.mark.parametrize(("scheduler", "moment"), PAIRS)
def test_learning_rates(scheduler, moment, tmp_path):
    hook, number = MOMENTS[moment]
    whole, resumed = whole_and_resumed(
        tmp_path, stateful, hook, number, SCHEDULERS[scheduler], plain(rows(4)), max_epochs=4
    )
    assert_goes_on(whole, resumed)
    assert len(set(whole.rates)) > 1


def test_a_metric_that_is_not_logged_in_every_epoch(tmp_path):
    make = plateau("val_loss", strict=False)
    arguments = {"max_epochs": 4, "check_val_every_n_epoch": 2, "number": 2}
    assert_goes_on(*whole_and_resumed(tmp_path, stateful, make_module=make, val=plain(rows(4)), **arguments))


def test_plateau_with_the_checkpoint_of_a_monitor(tmp_path):
    """Resumed twice, so that what was owed once is not owed again."""

    def fit(epochs, ckpt_path=None):
        pl.seed_everything(1, verbose=False)
        module = SCHEDULERS["plateau of a validation"]()
        best = ModelCheckpoint(tmp_path / str(epochs), monitor="val_loss", save_top_k=-1, save_last=True)
        runner = trainer(tmp_path, ExactResume(), best, max_epochs=epochs, enable_checkpointing=True)
        runner.fit(module, stateful(), plain(rows(4)), ckpt_path=ckpt_path)
        return module

    whole = fit(5)
    fit(1)
    fit(2, tmp_path / "1" / "last.ckpt")
    assert_goes_on(whole, fit(5, tmp_path / "2" / "last.ckpt"))


def test_a_step_whose_metric_is_yet_to_come_is_named(tmp_path):
    """The validation is left out when fit resumes, and with it the metric."""
    with pytest.warns(UserWarning, match="a step of ReduceLROnPlateau is left out: .* 'val_loss'"):
        whole_and_resumed(
            tmp_path, stateful, "on_train_batch_end", 6, plateau("val_loss"), plain(rows(4)), max_epochs=2
        )


def test_a_mean_over_part_of_an_epoch_is_named(tmp_path):
    with pytest.warns(UserWarning, match="the mean 'loss' leaves out what was before the checkpoint"):
        whole_and_resumed(tmp_path, stateful, "on_train_batch_end", 8, plateau("loss"))


def test_the_last_batch_of_an_epoch(tmp_path):
    """Lightning leaves the end of that epoch out: the step that follows it is made up for."""
    assert_goes_on(*whole_and_resumed(tmp_path, stateful, "on_train_batch_end", 6, plateau("loss_epoch")))


class Manual(Small):
    """Makes a step every fourth batch, across the ends of epochs."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.batches = 0

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        if (self.trainer.fit_loop.total_batch_idx + 1) % 4 == 0:
            self.optimizers().step()
            self.optimizers().zero_grad()


ACCUMULATING = {
    "nothing": list,
    "PruneAtInit": lambda: [PruneAtInit("erk", 0.5, verify=True)],
    "RigL": lambda: [RigLCallback(0.5, every_n_steps=2, stop_at=99, verify=True)],
    "RigL of a mean": lambda: [RigLCallback(0.5, every_n_steps=3, stop_at=99, grad_average=2, verify=True)],
    "RigL of converted layers": lambda: [
        DCTpSConversion(0.5),
        RigLCallback(every_n_steps=1, stop_at=99, skip_step_on_update=False),
    ],
}


@pytest.mark.parametrize("number", [2, 7, 8])
@pytest.mark.parametrize("callbacks", ACCUMULATING)
def test_in_the_middle_of_accumulation(callbacks, number, tmp_path):
    whole, resumed = whole_and_resumed(
        tmp_path,
        stateful,
        "on_train_batch_end",
        number,
        more=ACCUMULATING[callbacks],
        accumulate_grad_batches=3,
    )
    assert_goes_on(whole, resumed)


def test_accumulation_that_changes_with_the_epoch(tmp_path):
    schedule = GradientAccumulationScheduler({0: 1, 1: 4})
    assert_goes_on(*whole_and_resumed(tmp_path, stateful, "on_train_batch_end", 9, more=lambda: [schedule]))


@pytest.mark.parametrize("moment", [("on_train_epoch_end", 1), ("on_train_batch_end", 9)], ids=str)
def test_gradients_that_stand_in_manual_optimization(moment, tmp_path):
    assert_goes_on(*whole_and_resumed(tmp_path, stateful, *moment, make_module=Manual))


@pytest.mark.parametrize("number", [3, 4])
def test_gradients_are_stored_only_in_the_middle(number, tmp_path):
    whole_and_resumed(tmp_path, stateful, "on_train_batch_end", number, accumulate_grad_batches=2)
    checkpoint = torch.load(tmp_path / "on the way.ckpt", weights_only=True)
    saved = checkpoint["callbacks"]["ExactResume"]["ranks"][0]["gradients"]
    assert set(saved) == ({"gradients", "sums"} if number == 3 else set())


class DoubleInHook(Small):
    """Converted by itself, late."""

    def on_fit_start(self):
        self.double()

    def on_after_batch_transfer(self, batch, _):
        return batch[0].double(), batch[1]


class DoubleBuffers(Small):
    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(8))


@pytest.mark.parametrize("moment", [("on_train_epoch_end", 2), ("on_train_batch_end", 8)], ids=str)
@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "callbacks", [list, lambda: [PruneAtInit("erk", 0.5, verify=True)], lambda: [DCTpSConversion(0.5)]]
)
def test_precision(callbacks, precision, moment, tmp_path):
    whole, resumed = whole_and_resumed(
        tmp_path, stateful, *moment, make_module=DoubleBuffers, more=callbacks, precision=precision
    )
    assert_goes_on(whole, resumed)


def test_a_module_that_converts_itself(tmp_path):
    whole, resumed = whole_and_resumed(tmp_path, stateful, make_module=DoubleInHook)
    assert whole.net[0].weight.dtype == torch.float64
    assert_goes_on(whole, resumed)


class Float32Momentum(torch.optim.SGD):
    """Keeps its momentum in float32, whatever the weights are."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure()
        for parameter in (p for group in self.param_groups for p in group["params"]):
            momentum = self.state[parameter].setdefault("m", torch.zeros(parameter.shape))
            momentum.mul_(0.9).add_(parameter.grad.float())
            parameter.copy_(parameter.float() - 0.1 * momentum)
        return loss


def test_an_optimizer_that_keeps_more_digits_than_the_weights(tmp_path):
    class Rounded(Small):
        def configure_optimizers(self):
            return Float32Momentum(self.parameters(), 0.1)

    assert_goes_on(*whole_and_resumed(tmp_path, stateful, make_module=Rounded, precision="bf16-true"))


def test_a_checkpoint_of_another_precision_is_named(tmp_path):
    whole_and_resumed(tmp_path, stateful, precision="64-true")
    runner = trainer(tmp_path, ExactResume(), max_epochs=3)
    with pytest.warns(UserWarning, match=r"'net.0.bias' in more digits than this run"):
        runner.fit(Small(), stateful(), ckpt_path=tmp_path / "on the way.ckpt")


@pytest.mark.parametrize("data", [rows, Noisy])
def test_a_checkpoint_of_an_earlier_version(data, tmp_path):
    """States of generators of dataloaders in a list, and nothing that came later."""

    def old(state):
        new = state["ranks"][0]
        generators = [one["state"] for one in new["generators"].values()]
        return {"ranks": [{"rng": new["rng"], "generators": generators, "loaders": new["loaders"]}]}

    def make():
        return plain(data(), shuffle=True, generator=torch.Generator().manual_seed(2))

    whole, _ = whole_and_resumed(tmp_path, make)
    path = tmp_path / "on the way.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["ExactResume"] = old(checkpoint["callbacks"]["ExactResume"])
    torch.save(checkpoint, path)
    torch.manual_seed(77)
    resumed = Small()
    trainer(tmp_path, ExactResume(), max_epochs=3).fit(resumed, make(), ckpt_path=path)
    assert_equal(weights_of(whole), weights_of(resumed))


def test_all_that_is_stored_loads_as_weights_only(tmp_path):
    whole_and_resumed(
        tmp_path, stateful, "on_train_batch_end", 7, SCHEDULERS["plateau of steps"], accumulate_grad_batches=3
    )
    state = torch.load(tmp_path / "on the way.ckpt", weights_only=True)["callbacks"]["ExactResume"]["ranks"][
        0
    ]
    assert state["moment"] == "step made"
    assert set(state["start"]) == {"rng", "generators"}


def test_the_trainer_is_left_as_it_was(tmp_path):
    runner = trainer(tmp_path, ExactResume(), max_epochs=1)
    runner.fit(Small(), stateful())
    assert "on_run_start" not in vars(runner.fit_loop.epoch_loop)
    assert "_load_combined_loader_states" not in vars(runner.fit_loop)
