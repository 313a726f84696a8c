"""Lottery tickets: rounds of training, pruning and rewinding in one fit."""

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR
from torchdata.stateful_dataloader import StatefulDataLoader
from toy import HoldsMasks, Rotate, Toy, adamw, assert_equal, loader, sgd, trainer, weights_of

import lightning_sparse.state
from lightning_sparse import DCTpSConversion, ExactResume, IterativeMagnitudePruning, PruneAtInit
from lightning_sparse.functional.masks import count_kept
from lightning_sparse.state import state_of

BUDGETS = [1016, 508, 254, 127]  # a half goes each round


class Scheduled(Toy):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        by_step = LambdaLR(optimizer, lambda t: 0.9**t)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_step, "interval": "step"}}


def make(seed=0, kind=Scheduled, **arguments):
    torch.manual_seed(seed)
    return kind(**arguments)


class Records(pl.Callback):
    def __init__(self):
        self.started, self.after, self.masks, self.states, self.validated, self.rates = {}, {}, {}, {}, {}, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            epoch = trainer.current_epoch
            self.started[epoch], self.masks[epoch] = weights_of(pl_module), state_of(pl_module).masks
            schedulers = [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]
            optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
            self.states[epoch] = str(copy.deepcopy((optimizers, schedulers)))
        self.rates.append([group["lr"] for o in trainer.optimizers for group in o.param_groups])

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.after[len(self.after) + 1] = weights_of(pl_module)  # batches so far

    def on_validation_start(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validated[trainer.current_epoch] = weights_of(pl_module)


def fit(tmp_path, imp, *others, toy=None, epochs=8, ckpt_path=None, data=None, **arguments):
    toy, records = make() if toy is None else toy, Records()
    runner = trainer(tmp_path, imp, *others, records, max_epochs=epochs, **arguments)
    runner.fit(toy, loader() if data is None else data, loader(2), ckpt_path=ckpt_path)
    records.toy, records.trainer = toy, runner
    return records


def imp_to(density=0.125, **arguments):
    return IterativeMagnitudePruning(
        density, **{"rounds": 3, "epochs_per_round": 2, "verify": True, **arguments}
    )


def kept(records):
    return [count_kept(masks) for _, masks in sorted(records.masks.items())]


def test_counts_each_round(tmp_path):
    records = fit(tmp_path, imp_to(), HoldsMasks())
    assert kept(records) == [count for count in BUDGETS for _ in range(2)]


def test_a_path_that_does_not_divide(tmp_path):
    """1,016 * 0.1 ** (1 / 3) = 471.58, 1,016 * 0.1 ** (2 / 3) = 218.89, 101.6."""
    assert kept(fit(tmp_path, imp_to(0.1))) == [n for n in (1016, 472, 219, 102) for _ in range(2)]


def test_from_the_masks_of_prune_at_init(tmp_path):
    imp = imp_to(rounds=2)
    assert kept(fit(tmp_path, imp, PruneAtInit("erk", 0.5), epochs=6)) == [508, 508, 254, 254, 127, 127]
    with pytest.raises(ValueError, match=r"`density` must leave between 1 and the 102 weights .* got 127"):
        fit(tmp_path, imp_to(), PruneAtInit("erk", 0.1))


def test_the_smallest_weights_of_the_round_go(tmp_path):
    """By numpy: of the weights at the end of each round, over both layers."""
    records = fit(tmp_path, imp_to())
    for epoch, budget in zip((1, 3, 5), BUDGETS[1:], strict=True):
        found, before, after = records.validated[epoch], records.masks[epoch], records.masks[epoch + 1]
        names = list(before)
        values = np.concatenate([np.abs(found[name][before[name]].numpy()) for name in names])
        least = np.sort(values)[-budget]
        for name in names:
            assert torch.equal(after[name], before[name] & (found[name].abs() >= float(least)))


@pytest.mark.parametrize("optimizer", [sgd, adamw])
@pytest.mark.parametrize("step", [0, 1, 6, 8])
def test_weights_go_back_bit_for_bit(tmp_path, step, optimizer):
    """And batch norm's statistics with them: all else is the module's state after that step."""
    toy = make(optimizer=optimizer)
    first = weights_of(toy)
    records = fit(tmp_path, imp_to(rewind_to_step=step), toy=toy)
    origin = records.after[step] if step else first
    for epoch in (2, 4, 6):
        for name, value in records.started[epoch].items():
            mask = records.masks[epoch].get(name, torch.tensor(True))
            assert torch.equal(value, origin[name] * mask), name
        assert not torch.equal(
            records.validated[epoch + 1]["net.1.running_mean"], origin["net.1.running_mean"]
        )


def test_optimizers_and_schedulers_start_once_more(tmp_path):
    records = fit(tmp_path, imp_to(rewind_to_step=3), toy=make(optimizer=adamw))
    assert records.states[2] == records.states[4] == records.states[6] == records.states[0]
    assert records.states[1] != records.states[0]
    rounds = [records.rates[i : i + 8] for i in range(0, 32, 8)]
    assert all(a == b for a, b in itertools.pairwise(rounds))
    assert rounds[0][0] > rounds[0][7]


def test_the_last_round_is_a_run_of_its_own(tmp_path):
    """With its masks from the original weights, bit for bit."""
    whole = fit(tmp_path, imp_to(), toy=make(optimizer=adamw, dropout=0.0))
    torch.save(whole.masks[6], tmp_path / "masks.pt")
    alone = fit(
        tmp_path,
        PruneAtInit(mask_path=str(tmp_path / "masks.pt")),
        toy=make(optimizer=adamw, dropout=0.0),
        epochs=2,
    )
    assert_equal(weights_of(whole.toy), weights_of(alone.toy))


def test_what_was_validated_is_what_is_saved(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    records = fit(tmp_path, imp_to(), save, enable_checkpointing=True)
    for epoch, found in records.validated.items():
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        assert_equal(saved["state_dict"], found)
        state = saved["callbacks"]["IterativeMagnitudePruning"]
        assert state["prunings"] == epoch // 2
        assert bool(state["saved"]) is (epoch < 6)  # nobody goes back in the last round


class Two(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.nets = nn.ModuleList([nn.Linear(192, 4), nn.Linear(192, 4)])

    def training_step(self, batch, batch_idx):
        for i, (net, optimizer) in enumerate(zip(self.nets, self.optimizers(), strict=True)):
            if i == 0 or batch_idx % 2:  # the second steps half as often
                optimizer.zero_grad()
                self.manual_backward(nn.functional.cross_entropy(net(batch[0].flatten(1)), batch[1]))
                optimizer.step()

    def configure_optimizers(self):
        optimizers = [sgd(self.nets[0].parameters()), adamw(self.nets[1].parameters())]
        return optimizers, [ExponentialLR(optimizer, 0.9) for optimizer in optimizers]


@pytest.mark.parametrize("step", [0, 3])
def test_two_optimizers(tmp_path, step):
    """Both have made three steps after six batches."""
    toy = make(kind=Two)
    first, records = weights_of(toy), Records()
    imp = imp_to(rewind_to_step=step)
    trainer(tmp_path, imp, HoldsMasks(), records, max_epochs=8).fit(toy, loader())
    origin = records.after[6] if step else first
    for epoch in (2, 4, 6):
        for name, value in records.started[epoch].items():
            mask = records.masks[epoch].get(name, torch.tensor(True))
            assert torch.equal(value, origin[name] * mask), name
    assert kept(records)[::2] == [1536, 768, 384, 192]
    assert records.states[2] == records.states[0]


# Resuming.


SAVING = {
    "epoch end": (lambda: loader(shuffle=True), {}, {}, 8),
    "last batch": (lambda: loader(shuffle=True), {"every_n_train_steps": 4}, {}, 8),
    "every third batch": (
        lambda: StatefulDataLoader(loader().dataset, 8, shuffle=True),
        {"every_n_train_steps": 3},
        {},
        10,
    ),
    "twice an epoch": (
        lambda: StatefulDataLoader(loader().dataset, 8, shuffle=True),
        {},
        {"val_check_interval": 0.5},
        16,
    ),
}


@pytest.mark.parametrize("saving", SAVING)
@pytest.mark.parametrize("step", [0, 7])
def test_resumed_from_any_checkpoint_bit_for_bit(tmp_path, saving, step):
    make_loader, when, limits, files = SAVING[saving]

    def run(name, ckpt_path=None, seed=7):
        pl.seed_everything(seed)
        save = ModelCheckpoint(tmp_path / name, filename="{step}", save_top_k=-1, **when)
        arguments = {"enable_checkpointing": True, "num_sanity_val_steps": 0, **limits}
        callbacks = [imp_to(rewind_to_step=step), ExactResume(), save]
        toy = Scheduled(optimizer=adamw)
        records = fit(tmp_path, *callbacks, toy=toy, data=make_loader(), ckpt_path=ckpt_path, **arguments)
        records.optimizer = str(records.trainer.optimizers[0].state_dict())
        return records

    whole = run("whole")
    saved = sorted((tmp_path / "whole").glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    assert len(saved) == files
    for path in saved[:: 1 if saving == "last batch" else 2]:
        resumed = run(f"from {path.stem}", path, seed=99)
        assert_equal(weights_of(whole.toy), weights_of(resumed.toy))
        assert_equal(state_of(whole.toy).masks, state_of(resumed.toy).masks)
        assert whole.optimizer == resumed.optimizer
        for epoch, found in resumed.validated.items():
            assert_equal(whole.validated[epoch], found)


def test_changed_arguments_do_not_resume(tmp_path):
    save = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, imp_to(), save, max_steps=8, enable_checkpointing=True)
    for other in (
        {"rounds": 4},
        {"epochs_per_round": 1},
        {"rewind_to_step": 2},
        {"min_weights_per_layer": 2},
    ):
        name = next(iter(other))
        with pytest.raises(ValueError, match=f"`{name}` is {other[name]}, but the checkpoint was made with"):
            fit(tmp_path, imp_to(**other), ckpt_path=tmp_path / "last.ckpt", epochs=20)


def test_a_checkpoint_made_without_it(tmp_path):
    save = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, save, enable_checkpointing=True).fit(make(), loader())
    with pytest.raises(ValueError, match="IterativeMagnitudePruning must be there from the first step on"):
        fit(tmp_path, imp_to(), ckpt_path=tmp_path / "last.ckpt")


def test_a_second_fit_goes_on(tmp_path):
    """In mid-round with the next epoch, and after the last round with training."""
    imp = imp_to(rewind_to_step=2)
    first = fit(tmp_path, imp, epochs=8, max_steps=12)
    assert imp.epoch == 3
    second = fit(tmp_path, imp, toy=first.toy, epochs=5)
    assert kept(second) == [508, 254, 254, 127, 127]
    masks = state_of(first.toy).masks
    third = fit(tmp_path, imp, toy=first.toy, epochs=4)
    assert kept(third) == [127] * 4
    assert_equal(state_of(first.toy).masks, masks)


def test_another_module_is_pruned_from_the_start(tmp_path):
    imp = imp_to(rewind_to_step=2)
    fit(tmp_path, imp)
    toy = make(5)
    records = fit(tmp_path, imp, toy=toy)
    assert kept(records) == [count for count in BUDGETS for _ in range(2)]
    for name, mask in records.masks[2].items():
        assert torch.equal(records.started[2][name], records.after[2][name] * mask)


def test_a_copy_goes_on(tmp_path):
    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 13:
                own, pl_module._trainer = pl_module._trainer, None
                self.pair = copy.deepcopy((pl_module, imp))
                pl_module._trainer = own

    imp, copies = imp_to(rewind_to_step=2), Copies()
    fit(tmp_path, imp, copies)
    toy, copied = copies.pair
    assert kept(fit(tmp_path, copied, HoldsMasks(), toy=toy, epochs=5)) == [508, 254, 254, 127, 127]


def test_weights_are_masked_once_more_in_the_first_step_only(tmp_path, monkeypatch):
    calls, keep_only = [], lightning_sparse.state._keep_only_

    def counted(tensors, keeps, check=False):
        calls[-1] += not check
        return keep_only(tensors, keeps, check)

    class Step(pl.Callback):
        def on_train_batch_start(self, *_):
            calls.append(0)

    monkeypatch.setattr(lightning_sparse.state, "_keep_only_", counted)
    fit(tmp_path, imp_to(rewind_to_step=3, verify=False), Step())
    assert calls == [1, 0, 0, 0] * 8


# What is logged, and what is refused.


def test_what_is_logged(tmp_path):
    records = fit(tmp_path, imp_to(), logger=CSVLogger(tmp_path))
    rows = Path(records.trainer.log_dir, "metrics.csv").read_text().splitlines()
    table = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    table = [row for row in table if row["imp/round"]]
    assert [float(row["imp/round"]) for row in table] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [float(row["imp/sparsity"]) for row in table] == pytest.approx(
        [1 - count / 1016 for count in BUDGETS for _ in range(2)]
    )


def test_a_step_after_the_first_round_is_refused_before_training(tmp_path):
    toy = make()
    before = weights_of(toy)
    with pytest.raises(ValueError, match="`rewind_to_step` must be one of the first round's 8 steps, got 9"):
        fit(tmp_path, imp_to(rewind_to_step=9), toy=toy)
    with pytest.raises(ValueError, match="first round's 4 steps, got 5"):
        fit(tmp_path, imp_to(rewind_to_step=5), toy=toy, accumulate_grad_batches=2)
    assert_equal(before, weights_of(toy))


def test_a_step_that_nobody_made_by_the_end_of_the_round(tmp_path):
    with pytest.raises(ValueError, match="`rewind_to_step` must be a step of the first round, got 5"):
        trainer(tmp_path, imp_to(rewind_to_step=5), max_epochs=8).fit(make(kind=Two), loader())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0}, r"`density` must be in \(0, 1\], got 0"),
        ({"density": 1.2}, r"`density` must be in \(0, 1\], got 1.2"),
        ({"rounds": 0}, "`rounds` must be an integer of at least 1, got 0"),
        ({"rounds": 1.5}, "`rounds` must be an integer of at least 1, got 1.5"),
        ({"epochs_per_round": 0}, "`epochs_per_round` must be an integer of at least 1, got 0"),
        ({"rewind_to_step": -1}, "`rewind_to_step` must be an integer of at least 0, got -1"),
        ({"rewind_to_step": None}, "`rewind_to_step` must be an integer of at least 0, got None"),
        ({"min_weights_per_layer": -1}, "`min_weights_per_layer` must be an integer of at least 0, got -1"),
        (
            {"min_weights_per_layer": None},
            "`min_weights_per_layer` must be an integer of at least 0, got None",
        ),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        imp_to(**arguments)


