"""ASNI goes on: from checkpoints, in a second fit, as a copy."""

import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from rounds import ENDS_EARLY, SEARCH, CopiesAt, Scaled, by_step, checkpoints, fit_asni, flat, make, saved_fit
from torch import nn
from toy import HoldsMasks, adamw, assert_equal, loader, sgd, trainer, weights_of

from lightning_sparse import ASNISigmoidPruner
from lightning_sparse.weights.state import state_of

WAYS = ["epoch end", "validation end", "last batch", "every batch", "twice an epoch"]


def saved_run(tmp_path, asni, saving, name, ckpt_path=None, seed=7, epochs=5, **arguments):
    pl.seed_everything(seed)
    toy = Scaled(optimizer=adamw, scheduler=by_step)
    arguments |= {"epochs": epochs, "ckpt_path": ckpt_path}
    records = saved_fit(tmp_path / name, toy, saving, asni, **arguments)
    state = asni.state_dict()
    state.get("provenance", {}).pop("seed", None)  # the process's own
    optimizer = records.trainer.optimizers[0].state_dict()
    records.end = flat({"asni": state, "optimizer": optimizer, "rng": torch.get_rng_state()})
    return records


@pytest.mark.filterwarnings("ignore:ExactResume.*before the validation that followed:UserWarning")
@pytest.mark.parametrize("saving", WAYS)
@pytest.mark.parametrize("reinit", ["centroids", "original"])
def test_resumed_from_any_checkpoint_bit_for_bit(tmp_path, saving, reinit):
    """In the search, at the switch and in the retraining, by a process that has drawn other numbers."""

    def make_asni():
        return ASNISigmoidPruner(density=0.2, reinit=reinit, **SEARCH)

    whole = saved_run(tmp_path, make_asni(), saving, "whole")
    saved = checkpoints(tmp_path / "whole")
    assert len(saved) == {"every batch": 20, "twice an epoch": 10}.get(saving, 5)
    for path in saved:
        resumed = saved_run(tmp_path, make_asni(), saving, f"from {path.stem}", path, seed=99)
        assert_equal(weights_of(whole.toy), weights_of(resumed.toy))
        assert_equal(state_of(whole.toy).masks, state_of(resumed.toy).masks)
        if path != saved[-1]:  # which trains no more, but draws an order to train in
            assert_equal(whole.end, resumed.end)
        for epoch, found in resumed.validated.items():
            assert_equal(whole.validated[epoch], found)
            assert_equal(whole.validated_masks[epoch], resumed.validated_masks[epoch])


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
    fit_asni(tmp_path, asni, epochs=7)
    assert len(asni.path) == length - 1


@ENDS_EARLY
@pytest.mark.filterwarnings("ignore:ExactResume.*without `state_dict` starts again:UserWarning")
def test_stopped_by_steps_and_resumed(tmp_path):
    """Where the epoch that was cut short is over, and pruned, resuming goes on with the next."""
    asni = ASNISigmoidPruner(density=0.2, **SEARCH)
    saved_run(tmp_path, asni, "epoch end", "cut", max_steps=6)
    path = tmp_path / "cut" / "step=6.ckpt"
    assert torch.load(path, "cpu", weights_only=True)["callbacks"]["ASNISigmoidPruner"]["epoch"] == 2
    resumed = ASNISigmoidPruner(density=0.2, **SEARCH)
    records = saved_run(tmp_path, resumed, "epoch end", "on", path)
    assert resumed.restarted
    assert resumed.epoch == records.trainer.current_epoch == 5
    assert records.kept()[-2:] == [206, 206]


def test_a_checkpoint_made_without_it(tmp_path):
    toy, save = make(), ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, save, enable_checkpointing=True).fit(toy, loader())
    with pytest.raises(ValueError, match=r"must be there from the first step on, and `ckpt_path` .* without"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.2), ckpt_path=tmp_path / "last.ckpt", epochs=6)


@ENDS_EARLY
def test_changed_arguments_do_not_resume(tmp_path):
    saved_run(tmp_path, ASNISigmoidPruner(density=0.2, **SEARCH), "epoch end", "a", max_steps=8)
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
        asni = ASNISigmoidPruner(**{**SEARCH, **other})
        with pytest.raises(ValueError, match=message):
            fit_asni(tmp_path, asni, ckpt_path=tmp_path / "a" / "step=4.ckpt")


# More than one fit.


