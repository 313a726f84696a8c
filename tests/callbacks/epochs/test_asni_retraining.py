"""ASNI starts training once more, from two numbers per layer or as it was at first."""

import sys
from pathlib import Path

import forked
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from rounds import SEARCH, CountsMaskings, Records, Two, by_step, fit_asni, make
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from toy import HoldsMasks, adamw, assert_equal, loader, logged, sgd, trainer, weights_of

from lightning_sparse import ASNISigmoidPruner, FromFile, PruneAtInit, load_ticket
from lightning_sparse.functional.masks import count_kept
from lightning_sparse.trainer.randomness import set_rng_state
from lightning_sparse.weights.state import state_of


def test_the_retraining_starts_from_two_numbers_per_layer(tmp_path):
    toy, path = make(), tmp_path / "a" / "ticket.pt"
    asni = ASNISigmoidPruner(density=0.3, ticket_path=str(path), **SEARCH)
    first = weights_of(toy)
    records = fit_asni(tmp_path, asni, toy=toy)
    searched, started = records.validated[2], records.started[3]
    ticket = load_ticket(tmp_path / "a" / "ticket.pt")
    for name in (f"net.{i}.weight" for i in (0, 6, 7)):
        weight, mask = searched[name].numpy(), records.validated_masks[2][name].numpy()
        assert np.array_equal(weight != 0, mask)
        plus, minus = (weight[sign].astype("f8").mean() for sign in (weight > 0, weight < 0))
        expected = np.where(weight > 0, plus, np.where(weight < 0, minus, 0)).astype("f4")
        assert np.array_equal(started[name].numpy(), expected)
        assert np.array_equal(ticket.centroids[name].numpy(), np.array([plus, minus], "f4"))
        assert np.array_equal(ticket.signs[name].numpy(), np.sign(weight[mask]))
        assert np.array_equal(ticket.masks[name].numpy(), mask)
    for name in ("net.0.bias", "net.6.bias", "net.1.bias", "net.1.running_mean", "net.1.num_batches_tracked"):
        assert started[name].eq(0).all(), name
    assert started["net.1.weight"].eq(1).all()
    assert started["net.1.running_var"].eq(1).all()
    assert torch.equal(started["scale"], first["scale"])
    assert not torch.equal(searched["scale"], first["scale"])
    assert ticket.provenance["kept"] == 310
    assert ticket.provenance["weights"] == 1032
    assert ticket.provenance["search_epochs"] == 3


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_the_original_weights_come_back_bit_for_bit(tmp_path, optimizer):
    toy = make(optimizer=optimizer)
    first = weights_of(toy)
    records = fit_asni(tmp_path, ASNISigmoidPruner(density=0.3, reinit="original", **SEARCH), toy=toy)
    assert not torch.equal(records.validated[2]["net.1.running_mean"], first["net.1.running_mean"])
    for name, value in records.started[3].items():
        mask = records.validated_masks[2].get(name, torch.tensor(True))
        assert torch.equal(value, first[name] * mask), name
    assert records.kept()[2:] == [310] * 4


def plateau(optimizer):
    return {"scheduler": ReduceLROnPlateau(optimizer, patience=0, threshold=10.0), "monitor": "val_loss"}


SCHEDULERS = {
    "epoch": lambda o: ExponentialLR(o, 0.5),
    "step": by_step,
    "cosine": lambda o: CosineAnnealingLR(o, 3),
    "one cycle": lambda o: {"scheduler": OneCycleLR(o, 0.2, total_steps=13), "interval": "step"},
    "warm-up": lambda o: SequentialLR(o, [LinearLR(o), ExponentialLR(o, 0.5)], [2]),
    "plateau": plateau,
}
OPTIMIZERS = {
    "sgd": sgd,
    "adamw": adamw,
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1, initial_accumulator_value=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, 0.01),
}
STARTS = [("sgd", name) for name in SCHEDULERS] + [(name, "epoch") for name in OPTIMIZERS if name != "sgd"]


@pytest.mark.parametrize(("optimizer", "scheduler"), STARTS)
def test_optimizers_and_schedulers_start_once_more(tmp_path, optimizer, scheduler):
    toy = make(optimizer=OPTIMIZERS[optimizer], scheduler=SCHEDULERS[scheduler])
    records = fit_asni(tmp_path, ASNISigmoidPruner(density=0.3, **SEARCH), toy=toy)
    (first, first_schedule), (last, _) = records.states[0], records.states[2]
    (again, schedule) = records.states[3]
    assert str(schedule) == str(first_schedule)
    assert again[0]["param_groups"] == first[0]["param_groups"]
    assert again[0]["state"].keys() == first[0]["state"].keys()
    for index, (name, _) in enumerate(toy.named_parameters()):
        mask = records.validated_masks[3].get(name)
        for key, value in first[0]["state"].get(index, {}).items():
            is_like = mask is not None and value.shape == mask.shape
            assert torch.equal(again[0]["state"][index][key], value * mask if is_like else value), key
    assert last[0]["state"]  # it had gathered something
    assert records.rates[:4] == records.rates[12:16]
    if scheduler != "plateau":  # goes by a metric
        assert records.rates[:12] == records.rates[12:]
        assert len({rate for (rate,) in records.rates}) > 2


class WithTheState(pl.Callback):
    """Sets the generator as it was when another run made its first step."""

    def __init__(self, rng):
        self.rng = rng

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            set_rng_state(self.rng)


def from_ticket(tmp_path, ticket, rng, epochs=3):
    toy = make(optimizer=adamw, scheduler=by_step)
    start = PruneAtInit(FromFile(str(ticket), start="centroids"), verify=True)
    return fit_asni(tmp_path, start, WithTheState(rng), toy=toy, epochs=epochs)