def test_company_that_is_refused(tmp_path):
    with pytest.raises(ValueError, match="both change masks during training"):
        fit(tmp_path, imp_to(), Rotate())
    with pytest.raises(ValueError, match="IterativeMagnitudePruning cannot prune Dense-plus-Sparse layers"):
        fit(tmp_path, DCTpSConversion(0.2), imp_to())
    with pytest.raises(ValueError, match="IterativeMagnitudePruning cannot run with EMAWeightAveraging"):
        fit(tmp_path, imp_to(), EMAWeightAveraging())


def test_a_fit_that_is_too_short_warns(tmp_path):
    with pytest.warns(UserWarning, match=r"needs 8 epochs \(`rounds` 3\), and `max_epochs` is 7"):
        imp_to().setup(trainer(tmp_path, max_epochs=7), make(), "fit")


def test_layers_with_a_density_of_their_own(tmp_path):
    records = fit(tmp_path, imp_to(density_overrides={"net.0.weight": 0.25}))
    counts = [[int(mask.sum()) for mask in masks.values()] for _, masks in sorted(records.masks.items())]
    assert counts[-1] == [54, 127 - 54]
    # By hand: 162 of 889 removals are of this layer; 508 * 162 // 889 = 92, 762 * 162 // 889 = 138.
    assert [count[0] for count in counts[::2]] == [216, 216 - 92, 216 - 138, 54]
    assert math.prod(sum(count) == total for count, total in zip(counts[::2], BUDGETS, strict=True))