def test_a_second_fit_prunes_no_more(tmp_path):
    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    first = fit_asni(tmp_path, asni)
    masks = state_of(first.toy).masks
    second = fit_asni(tmp_path, asni, toy=first.toy, epochs=10)
    assert second.kept() == [103] * 10
    assert_equal(state_of(first.toy).masks, masks)
    for name, value in second.started[0].items():
        assert torch.equal(value, first.validated[5][name]), name


@ENDS_EARLY
def test_a_search_in_two_fits(tmp_path):
    """With a validation in between, and a Trainer of another length: the search stays as long as it was."""
    asni = ASNISigmoidPruner(density=0.1, gamma=1.0, verify=True)

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    first = fit_asni(tmp_path, asni, Stop())
    assert (asni.epoch, asni.epochs) == (1, 3)
    trainer(tmp_path, asni).validate(first.toy, loader(2), verbose=False)
    second = fit_asni(tmp_path, asni, toy=first.toy, epochs=12)
    assert second.kept() == [103] * 12
    assert (asni.epoch, asni.epochs, asni.prunings) == (13, 3, 2)
    assert asni.restarted


def test_another_module_is_pruned_from_the_start(tmp_path):
    asni = ASNISigmoidPruner(density=0.1, gamma=1.0, verify=True)
    fit_asni(tmp_path, asni, epochs=4)
    assert len(asni.path) == 1
    other = fit_asni(tmp_path, asni, toy=make(seed=3), epochs=6)
    assert len(asni.path) == 2
    assert other.kept() == [asni.path[0], 103, 103, 103, 103, 103]


@pytest.mark.parametrize("step", [4, 12, 16])
def test_a_fit_after_a_test_of_a_checkpoint_goes_on_from_there(tmp_path, step):
    """In objects that have seen no fit: weights, masks and schedule are the checkpoint's."""
    saved_run(tmp_path, ASNISigmoidPruner(density=0.2, **SEARCH), "epoch end", "a")
    path = tmp_path / "a" / f"step={step}.ckpt"
    asni, toy = ASNISigmoidPruner(density=0.2, **SEARCH), make(seed=5, optimizer=adamw, scheduler=by_step)
    trainer(tmp_path, asni).test(toy, loader(2), ckpt_path=path, verbose=False)
    save = ModelCheckpoint(tmp_path / "b", save_last=True)
    records = fit_asni(tmp_path, asni, save, toy=toy, epochs=3, enable_checkpointing=True)
    assert records.kept()[-2:] == [206, 206]
    assert asni.epoch == step // 4 + 3
    assert asni.restarted


@ENDS_EARLY
def test_a_fit_that_goes_on_with_other_schedulers(tmp_path):
    saved_run(tmp_path, ASNISigmoidPruner(density=0.2, **SEARCH), "epoch end", "a", max_steps=8)
    asni, toy = ASNISigmoidPruner(density=0.2, **SEARCH), make(optimizer=adamw)
    with pytest.raises(ValueError, match=r"`configure_optimizers` must return 1 schedulers, .* got 0"):
        fit_asni(tmp_path, asni, toy=toy, ckpt_path=tmp_path / "a" / "step=8.ckpt")


def test_parameters_added_to_an_optimizer_in_mid_fit(tmp_path):
    class Adds(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.optimizers[0].add_param_group({"params": [nn.Parameter(torch.ones(1))]})

    with pytest.raises(ValueError, match=r"must return 1 parameter groups, as when training began, got 2"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.2, **SEARCH), Adds())


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("at", [5, 9, 14])
def test_copies_go_on_where_they_are(tmp_path, copier, at):
    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    copies = CopiesAt(at, asni, copier)
    fit_asni(tmp_path, asni, copies, toy=make(optimizer=sgd))
    toy, copied = copies.pair
    before = copied.epoch
    records = fit_asni(tmp_path, copied, HoldsMasks(), toy=toy, epochs=3)
    assert copied.epoch == before + 3
    assert copied.restarted
    assert records.kept()[-1] == 103
    assert asni.epoch == 6


# Early ends are said.


@pytest.mark.parametrize(
    ("steps", "kept", "missing"), [(3, 633, "was to keep 206"), (12, 206, "was to start training once more")]
)
def test_a_fit_that_ends_before_it_is_done_says_so(tmp_path, steps, kept, missing):
    """The first of two prunings is done: 1,032 - int(1,032 * 0.8 sigmoid(-1.5) / sigmoid(-0.5))."""
    with pytest.warns(UserWarning, match=f"ended with {kept} weights before ASNISigmoidPruner .* {missing}"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.2, **SEARCH), max_steps=steps)
