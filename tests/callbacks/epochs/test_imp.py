"""Lottery tickets: rounds of training, pruning and rewinding in one fit."""

import itertools
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from rounds import (
    ENDS_EARLY,
    CopiesAt,
    CountsMaskings,
    Records,
    Two,
    by_step,
    checkpoints,
    make,
    recorded_fit,
    saved_fit,
)
from toy import HoldsMasks, Rotate, Toy, adamw, assert_equal, loader, logged, sgd, trainer, weights_of

from lightning_sparse import DCTpSConversion, FromFile, IterativeMagnitudePruning, PruneAtInit
from lightning_sparse.weights.state import state_of

BUDGETS = [1016, 508, 254, 127]  # a half goes each round


def scheduled(**arguments):
    return make(Toy, scheduler=by_step, **arguments)


def fit(tmp_path, imp, *others, toy=None, epochs=8, **arguments):
    toy = scheduled() if toy is None else toy
    return recorded_fit(tmp_path, toy, imp, *others, epochs=epochs, **arguments)


def imp_to(density=0.125, **arguments):
    return IterativeMagnitudePruning(
        density, **{"rounds": 3, "epochs_per_round": 2, "verify": True, **arguments}
    )


def test_counts_each_round(tmp_path):
    records = fit(tmp_path, imp_to(), HoldsMasks())
    assert records.trained() == [count for count in BUDGETS for _ in range(2)]


def test_a_path_that_does_not_divide(tmp_path):
    """1,016 * 0.1 ** (1 / 3) = 471.58, 1,016 * 0.1 ** (2 / 3) = 218.89, 101.6."""
    assert fit(tmp_path, imp_to(0.1)).trained() == [n for n in (1016, 472, 219, 102) for _ in range(2)]


def test_from_the_masks_of_prune_at_init(tmp_path):
    imp = imp_to(rounds=2)
    assert fit(tmp_path, imp, PruneAtInit("erk", 0.5), epochs=6).trained() == [508, 508, 254, 254, 127, 127]
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
    toy = scheduled(optimizer=optimizer)
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
    records = fit(tmp_path, imp_to(rewind_to_step=3), toy=scheduled(optimizer=adamw))
    states = [str(records.states[epoch]) for epoch in range(7)]
    assert states[2] == states[4] == states[6] == states[0]
    assert states[1] != states[0]
    rounds = [records.rates[i : i + 8] for i in range(0, 32, 8)]
    assert all(a == b for a, b in itertools.pairwise(rounds))
    assert rounds[0][0] > rounds[0][7]


def test_the_last_round_is_a_run_of_its_own(tmp_path):
    """With its masks from the original weights, bit for bit."""
    whole = fit(tmp_path, imp_to(), toy=scheduled(optimizer=adamw, dropout=0.0))
    torch.save(whole.masks[6], tmp_path / "masks.pt")
    alone = fit(
        tmp_path,
        PruneAtInit(FromFile(str(tmp_path / "masks.pt"))),
        toy=scheduled(optimizer=adamw, dropout=0.0),
        epochs=2,
    )
    assert_equal(weights_of(whole.toy), weights_of(alone.toy))


