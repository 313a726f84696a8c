"""ASNI: search, switch and retraining in one fit."""

import copy
import itertools
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torchdata.stateful_dataloader import StatefulDataLoader
from toy import HoldsMasks, Rotate, Toy, adamw, assert_equal, loader, sgd, trainer, weights_of

import lightning_sparse.state
from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    IterativeMagnitudePruning,
    PruneAtInit,
    load_masks,
    load_ticket,
)
from lightning_sparse.functional.masks import count_kept
from lightning_sparse.state import state_of

WEIGHTS = 1016
SMALL = {"gamma": 1.0, "search_epochs": 3, "verify": True}


class Scaled(Toy):
    """Has also weights that are neither masked nor biases or norms, and a second linear layer."""

    def __init__(self, scheduler=None, **arguments):
        super().__init__(**arguments)
        self.net.append(nn.Linear(4, 4, bias=False))
        self.scale = nn.Parameter(torch.rand(4) + 0.5)
        self.make_scheduler = scheduler

    def training_step(self, batch, *_):
        loss = nn.functional.cross_entropy(self.net(batch[0]) * self.scale, batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return Scaled(**arguments)


class Records(pl.Callback):
    """What the net, its masks, the optimizers and schedulers were, by epoch."""

    def __init__(self):
        self.validated, self.started, self.states, self.rng, self.losses, self.rates = {}, {}, {}, {}, [], []

    def on_validation_start(self, trainer, pl_module):
        if not trainer.sanity_checking:
            masks = state_of(pl_module).masks
            self.validated[trainer.current_epoch] = {
                **weights_of(pl_module),
                **{f"m {n}": masks[n] for n in masks},
            }

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            epoch = trainer.current_epoch
            self.started[epoch], self.rng[epoch] = weights_of(pl_module), torch.get_rng_state()
            schedulers = [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]
            states = [optimizer.state_dict() for optimizer in trainer.optimizers]
            self.states[epoch] = copy.deepcopy((states, schedulers))
        self.rates.append([group["lr"] for o in trainer.optimizers for group in o.param_groups])

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.losses.append(float(outputs["loss"]) if outputs else None)

    def kept(self):
        masked = {
            epoch: [v for n, v in found.items() if n.startswith("m ")]
            for epoch, found in self.validated.items()
        }
        return [int(sum(mask.sum() for mask in masks)) for _, masks in sorted(masked.items())]


def fit(tmp_path, asni, *others, toy=None, epochs=6, ckpt_path=None, data=None, **arguments):
    toy = make() if toy is None else toy
    records = Records()
    runner = trainer(tmp_path, asni, *others, records, max_epochs=epochs, **arguments)
    runner.fit(toy, loader() if data is None else data, loader(2), ckpt_path=ckpt_path)
    records.toy, records.trainer = toy, runner
    return records


# How many weights there are, and when.


def test_counts_by_hand(tmp_path):
    """s(e) = 80 / (1 + exp(2 - e)): 9.54, 21.52 and 40 percent of 1,016, each removal rounded down."""
    asni = ASNISigmoidPruner(80, gamma=1, search_epochs=4, verify=True)
    toy = Toy()
    assert fit(tmp_path, asni, toy=toy, epochs=7).kept() == [920, 799, 611, 611, 611, 611, 611]
    assert asni.path == [920, 799, 611]


def test_counts_with_removals_left_out(tmp_path):
    """13.24 percent is not more than 14: nothing goes, and the third removal still is 23.55 percent."""
    asni = ASNISigmoidPruner(80, gamma=1, search_epochs=4, min_increment=14, reinit=None)
    assert fit(tmp_path, asni, toy=Toy(), epochs=4).kept() == [1016, 1016, 777, 777]


@pytest.mark.parametrize("density", [0.005, 0.1, 0.5, 0.987])
def test_a_density_is_met_exactly(tmp_path, density):
    asni = ASNISigmoidPruner(density=density, search_epochs=4, reinit=None, verify=True)
    kept = fit(tmp_path, asni, toy=Toy(), epochs=4).kept()
    assert kept[-2:] == [math.floor(density * WEIGHTS + 0.5)] * 2
    assert kept == sorted(kept, reverse=True)


def test_the_smallest_go_over_all_layers(tmp_path):
    records = fit(tmp_path, ASNISigmoidPruner(density=0.3, reinit=None, **SMALL), toy=Toy(), epochs=3)
    toy, mask = records.toy, {n: m for n, m in records.validated[1].items() if n.startswith("m ")}
    sizes = [int(m.sum()) for m in mask.values()]
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
        kept = fit(tmp_path, asni, start, toy=toy, epochs=4).kept()
        # By hand: int(508 * 9.5362 %) = 48; int(460 * 13.2419 %) = 60; int(400 * 23.5520 %) = 94.
        assert kept == [460, 400, 306, 306] if asni.alpha else kept[-1] == 102
        assert asni.path[0] < 508


def test_masks_that_are_too_sparse_to_start_from(tmp_path):
    asni = ASNISigmoidPruner(density=0.5, search_epochs=3)
    with pytest.raises(ValueError, match="`density` is more than what is alive"):
        fit(tmp_path, asni, PruneAtInit("erk", 0.1))
    with pytest.raises(ValueError, match="`density` is more than what is alive"):  # nor at a second try
        fit(tmp_path, asni, PruneAtInit("erk", 0.1))


def test_layers_with_a_density_of_their_own(tmp_path):
    overrides = {"net.0.weight": 0.25, "net.7.weight": 1.0}
    asni = ASNISigmoidPruner(
        density=0.1, search_epochs=6, reinit=None, density_overrides=overrides, verify=True
    )
    counts = [
        [int(found[f"m net.{i}.weight"].sum()) for i in (0, 6, 7)]
        for found in fit(tmp_path, asni).validated.values()
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
    records = fit(tmp_path, asni, epochs=18, data=loader(1))
    assert {a - b for a, b in zip([1032, *asni.path], asni.path, strict=False)} > {0, 1}
    masks = [[found[f"m net.{i}.weight"] for i in (0, 6, 7)] for found in records.validated.values()]
    for before, after in itertools.pairwise(masks):
        assert not any((b & ~a).any() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("cut", ["skipped", "steps"])
def test_an_epoch_cut_short_is_an_epoch(tmp_path, cut):
    class Skips(Scaled):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if cut == "skipped" and batch_idx == 2 else None

    asni = ASNISigmoidPruner(density=0.1, reinit=None, **SMALL)
    torch.manual_seed(0)
    arguments = {"max_steps": 6} if cut == "steps" else {}
    records = fit(tmp_path, asni, HoldsMasks(), toy=Skips(), epochs=3, **arguments)
    assert asni.epoch == (2 if cut == "steps" else 3)
    assert records.trainer.global_step == 6
    assert count_kept(state_of(records.toy).masks) == 103


@pytest.mark.parametrize(
    "arguments", [{"accumulate_grad_batches": 3}, {"limit_train_batches": 3}, {"val_check_interval": 0.5}]
)
def test_counts_however_an_epoch_is_run(tmp_path, arguments):
    asni = ASNISigmoidPruner(density=0.1, **SMALL)
    assert fit(tmp_path, asni, **arguments).kept() == [asni.path[0], 103, 103, 103, 103, 103]


def test_data_without_a_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from loader().dataset

    asni = ASNISigmoidPruner(density=0.1, **SMALL)
    records = fit(tmp_path, asni, data=torch.utils.data.DataLoader(Stream(), 8))
    assert records.kept() == [asni.path[0], 103, 103, 103, 103, 103]


def test_an_overflow_in_the_last_step_of_an_epoch(tmp_path):
    class Overflows(Scaled):
        def training_step(self, batch, index):
            return super().training_step(batch) * (1e38 if index == 3 else 1)

    torch.manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    asni, plugin = ASNISigmoidPruner(density=0.1, **SMALL), MixedPrecision("16-mixed", "cpu", scaler=scaler)
    records = fit(tmp_path, asni, HoldsMasks(), toy=Overflows(), plugins=[plugin])
    assert scaler.get_scale() < 2.0**8
    assert records.kept()[1:] == [103] * 5


# Metric, checkpoint and mask.


@pytest.mark.parametrize("saving", [{}, {"val_check_interval": 0.5}], ids=["epoch end", "validation end"])
@pytest.mark.parametrize("reinit", ["centroids", "original", None])
def test_metric_checkpoint_and_mask_agree(tmp_path, saving, reinit):
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    asni = ASNISigmoidPruner(density=0.1, reinit=reinit, **SMALL)
    records = fit(tmp_path, asni, checkpoint, enable_checkpointing=True, **saving)
    assert len(records.validated) == 6
    for epoch, found in records.validated.items():
        path = tmp_path / f"step={4 * epoch + 4}.ckpt"
        saved, masks = torch.load(path, weights_only=True), load_masks(path)
        assert count_kept(masks) == [asni.path[0], 103, 103, 103, 103, 103][epoch]
        for name, value in saved["state_dict"].items():
            assert torch.equal(value, found[name]), name  # what was validated is what is saved
        for name, mask in masks.items():
            assert torch.equal(mask, found[f"m {name}"])
            assert torch.equal(mask, saved["state_dict"][name] != 0)
        state = saved["callbacks"]["ASNISigmoidPruner"]
        assert state["epoch"] == epoch + 1
        assert state["search_epochs"] == 3
        assert state["restarted"] is (reinit is not None and epoch >= 3)


def test_what_is_logged(tmp_path):
    asni = ASNISigmoidPruner(80, gamma=1, search_epochs=4, reinit=None)
    records = fit(tmp_path, asni, toy=Toy(), epochs=4, logger=CSVLogger(tmp_path))
    rows = Path(records.trainer.log_dir, "metrics.csv").read_text().splitlines()
    table = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    table = [row for row in table if row["asni/sparsity"]]
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
    asni, toy = ASNISigmoidPruner(density=0.3, ticket_path=str(tmp_path / "a" / "ticket.pt"), **SMALL), make()
    first = weights_of(toy)
    records = fit(tmp_path, asni, toy=toy)
    searched, started = records.validated[2], records.started[3]
    ticket = load_ticket(tmp_path / "a" / "ticket.pt")
    for name in (f"net.{i}.weight" for i in (0, 6, 7)):
        weight, mask = searched[name].numpy(), searched[f"m {name}"].numpy()
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
    records = fit(tmp_path, ASNISigmoidPruner(density=0.3, reinit="original", **SMALL), toy=toy)
    assert not torch.equal(records.validated[2]["net.1.running_mean"], first["net.1.running_mean"])
    for name, value in records.started[3].items():
        mask = records.validated[2].get(f"m {name}", torch.tensor(True))
        assert torch.equal(value, first[name] * mask), name
    assert records.kept()[2:] == [310] * 4


def plateau(optimizer):
    return {"scheduler": ReduceLROnPlateau(optimizer, patience=0, threshold=10.0), "monitor": "val_loss"}


SCHEDULERS = {
    "epoch": lambda o: ExponentialLR(o, 0.5),
    "step": lambda o: {"scheduler": LambdaLR(o, lambda t: 0.9**t), "interval": "step"},
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
    records = fit(tmp_path, ASNISigmoidPruner(density=0.3, **SMALL), toy=toy)
    (first, first_schedule), (last, _) = records.states[0], records.states[2]
    (again, schedule) = records.states[3]
    assert str(schedule) == str(first_schedule)
    assert again[0]["param_groups"] == first[0]["param_groups"]
    assert again[0]["state"].keys() == first[0]["state"].keys()
    for index, (name, _) in enumerate(toy.named_parameters()):
        mask = records.validated[3].get(f"m {name}")
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
    toy = make(optimizer=adamw, scheduler=SCHEDULERS["step"])
    start = PruneAtInit(mask_path=str(ticket), weight_init="centroids", verify=True)
    return fit(tmp_path, start, WithTheState(rng), toy=toy, epochs=epochs)


@pytest.mark.parametrize("source", ["ticket.pt", "epoch=3.ckpt"])
def test_the_retraining_is_a_run_of_its_own_from_the_ticket(tmp_path, source):
    """Bit for bit; the ticket from its file, or from a checkpoint of the retraining."""
    toy = make(optimizer=adamw, scheduler=SCHEDULERS["step"])
    asni = ASNISigmoidPruner(density=0.3, ticket_path=str(tmp_path / "ticket.pt"), **SMALL)
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = fit(tmp_path, asni, checkpoint, toy=toy, enable_checkpointing=True)
    alone = from_ticket(tmp_path, tmp_path / source, whole.rng[3])
    assert whole.losses[12:] == alone.losses
    for epoch in range(3):
        assert_equal(whole.started[3 + epoch], alone.started[epoch])
        assert_equal(whole.validated[3 + epoch], alone.validated[epoch])


def test_a_ticket_trains_in_another_process_to_the_same_losses(tmp_path):
    toy = make(optimizer=adamw, scheduler=SCHEDULERS["step"])
    asni = ASNISigmoidPruner(density=0.3, ticket_path=str(tmp_path / "ticket.pt"), **SMALL)
    whole = fit(tmp_path, asni, toy=toy, epochs=4)
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
    asni = ASNISigmoidPruner(density=0.1, **SMALL)
    fit(tmp_path, asni, checkpoint, toy=make(optimizer=OPTIMIZERS["adagrad"]), enable_checkpointing=True)
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
    calls, keep_only = [], lightning_sparse.state._keep_only_

    def counted(tensors, keeps, check=False):
        calls[-1] += not check  # weights, not gradients
        return keep_only(tensors, keeps, check)

    class Step(pl.Callback):
        def on_train_batch_start(self, *_):
            calls.append(0)

    monkeypatch.setattr(lightning_sparse.state, "_keep_only_", counted)
    fit(tmp_path, ASNISigmoidPruner(density=0.1, gamma=1.0, search_epochs=3), Step())
    assert calls == [1, 0, 0, 0] * 6


def test_nothing_is_compiled_again(tmp_path):
    def graphs(*callbacks):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        toy = make(dropout=0.0)
        toy.net = torch.compile(toy.net, backend="aot_eager")
        trainer(tmp_path, *callbacks, max_epochs=5).fit(toy, loader())
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    assert 0 < graphs(ASNISigmoidPruner(density=0.1, **SMALL)) == graphs()


class Two(pl.LightningModule):
    """Two optimizers, each with a scheduler, by hand; gradients of the last batch stay."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.nets = nn.ModuleList([nn.Linear(192, 4), nn.Linear(192, 4)])

    def training_step(self, batch, batch_idx):
        for net, optimizer, scheduler in zip(self.nets, self.optimizers(), self.lr_schedulers(), strict=True):
            self.manual_backward(nn.functional.cross_entropy(net(batch[0].flatten(1)), batch[1]))
            if batch_idx != 3:
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()

    def configure_optimizers(self):
        optimizers = [sgd(self.nets[0].parameters()), adamw(self.nets[1].parameters())]
        return optimizers, [ExponentialLR(optimizer, 0.9) for optimizer in optimizers]


def test_two_optimizers_by_hand(tmp_path):
    torch.manual_seed(0)
    toy = Two()
    first = weights_of(toy)
    asni = ASNISigmoidPruner(density=0.1, reinit="original", **SMALL)
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
    alone = Two()
    torch.save(state_of(toy).masks, tmp_path / "masks.pt")
    start = PruneAtInit(mask_path=str(tmp_path / "masks.pt"))
    trainer(tmp_path, start, max_epochs=2).fit(alone, loader())
    assert_equal(weights_of(alone), weights_of(toy))


# Resuming.


def stateful():
    return StatefulDataLoader(loader().dataset, 8, shuffle=True)


def shuffled():
    return loader(shuffle=True)


SAVING = {
    "epoch end": (shuffled, {}, {}),
    "validation end": (shuffled, {"save_on_train_epoch_end": False}, {}),
    "last batch": (shuffled, {"every_n_train_steps": 4}, {}),
    "every batch": (stateful, {"every_n_train_steps": 1}, {}),
    "twice an epoch": (stateful, {}, {"val_check_interval": 0.5}),
}


def flat(tree, prefix=""):
    """Return all tensors and numbers of nested dicts and lists, by path."""
    if isinstance(tree, dict | list | tuple):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {key: leaf for name, part in pairs for key, leaf in flat(part, f"{prefix}.{name}").items()}
    return {prefix: torch.as_tensor(tree)} if isinstance(tree, torch.Tensor | int | float) else {}


def saved_run(tmp_path, asni, saving, name, ckpt_path=None, seed=7, **changes):
    make_loader, when, limits = SAVING[saving]
    pl.seed_everything(seed)
    toy = Scaled(optimizer=adamw, scheduler=SCHEDULERS["step"])
    save = ModelCheckpoint(tmp_path / name, filename="{step}", save_top_k=-1, **when)
    arguments = {"enable_checkpointing": True, "num_sanity_val_steps": 0, "epochs": 5, **limits, **changes}
    records = fit(
        tmp_path, asni, ExactResume(), save, toy=toy, data=make_loader(), ckpt_path=ckpt_path, **arguments
    )
    state = asni.state_dict()
    state.get("provenance", {}).pop("seed", None)  # the process's own
    optimizer = records.trainer.optimizers[0].state_dict()
    records.end = flat({"asni": state, "optimizer": optimizer, "rng": torch.get_rng_state()})
    return records


@pytest.mark.parametrize("saving", SAVING)
@pytest.mark.parametrize("reinit", ["centroids", "original"])
def test_resumed_from_any_checkpoint_bit_for_bit(tmp_path, saving, reinit):
    """In the search, at the switch and in the retraining, by a process that has drawn other numbers."""

    def make_asni():
        return ASNISigmoidPruner(density=0.2, reinit=reinit, **SMALL)

    whole = saved_run(tmp_path, make_asni(), saving, "whole")
    saved = sorted((tmp_path / "whole").glob("step=*.ckpt"))
    assert len(saved) == {"every batch": 20, "twice an epoch": 10}.get(saving, 5)
    for path in saved:
        resumed = saved_run(tmp_path, make_asni(), saving, f"from {path.stem}", path, seed=99)
        assert_equal(weights_of(whole.toy), weights_of(resumed.toy))
        assert_equal(state_of(whole.toy).masks, state_of(resumed.toy).masks)
        if (
            path != tmp_path / "whole" / "step=20.ckpt"
        ):  # which trains no more, but draws an order to train in
            assert_equal(whole.end, resumed.end)
        for epoch, found in resumed.validated.items():
            assert_equal(whole.validated[epoch], found)


def test_the_length_of_the_search_stays_when_a_longer_run_resumes(tmp_path):
    def make_asni():
        return ASNISigmoidPruner(density=0.2, verify=True)

    whole = saved_run(tmp_path, ASNISigmoidPruner(density=0.2, search_epochs=2), "epoch end", "a", epochs=6)
    saved_run(tmp_path, make_asni(), "epoch end", "short", epochs=4)
    for step in (4, 8, 12):
        asni = make_asni()
        path = tmp_path / "short" / f"step={step}.ckpt"
        resumed = saved_run(tmp_path, asni, "epoch end", f"from {step}", path, epochs=6)
        assert asni.epochs == 2
        assert_equal(weights_of(whole.toy), weights_of(resumed.toy))


@pytest.mark.parametrize(("reinit", "length"), [("centroids", 3), ("original", 3), (None, 7)])
def test_the_length_of_the_search(tmp_path, reinit, length):
    asni = ASNISigmoidPruner(density=0.2, reinit=reinit)
    fit(tmp_path, asni, epochs=7)
    assert len(asni.path) == length - 1


def test_stopped_by_steps_and_resumed(tmp_path):
    """Where the epoch that was cut short is over, and pruned, resuming goes on with the next."""
    asni = ASNISigmoidPruner(density=0.2, **SMALL)
    saved_run(tmp_path, asni, "epoch end", "cut", max_steps=6)
    path = tmp_path / "cut" / "step=6.ckpt"
    assert torch.load(path, weights_only=True)["callbacks"]["ASNISigmoidPruner"]["epoch"] == 2
    resumed = ASNISigmoidPruner(density=0.2, **SMALL)
    records = saved_run(tmp_path, resumed, "epoch end", "on", path)
    assert resumed.restarted
    assert resumed.epoch == records.trainer.current_epoch == 5
    assert records.kept()[-2:] == [206, 206]


def test_a_checkpoint_made_without_it(tmp_path):
    toy, save = make(), ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, save, enable_checkpointing=True).fit(toy, loader())
    with pytest.raises(ValueError, match=r"must be there from the first step on, and `ckpt_path` .* without"):
        fit(tmp_path, ASNISigmoidPruner(density=0.2), ckpt_path=tmp_path / "last.ckpt", epochs=6)


def test_changed_arguments_do_not_resume(tmp_path):
    saved_run(tmp_path, ASNISigmoidPruner(density=0.2, **SMALL), "epoch end", "a", max_steps=8)
    for other, message in (
        ({"density": 0.3}, "`density` is 0.3, but the checkpoint was made with 0.2"),
        ({"alpha": 80}, "`alpha` is 80, but the checkpoint was made with None"),
        ({"density": 0.2, "beta": 0.4}, "`beta` is 0.4"),
        ({"density": 0.2, "gamma": 2.0}, "`gamma` is 2.0"),
        ({"density": 0.2, "search_epochs": 4}, "`search_epochs` is 4"),
        ({"density": 0.2, "min_increment": 0.1}, "`min_increment` is 0.1"),
        ({"density": 0.2, "min_weights_per_layer": 3}, "`min_weights_per_layer` is 3"),
        ({"density": 0.2, "reinit": "original"}, "`reinit` is 'original'"),
        ({"density": 0.2, "exclude": ["net.0.weight"]}, "`exclude` is"),
    ):
        asni = ASNISigmoidPruner(**{**SMALL, **other})
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, asni, ckpt_path=tmp_path / "a" / "step=4.ckpt")


# More than one fit.


def test_a_second_fit_prunes_no_more(tmp_path):
    asni = ASNISigmoidPruner(density=0.1, **SMALL)
    first = fit(tmp_path, asni)
    masks = state_of(first.toy).masks
    second = fit(tmp_path, asni, toy=first.toy, epochs=10)
    assert second.kept() == [103] * 10
    assert_equal(state_of(first.toy).masks, masks)
    for name, value in second.started[0].items():
        assert torch.equal(value, first.validated[5][name]), name


def test_a_search_in_two_fits(tmp_path):
    """With a validation in between, and a Trainer of another length: the search stays as long as it was."""
    asni = ASNISigmoidPruner(density=0.1, gamma=1.0, verify=True)

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    first = fit(tmp_path, asni, Stop())
    assert (asni.epoch, asni.epochs) == (1, 3)
    trainer(tmp_path, asni).validate(first.toy, loader(2), verbose=False)
    second = fit(tmp_path, asni, toy=first.toy, epochs=12)
    assert second.kept() == [103] * 12
    assert (asni.epoch, asni.epochs, asni.prunings) == (13, 3, 2)
    assert asni.restarted


def test_another_module_is_pruned_from_the_start(tmp_path):
    asni = ASNISigmoidPruner(density=0.1, gamma=1.0, verify=True)
    fit(tmp_path, asni, epochs=4)
    assert len(asni.path) == 1
    other = fit(tmp_path, asni, toy=make(3), epochs=6)
    assert len(asni.path) == 2
    assert other.kept() == [asni.path[0], 103, 103, 103, 103, 103]


@pytest.mark.parametrize("step", [4, 12, 16])
def test_a_fit_after_a_test_of_a_checkpoint_goes_on_from_there(tmp_path, step):
    """In objects that have seen no fit: weights, masks and schedule are the checkpoint's."""
    saved_run(tmp_path, ASNISigmoidPruner(density=0.2, **SMALL), "epoch end", "a")
    path = tmp_path / "a" / f"step={step}.ckpt"
    asni, toy = (
        ASNISigmoidPruner(density=0.2, **SMALL),
        make(5, optimizer=adamw, scheduler=SCHEDULERS["step"]),
    )
    trainer(tmp_path, asni).test(toy, loader(2), ckpt_path=path, verbose=False)
    save = ModelCheckpoint(tmp_path / "b", save_last=True)
    records = fit(tmp_path, asni, save, toy=toy, epochs=3, enable_checkpointing=True)
    assert records.kept()[-2:] == [206, 206]
    assert asni.epoch == step // 4 + 3
    assert asni.restarted


def test_a_fit_that_goes_on_with_other_schedulers(tmp_path):
    saved_run(tmp_path, ASNISigmoidPruner(density=0.2, **SMALL), "epoch end", "a", max_steps=8)
    asni, toy = ASNISigmoidPruner(density=0.2, **SMALL), make(optimizer=adamw)
    with pytest.raises(ValueError, match=r"`configure_optimizers` must return 1 schedulers, .* got 0"):
        fit(tmp_path, asni, toy=toy, ckpt_path=tmp_path / "a" / "step=8.ckpt")


def test_parameters_added_to_an_optimizer_in_mid_fit(tmp_path):
    class Adds(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.optimizers[0].add_param_group({"params": [nn.Parameter(torch.ones(1))]})

    with pytest.raises(ValueError, match=r"must return 1 parameter groups, as when training began, got 2"):
        fit(tmp_path, ASNISigmoidPruner(density=0.2, **SMALL), Adds())


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("at", [5, 9, 14])
def test_copies_go_on_where_they_are(tmp_path, copier, at):
    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == at:
                own, pl_module._trainer = pl_module._trainer, None
                self.pair = copier((pl_module, asni))
                pl_module._trainer = own

    asni, copies = ASNISigmoidPruner(density=0.1, **SMALL), Copies()
    fit(tmp_path, asni, copies, toy=make(optimizer=sgd))
    toy, copied = copies.pair
    before = copied.epoch
    records = fit(tmp_path, copied, HoldsMasks(), toy=toy, epochs=3)
    assert copied.epoch == before + 3
    assert copied.restarted
    assert records.kept()[-1] == 103
    assert asni.epoch == 6


# Company, and what is refused.


def test_compact_layers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot prune Dense-plus-Sparse layers, got 'net"):
        fit(tmp_path, DCTpSConversion(0.2), ASNISigmoidPruner(density=0.2), toy=Toy())


@pytest.mark.parametrize(
    "other", [lambda: Rotate(), lambda: IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1)]
)
def test_two_that_move_masks_are_refused(tmp_path, other):
    with pytest.raises(ValueError, match="both change masks during training"):
        fit(tmp_path, ASNISigmoidPruner(density=0.2), other())


def test_averaging_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ASNISigmoidPruner cannot run with EMAWeightAveraging"):
        fit(tmp_path, ASNISigmoidPruner(density=0.2), EMAWeightAveraging())


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
        fit(tmp_path, ASNISigmoidPruner(**{**SMALL, **arguments}), toy=toy)
    assert_equal(before, weights_of(toy))


def test_a_search_without_an_end(tmp_path):
    with pytest.raises(ValueError, match="`search_epochs` must be a number if `max_epochs` is -1, got None"):
        fit(tmp_path, ASNISigmoidPruner(density=0.1), epochs=-1, max_steps=20)
    records = fit(tmp_path, ASNISigmoidPruner(density=0.1, **SMALL), epochs=-1, max_steps=20)
    assert records.kept()[1:] == [103] * 4


def test_a_fit_that_is_too_short_warns(tmp_path):
    with pytest.warns(UserWarning, match=r"needs 4 epochs \(`search_epochs` 3\), and `max_epochs` is 3"):
        ASNISigmoidPruner(density=0.1, **SMALL).setup(trainer(tmp_path, max_epochs=3), make(), "fit")


def test_the_learning_rate_that_is_logged_is_the_one_that_is_used(tmp_path):
    toy = make(scheduler=SCHEDULERS["epoch"])
    monitor = LearningRateMonitor("epoch")
    records = fit(
        tmp_path, ASNISigmoidPruner(density=0.1, **SMALL), monitor, toy=toy, logger=CSVLogger(tmp_path)
    )
    rows = Path(records.trainer.log_dir, "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("lr-SGD")
    logged = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert logged == [rate for (rate,) in records.rates[::4]]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = from_ticket(folder, folder / "ticket.pt", torch.load(folder / "rng.pt"), epochs=1)
    print(*(loss.hex() for loss in found.losses))
