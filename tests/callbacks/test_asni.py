"""ASNI: search, switch and retraining in one fit."""

import itertools
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins import MixedPrecision
from rounds import SEARCH, CountsMaskings, Records, Scaled, Two, by_step, fit_asni, make
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from toy import HoldsMasks, Rotate, Toy, adamw, assert_equal, loader, logged, sgd, trainer, weights_of

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    IterativeMagnitudePruning,
    PruneAtInit,
    load_masks,
    load_ticket,
)
from lightning_sparse.functional.masks import count_kept
from lightning_sparse.state import state_of

WEIGHTS = 1016


# How many weights there are, and when.


def test_counts_by_hand(tmp_path):
    """s(e) = 80 / (1 + exp(2 - e)): 9.54, 21.52 and 40 percent of 1,016, each removal rounded down."""
    asni = ASNISigmoidPruner(80, gamma=1, search_epochs=4, verify=True)
    toy = Toy()
    assert fit_asni(tmp_path, asni, toy=toy, epochs=7).kept() == [920, 799, 611, 611, 611, 611, 611]
    assert asni.path == [920, 799, 611]


def test_counts_with_removals_left_out(tmp_path):
    """13.24 percent is not more than 14: nothing goes, and the third removal still is 23.55 percent."""
    asni = ASNISigmoidPruner(80, gamma=1, search_epochs=4, min_increment=14, reinit=None)
    assert fit_asni(tmp_path, asni, toy=Toy(), epochs=4).kept() == [1016, 1016, 777, 777]


@pytest.mark.parametrize("density", [0.005, 0.1, 0.5, 0.987])
def test_a_density_is_met_exactly(tmp_path, density):
    asni = ASNISigmoidPruner(density=density, search_epochs=4, reinit=None, verify=True)
    kept = fit_asni(tmp_path, asni, toy=Toy(), epochs=4).kept()
    assert kept[-2:] == [math.floor(density * WEIGHTS + 0.5)] * 2
    assert kept == sorted(kept, reverse=True)


def test_the_smallest_go_over_all_layers(tmp_path):
    records = fit_asni(tmp_path, ASNISigmoidPruner(density=0.3, reinit=None, **SEARCH), toy=Toy(), epochs=3)
    toy, sizes = records.toy, [int(mask.sum()) for mask in records.validated_masks[1].values()]
    assert sum(sizes) == 305
    assert sizes[0] / 216 != pytest.approx(sizes[1] / 800, abs=0.05)  # not a share of each
    assert toy.net[0].weight.count_nonzero() == sizes[0]


def test_from_the_masks_of_prune_at_init(tmp_path):
    start = PruneAtInit("erk", 0.5)
    for asni in (
        ASNISigmoidPruner(80, gamma=1, search_epochs=4, reinit=None, verify=True),
        ASNISigmoidPruner(density=0.1, search_epochs=4, reinit=None, verify=True),
    ):
        toy = Toy()
        kept = fit_asni(tmp_path, asni, start, toy=toy, epochs=4).kept()
        # By hand: int(508 * 9.5362 %) = 48; int(460 * 13.2419 %) = 60; int(400 * 23.5520 %) = 94.
        assert kept == [460, 400, 306, 306] if asni.alpha else kept[-1] == 102
        assert asni.path[0] < 508


def test_masks_that_are_too_sparse_to_start_from(tmp_path):
    asni = ASNISigmoidPruner(density=0.5, search_epochs=3)
    with pytest.raises(ValueError, match="`density` is more than what is alive"):
        fit_asni(tmp_path, asni, PruneAtInit("erk", 0.1))
    with pytest.raises(ValueError, match="`density` is more than what is alive"):  # nor at a second try
        fit_asni(tmp_path, asni, PruneAtInit("erk", 0.1))


def test_layers_with_a_density_of_their_own(tmp_path):
    overrides = {"net.0.weight": 0.25, "net.7.weight": 1.0}
    asni = ASNISigmoidPruner(
        density=0.1, search_epochs=6, reinit=None, density_overrides=overrides, verify=True
    )
    counts = [
        [int(masks[f"net.{i}.weight"].sum()) for i in (0, 6, 7)]
        for masks in fit_asni(tmp_path, asni).validated_masks.values()
    ]
    assert counts[-1] == [54, 33, 16]  # 103 of 1,032
    assert all(count[2] == 16 for count in counts)
    assert all(a[0] >= b[0] and a[1] >= b[1] for a, b in itertools.pairwise(counts))