def test_what_was_validated_is_what_is_saved(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    records = fit(tmp_path, imp_to(), save, enable_checkpointing=True)
    for epoch, found in records.validated.items():
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt", "cpu", weights_only=True)
        assert_equal(saved["state_dict"], found)
        state = saved["callbacks"]["IterativeMagnitudePruning"]
        assert state["prunings"] == epoch // 2
        assert bool(state["saved"]) is (epoch < 6)  # nobody goes back in the last round


class Halting(Two):
    """The second net steps half as often."""

    def training_step(self, batch, batch_idx):
        for i, (net, optimizer) in enumerate(zip(self.nets, self.optimizers(), strict=True)):
            if i == 0 or batch_idx % 2:
                optimizer.zero_grad()
                self.manual_backward(self.loss(net, batch))
                optimizer.step()


@pytest.mark.parametrize("step", [0, 3])
def test_two_optimizers(tmp_path, step):
    """Both have made three steps after six batches."""
    toy = make(Halting)
    first, records = weights_of(toy), Records()
    imp = imp_to(rewind_to_step=step)
    trainer(tmp_path, imp, HoldsMasks(), records, max_epochs=8).fit(toy, loader())
    origin = records.after[6] if step else first
    for epoch in (2, 4, 6):
        for name, value in records.started[epoch].items():
            mask = records.masks[epoch].get(name, torch.tensor(True))
            assert torch.equal(value, origin[name] * mask), name
    assert records.trained()[::2] == [1536, 768, 384, 192]
    assert str(records.states[2]) == str(records.states[0])


# Resuming.


@pytest.mark.filterwarnings("ignore:ExactResume.*before the validation that followed:UserWarning")
@pytest.mark.parametrize(
    ("saving", "files"),
    [("epoch end", 8), ("last batch", 8), ("every third batch", 10), ("twice an epoch", 16)],
)
@pytest.mark.parametrize("step", [0, 7])
def test_resumed_from_any_checkpoint_bit_for_bit(tmp_path, saving, files, step):
    def run(name, ckpt_path=None, seed=7):
        pl.seed_everything(seed)
        toy, imp = Toy(optimizer=adamw, scheduler=by_step), imp_to(rewind_to_step=step)
        records = saved_fit(tmp_path / name, toy, saving, imp, epochs=8, ckpt_path=ckpt_path)
        records.optimizer = str(records.trainer.optimizers[0].state_dict())
        return records

    whole = run("whole")
    saved = checkpoints(tmp_path / "whole")
    assert len(saved) == files
    for path in saved[:: 1 if saving == "last batch" else 2]:
        resumed = run(f"from {path.stem}", path, seed=99)
        assert_equal(weights_of(whole.toy), weights_of(resumed.toy))
        assert_equal(state_of(whole.toy).masks, state_of(resumed.toy).masks)
        assert whole.optimizer == resumed.optimizer
        for epoch, found in resumed.validated.items():
            assert_equal(whole.validated[epoch], found)


@ENDS_EARLY
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
    trainer(tmp_path, save, enable_checkpointing=True).fit(scheduled(), loader())
    with pytest.raises(ValueError, match="IterativeMagnitudePruning must be there from the first step on"):
        fit(tmp_path, imp_to(), ckpt_path=tmp_path / "last.ckpt")


@ENDS_EARLY
def test_a_second_fit_goes_on(tmp_path):
    """In mid-round with the next epoch, and after the last round with training."""
    imp = imp_to(rewind_to_step=2)
    first = fit(tmp_path, imp, epochs=8, max_steps=12)
    assert imp.epoch == 3
    second = fit(tmp_path, imp, toy=first.toy, epochs=5)
    assert second.trained() == [508, 254, 254, 127, 127]
    masks = state_of(first.toy).masks
    third = fit(tmp_path, imp, toy=first.toy, epochs=4)
    assert third.trained() == [127] * 4
    assert_equal(state_of(first.toy).masks, masks)


def test_another_module_is_pruned_from_the_start(tmp_path):
    imp = imp_to(rewind_to_step=2)
    fit(tmp_path, imp)
    toy = scheduled(seed=5)
    records = fit(tmp_path, imp, toy=toy)
    assert records.trained() == [count for count in BUDGETS for _ in range(2)]
    for name, mask in records.masks[2].items():
        assert torch.equal(records.started[2][name], records.after[2][name] * mask)


def test_a_copy_goes_on(tmp_path):
    imp = imp_to(rewind_to_step=2)
    copies = CopiesAt(13, imp)
    fit(tmp_path, imp, copies)
    toy, copied = copies.pair
    assert fit(tmp_path, copied, HoldsMasks(), toy=toy, epochs=5).trained() == [508, 254, 254, 127, 127]


def test_weights_are_masked_once_more_in_the_first_step_only(tmp_path, monkeypatch):
    counts = CountsMaskings(monkeypatch)
    fit(tmp_path, imp_to(rewind_to_step=3, verify=False), counts)
    assert counts.calls == [1, 0, 0, 0] * 8


# What is logged, and what is refused.


def test_what_is_logged(tmp_path):
    records = fit(tmp_path, imp_to(), logger=CSVLogger(tmp_path))
    table = logged(records.trainer.logger, "imp/round")
    assert [float(row["imp/round"]) for row in table] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [float(row["imp/sparsity"]) for row in table] == pytest.approx(
        [1 - count / 1016 for count in BUDGETS for _ in range(2)]
    )


def test_a_step_after_the_first_round_is_refused_before_training(tmp_path):
    toy = scheduled()
    before = weights_of(toy)
    with pytest.raises(ValueError, match="`rewind_to_step` must be one of the first round's 8 steps, got 9"):
        fit(tmp_path, imp_to(rewind_to_step=9), toy=toy)
    with pytest.raises(ValueError, match="first round's 4 steps, got 5"):
        fit(tmp_path, imp_to(rewind_to_step=5), toy=toy, accumulate_grad_batches=2)
    assert_equal(before, weights_of(toy))


def test_a_step_that_nobody_made_by_the_end_of_the_round(tmp_path):
    with pytest.raises(ValueError, match="`rewind_to_step` must be a step of the first round, got 5"):
        trainer(tmp_path, imp_to(rewind_to_step=5), max_epochs=8).fit(make(Halting), loader())


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
    with pytest.raises(
        ValueError, match="IterativeMagnitudePruning cannot prune layers that store only their active entries"
    ):
        fit(tmp_path, DCTpSConversion(0.2), imp_to())
    with pytest.raises(ValueError, match="IterativeMagnitudePruning cannot run with EMAWeightAveraging"):
        fit(tmp_path, imp_to(), EMAWeightAveraging())


def test_a_fit_that_is_too_short_warns(tmp_path):
    with pytest.warns(UserWarning, match=r"needs 8 epochs \(`rounds` 3\), and `max_epochs` is 7"):
        imp_to().setup(trainer(tmp_path, max_epochs=7), scheduled(), "fit")


def test_layers_with_a_density_of_their_own(tmp_path):
    records = fit(tmp_path, imp_to(density_overrides={"net.0.weight": 0.25}))
    counts = [[int(mask.sum()) for mask in masks.values()] for _, masks in sorted(records.masks.items())]
    assert counts[-1] == [54, 127 - 54]
    # By hand: 162 of 889 removals are of this layer; 508 * 162 // 889 = 92, 762 * 162 // 889 = 138.
    assert [count[0] for count in counts[::2]] == [216, 216 - 92, 216 - 138, 54]
    assert math.prod(sum(count) == total for count, total in zip(counts[::2], BUDGETS, strict=True))