@pytest.mark.parametrize("source", ["ticket.pt", "epoch=3.ckpt"])
def test_the_retraining_is_a_run_of_its_own_from_the_ticket(tmp_path, source):
    """Bit for bit; the ticket from its file, or from a checkpoint of the retraining."""
    toy = make(optimizer=adamw, scheduler=by_step)
    asni = ASNISigmoidPruner(density=0.3, ticket_path=str(tmp_path / "ticket.pt"), **SEARCH)
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = fit_asni(tmp_path, asni, checkpoint, toy=toy, enable_checkpointing=True)
    alone = from_ticket(tmp_path, tmp_path / source, whole.rng[3])
    assert whole.losses[12:] == alone.losses
    for epoch in range(3):
        assert_equal(whole.started[3 + epoch], alone.started[epoch])
        assert_equal(whole.validated[3 + epoch], alone.validated[epoch])
        assert_equal(whole.validated_masks[3 + epoch], alone.validated_masks[epoch])


def test_a_ticket_trains_in_another_process_to_the_same_losses(tmp_path):
    toy = make(optimizer=adamw, scheduler=by_step)
    asni = ASNISigmoidPruner(density=0.3, ticket_path=str(tmp_path / "ticket.pt"), **SEARCH)
    whole = fit_asni(tmp_path, asni, toy=toy, epochs=4)
    torch.save(whole.rng[3], tmp_path / "rng.pt")
    said = forked.run(Path(__file__), tmp_path, torch.get_num_threads(), output=tmp_path / "output.txt")
    assert said.splitlines()[-1].split() == [loss.hex() for loss in whole.losses[12:]]


def test_nothing_is_kept_that_nobody_needs(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    fit_asni(tmp_path, asni, checkpoint, toy=make(optimizer=OPTIMIZERS["adagrad"]), enable_checkpointing=True)
    saved = [torch.load(tmp_path / f"epoch={e}.ckpt", "cpu", weights_only=True) for e in range(6)]
    states = [checkpoint["callbacks"]["ASNISigmoidPruner"] for checkpoint in saved]
    for state in states[:3]:
        assert set(state["saved"]) == {"scale", "causal_mask"}  # all else is set by rule
        assert not state["signs"]
        assert not state["centroids"]
    for state in states[3:]:
        assert state["saved"] == {}
        assert state["start_states"] == {}
        assert sum(len(signs) for signs in state["signs"].values()) == 103
        assert {name: pair.shape for name, pair in state["centroids"].items()} == dict.fromkeys(
            ("net.0.weight", "net.6.weight", "net.7.weight"), (2,)
        )
    assert asni._saved == {}


def test_weights_are_masked_once_more_in_the_first_step_only(tmp_path, monkeypatch):
    """Of a new start, as of an epoch: what the optimizer keeps is clean, and a zero stays one."""
    counts = CountsMaskings(monkeypatch)
    fit_asni(tmp_path, ASNISigmoidPruner(density=0.1, gamma=1.0, search_epochs=3), counts)
    assert counts.calls == [1, 0, 0, 0] * 6


def test_nothing_is_compiled_again(tmp_path):
    def graphs(*callbacks):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        toy = make(dropout=0.0)
        toy.net = torch.compile(toy.net, backend="aot_eager")
        trainer(tmp_path, *callbacks, max_epochs=5).fit(toy, loader())
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    unverified = {**SEARCH, "verify": False}  # `verify` looks into each forward
    assert 0 < graphs(ASNISigmoidPruner(density=0.1, **unverified)) == graphs()


class LeavesGradients(Two):
    """Those of an epoch's last batch stay."""

    def training_step(self, batch, batch_idx):
        for net, optimizer, scheduler in zip(self.nets, self.optimizers(), self.lr_schedulers(), strict=True):
            self.manual_backward(self.loss(net, batch))
            if batch_idx != 3:
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()


def test_two_optimizers_by_hand(tmp_path):
    torch.manual_seed(0)
    toy = LeavesGradients()
    first = weights_of(toy)
    asni = ASNISigmoidPruner(density=0.1, reinit="original", **SEARCH)
    records = Records()
    trainer(tmp_path, asni, HoldsMasks(), records, max_epochs=5).fit(toy, loader())
    assert count_kept(state_of(toy).masks) == 154  # of 1,536
    assert str(records.states[3]) == str(records.states[0])
    for name, value in records.started[3].items():
        mask = state_of(toy).masks.get(name, torch.tensor(True))
        assert torch.equal(value, first[name] * mask)
    assert records.rates[:8] == records.rates[12:]
    # As a run of its own that starts there: no gradient of the search is left.
    torch.manual_seed(0)
    alone = LeavesGradients()
    torch.save(state_of(toy).masks, tmp_path / "masks.pt")
    start = PruneAtInit(FromFile(str(tmp_path / "masks.pt")))
    trainer(tmp_path, start, max_epochs=2).fit(alone, loader())
    assert_equal(weights_of(alone), weights_of(toy))


def test_the_learning_rate_that_is_logged_is_the_one_that_is_used(tmp_path):
    toy = make(scheduler=SCHEDULERS["epoch"])
    monitor = LearningRateMonitor("epoch")
    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    records = fit_asni(tmp_path, asni, monitor, toy=toy, logger=CSVLogger(tmp_path))
    rates = [float(row["lr-SGD"]) for row in logged(records.trainer.logger, "lr-SGD")]
    assert rates == [rate for (rate,) in records.rates[::4]]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    found = from_ticket(folder, folder / "ticket.pt", torch.load(folder / "rng.pt"), epochs=1)
    print(*(loss.hex() for loss in found.losses))