def test_a_few_weights_at_a_time_beside_layers_with_a_density_of_their_own(tmp_path):
    """A narrow sigmoid removes few weights at first and at last; no layer gets some of its own back."""
    overrides = {"net.0.weight": 0.2, "net.7.weight": 0.5}
    asni = ASNISigmoidPruner(
        90, gamma=1.0, search_epochs=18, reinit=None, density_overrides=overrides, verify=True
    )
    records = fit_asni(tmp_path, asni, epochs=18, data=loader(1))
    assert {a - b for a, b in zip([1032, *asni.path], asni.path, strict=False)} > {0, 1}
    for before, after in itertools.pairwise(records.validated_masks.values()):
        assert not any((after[name] & ~mask).any() for name, mask in before.items())


@pytest.mark.parametrize("cut", ["skipped", "steps"])
def test_an_epoch_cut_short_is_an_epoch(tmp_path, cut):
    class Skips(Scaled):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if cut == "skipped" and batch_idx == 2 else None

    asni = ASNISigmoidPruner(density=0.1, reinit=None, **SEARCH)
    torch.manual_seed(0)
    arguments = {"max_steps": 6} if cut == "steps" else {}
    records = fit_asni(tmp_path, asni, HoldsMasks(), toy=Skips(), epochs=3, **arguments)
    assert asni.epoch == (2 if cut == "steps" else 3)
    assert records.trainer.global_step == 6
    assert count_kept(state_of(records.toy).masks) == 103


@pytest.mark.parametrize(
    "arguments", [{"accumulate_grad_batches": 3}, {"limit_train_batches": 3}, {"val_check_interval": 0.5}]
)
def test_counts_however_an_epoch_is_run(tmp_path, arguments):
    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    assert fit_asni(tmp_path, asni, **arguments).kept() == [asni.path[0], 103, 103, 103, 103, 103]


def test_data_without_a_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from loader().dataset

    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    records = fit_asni(tmp_path, asni, data=torch.utils.data.DataLoader(Stream(), 8))
    assert records.kept() == [asni.path[0], 103, 103, 103, 103, 103]


def test_an_overflow_in_the_last_step_of_an_epoch(tmp_path):
    class Overflows(Scaled):
        def training_step(self, batch, index):
            return super().training_step(batch) * (1e38 if index == 3 else 1)

    torch.manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    asni, plugin = ASNISigmoidPruner(density=0.1, **SEARCH), MixedPrecision("16-mixed", "cpu", scaler=scaler)
    records = fit_asni(tmp_path, asni, HoldsMasks(), toy=Overflows(), plugins=[plugin])
    assert scaler.get_scale() < 2.0**8
    assert records.kept()[1:] == [103] * 5


# Metric, checkpoint and mask.


@pytest.mark.parametrize("saving", [{}, {"val_check_interval": 0.5}], ids=["epoch end", "validation end"])
@pytest.mark.parametrize("reinit", ["centroids", "original", None])
def test_metric_checkpoint_and_mask_agree(tmp_path, saving, reinit):
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    asni = ASNISigmoidPruner(density=0.1, reinit=reinit, **SEARCH)
    records = fit_asni(tmp_path, asni, checkpoint, enable_checkpointing=True, **saving)
    assert len(records.validated) == 6
    for epoch, found in records.validated.items():
        path = tmp_path / f"step={4 * epoch + 4}.ckpt"
        saved, masks = torch.load(path, weights_only=True), load_masks(path)
        assert count_kept(masks) == [asni.path[0], 103, 103, 103, 103, 103][epoch]
        for name, value in saved["state_dict"].items():
            assert torch.equal(value, found[name]), name  # what was validated is what is saved
        for name, mask in masks.items():
            assert torch.equal(mask, records.validated_masks[epoch][name])
            assert torch.equal(mask, saved["state_dict"][name] != 0)
        state = saved["callbacks"]["ASNISigmoidPruner"]
        assert state["epoch"] == epoch + 1
        assert state["search_epochs"] == 3
        assert state["restarted"] is (reinit is not None and epoch >= 3)


def test_what_is_logged(tmp_path):
    asni = ASNISigmoidPruner(80, gamma=1, search_epochs=4, reinit=None)
    records = fit_asni(tmp_path, asni, toy=Toy(), epochs=4, logger=CSVLogger(tmp_path))
    table = logged(records.trainer.logger, "asni/sparsity")
    assert [float(row["asni/sparsity"]) for row in table] == pytest.approx(
        [1 - n / 1016 for n in (920, 799, 611, 611)]
    )
    assert [float(row["asni/target_sparsity"]) for row in table] == pytest.approx(
        [0.8 / (1 + math.exp(2 - e)) for e in (0, 1, 2, 2)]
    )
    weight = records.validated[3]["net.6.weight"].numpy()
    last = {name: float(table[-1][f"centroids/net.6/{name}"]) for name in ("plus", "minus")}
    assert last == pytest.approx({"plus": weight[weight > 0].mean(), "minus": weight[weight < 0].mean()})


# The switch.


def test_the_retraining_starts_from_two_numbers_per_layer(tmp_path):
    asni, toy = (
        ASNISigmoidPruner(density=0.3, ticket_path=str(tmp_path / "a" / "ticket.pt"), **SEARCH),
        make(),
    )
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
            torch.set_rng_state(self.rng)


def from_ticket(tmp_path, ticket, rng, epochs=3):
    toy = make(optimizer=adamw, scheduler=by_step)
    start = PruneAtInit(mask_path=str(ticket), weight_init="centroids", verify=True)
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
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].split() == [loss.hex() for loss in whole.losses[12:]]


def test_nothing_is_kept_that_nobody_needs(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    fit_asni(tmp_path, asni, checkpoint, toy=make(optimizer=OPTIMIZERS["adagrad"]), enable_checkpointing=True)
    states = [torch.load(tmp_path / f"epoch={e}.ckpt", weights_only=True)["callbacks"] for e in range(6)]
    states = [state["ASNISigmoidPruner"] for state in states]
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

    assert 0 < graphs(ASNISigmoidPruner(density=0.1, **SEARCH)) == graphs()


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
    start = PruneAtInit(mask_path=str(tmp_path / "masks.pt"))
    trainer(tmp_path, start, max_epochs=2).fit(alone, loader())
    assert_equal(weights_of(alone), weights_of(toy))


# Company, and what is refused.


def test_compact_layers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot prune Dense-plus-Sparse layers, got 'net"):
        fit_asni(tmp_path, DCTpSConversion(0.2), ASNISigmoidPruner(density=0.2), toy=Toy())


@pytest.mark.parametrize(
    "other", [lambda: Rotate(), lambda: IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1)]
)
def test_two_that_move_masks_are_refused(tmp_path, other):
    with pytest.raises(ValueError, match="both change masks during training"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.2), other())


def test_averaging_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ASNISigmoidPruner cannot run with EMAWeightAveraging"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.2), EMAWeightAveraging())


@pytest.mark.parametrize("reinit", ["centroids", None])
def test_finetuning_callbacks_are_refused_if_training_starts_once_more(tmp_path, reinit):
    class Unfreezes(BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.net[0])

        def finetune_function(self, pl_module, epoch, optimizer):
            if epoch == 2:
                self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)

    asni = ASNISigmoidPruner(density=0.2, reinit=reinit, include=["net.[67].weight"], **SEARCH)
    with nullcontext() if reinit is None else pytest.raises(ValueError, match="cannot run with Unfreezes"):
        fit_asni(tmp_path, asni, Unfreezes(), epochs=3)


def test_a_schedule_of_the_modules_own_is_warned_of(tmp_path):
    class OwnSchedule(Scaled):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step()

    toy = make(OwnSchedule, scheduler=by_step)
    with pytest.warns(UserWarning, match="`lr_scheduler_step` of OwnSchedule may set"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.2, **SEARCH), toy=toy)
    fit_asni(tmp_path, ASNISigmoidPruner(density=0.2, reinit=None, **SEARCH), toy=make(OwnSchedule), epochs=3)


def test_a_ticket_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "ticket.pt", "s3://bucket/ticket.pt"):
        toy = make()
        before = weights_of(toy)
        asni = ASNISigmoidPruner(density=0.2, ticket_path=str(path), **SEARCH)
        with pytest.raises(ValueError, match="`ticket_path` must be a file that can be written, got"):
            fit_asni(tmp_path, asni, toy=toy)
        assert_equal(before, weights_of(toy))


def test_a_ticket_that_will_be_replaced_is_warned_of(tmp_path):
    asni = ASNISigmoidPruner(density=0.2, ticket_path=str(tmp_path / "ticket.pt"), **SEARCH)
    fit_asni(tmp_path, asni)
    with pytest.warns(UserWarning, match="`ticket_path` .*ticket.pt' is there already"):
        fit_asni(tmp_path, asni, toy=make(seed=3))
    assert [path.name for path in tmp_path.glob("ticket*")] == ["ticket.pt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`alpha` or `density` must say how sparse the net becomes, got neither"),
        ({"alpha": 98, "density": 0.1}, "got both"),
        ({"alpha": 0}, r"`alpha` must be in \(0, 100\), got 0. It is a percentage"),
        ({"alpha": 100}, r"`alpha` must be in \(0, 100\), got 100"),
        ({"alpha": "98"}, r"`alpha` must be in \(0, 100\), got '98'"),
        ({"alpha": 98, "beta": 1.0}, r"`beta` must be in \(0, 1\), got 1.0"),
        ({"alpha": 98, "beta": 0}, r"`beta` must be in \(0, 1\), got 0"),
        ({"alpha": 98, "gamma": 0}, "`gamma` must be greater than 0, got 0"),
        ({"alpha": 98, "gamma": -1}, "`gamma` must be greater than 0, got -1"),
        ({"density": 0}, r"`density` must be in \(0, 1\], got 0"),
        ({"density": 1.5}, r"`density` must be in \(0, 1\], got 1.5"),
        ({"alpha": 98, "search_epochs": 1}, "`search_epochs` must be at least 2, got 1"),
        ({"alpha": 98, "search_epochs": 2.5}, "`search_epochs` must be at least 2, got 2.5"),
        (
            {"alpha": 98, "min_increment": -0.1},
            r"`min_increment` must be a percentage in \[0, 100\), got -0.1",
        ),
        ({"alpha": 98, "min_increment": 100}, r"`min_increment` must be a percentage in \[0, 100\), got 100"),
        (
            {"alpha": 98, "min_weights_per_layer": -1},
            "`min_weights_per_layer` must be an integer of at least 0",
        ),
        ({"alpha": 98, "reinit": "zeros"}, "`reinit` must be one of centroids, original, None, got 'zeros'"),
        ({"alpha": 98, "include": "net.*"}, "`include` must be a list of patterns"),
        ({"alpha": 98, "density_overrides": {"net.0.weight": 2}}, "`density_overrides.*got 2"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ASNISigmoidPruner(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 99.9, "beta": 0.1, "gamma": 0.1, "min_weights_per_layer": 2}, "min_weights_per_layer"),
        ({"density": 0.001}, "min_weights_per_layer"),
        ({"density": 0.1, "include": ["nett.*"]}, "matches no parameter"),
        ({"density": 0.1, "density_overrides": {"hed": 0.5}}, "pattern 'hed' matches none"),
        ({"density": 0.1, "density_overrides": {"net.6.weight": 0.5}}, "density"),
    ],
)
def test_what_cannot_be_met_is_an_error_before_training(tmp_path, arguments, message):
    toy = make()
    before = weights_of(toy)
    with pytest.raises(ValueError, match=message):
        fit_asni(tmp_path, ASNISigmoidPruner(**{**SEARCH, **arguments}), toy=toy)
    assert_equal(before, weights_of(toy))


def test_a_search_without_an_end(tmp_path):
    with pytest.raises(ValueError, match="`search_epochs` must be a number if `max_epochs` is -1, got None"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.1), epochs=-1, max_steps=20)
    records = fit_asni(tmp_path, ASNISigmoidPruner(density=0.1, **SEARCH), epochs=-1, max_steps=20)
    assert records.kept()[1:] == [103] * 4


def test_a_fit_that_is_too_short_warns(tmp_path):
    with pytest.warns(UserWarning, match=r"needs 4 epochs \(`search_epochs` 3\), and `max_epochs` is 3"):
        ASNISigmoidPruner(density=0.1, **SEARCH).setup(trainer(tmp_path, max_epochs=3), make(), "fit")


def test_the_learning_rate_that_is_logged_is_the_one_that_is_used(tmp_path):
    toy = make(scheduler=SCHEDULERS["epoch"])
    monitor = LearningRateMonitor("epoch")
    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    records = fit_asni(tmp_path, asni, monitor, toy=toy, logger=CSVLogger(tmp_path))
    rates = [float(row["lr-SGD"]) for row in logged(records.trainer.logger, "lr-SGD")]
    assert rates == [rate for (rate,) in records.rates[::4]]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = from_ticket(folder, folder / "ticket.pt", torch.load(folder / "rng.pt"), epochs=1)
    print(*(loss.hex() for loss in found.losses))
