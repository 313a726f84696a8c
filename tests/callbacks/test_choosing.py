"""Nets chosen by a metric, among those that are sparse."""

from pathlib import Path

import forked
import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from toy import Rotate, Toy, loader, trainer

from lightning_sparse import (
    ASNISigmoidPruner,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    SparseCheckpoint,
    SparseEarlyStopping,
    load_masks,
)
from lightning_sparse.functional.masks import count_kept

SCRIPT = Path(__file__).parents[1] / "scripts" / "choose_by_metric.py"
METRICS = [0.1, 0.2, 0.9, 0.5, 0.7, 0.6]  # by epoch; best before the net is sparse


class Scripted(Toy):
    """Validates to the values above."""

    def validation_step(self, *_):
        self.log("val_loss", METRICS[self.current_epoch])


def asni(**arguments):
    """Prunes at the end of epochs 0 and 1."""
    return ASNISigmoidPruner(density=0.1, **{"search_epochs": 3, **arguments})


def imp():
    """Prunes at the start of epoch 2."""
    return IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=2)


def gradual():
    """Prunes in epochs 0, 1 and 2, the last time in the middle of it."""
    return GradualMagnitudePruning(0.1, stop=10, every_n_steps=3)


def fit(tmp_path, *callbacks, toy=None, **arguments):
    torch.manual_seed(0)
    toy = Scripted() if toy is None else toy
    runner = trainer(tmp_path, *callbacks, **{"max_epochs": 6, "enable_checkpointing": True, **arguments})
    runner.fit(toy, loader(), loader(2))
    return runner


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("pruner", "best"), [(asni, 1), (imp, 3), (gradual, 3), (lambda: PruneAtInit("erk", 0.1), 0)]
)
def test_the_best_net_is_a_sparse_one(tmp_path, pruner, best, first):
    """ASNI prunes before the epoch's validation, a round of IMP after it."""
    save = SparseCheckpoint(tmp_path, monitor="val_loss", filename="{epoch}")
    pair = [pruner(), save]
    fit(tmp_path, *pair[:: 1 if first else -1])
    assert Path(save.best_model_path).name == f"epoch={best}.ckpt"
    assert float(save.best_model_score) == pytest.approx(METRICS[best])
    assert count_kept(load_masks(save.best_model_path)) == 102
    assert [path.name for path in tmp_path.glob("*.ckpt")] == [f"epoch={best}.ckpt"]


@pytest.mark.filterwarnings("ignore:ModelCheckpoint by 'val_loss'")
def test_lightnings_own_takes_one_that_is_not(tmp_path):
    save = ModelCheckpoint(tmp_path, monitor="val_loss", filename="{epoch}")
    fit(tmp_path, asni(), save)
    assert Path(save.best_model_path).name == "epoch=0.ckpt"
    assert count_kept(load_masks(save.best_model_path)) > 102


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        ({"save_top_k": -1}, [1, 2, 3, 4, 5]),
        ({"save_top_k": 2}, [1, 3]),
        ({"mode": "max"}, [2]),
        ({"save_on_train_epoch_end": False}, [1]),
    ],
)
def test_its_arguments_are_lightnings(tmp_path, arguments, epochs):
    fit(tmp_path, asni(), SparseCheckpoint(tmp_path, monitor="val_loss", filename="{epoch}", **arguments))
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [f"epoch={e}.ckpt" for e in epochs]


def test_validated_twice_an_epoch(tmp_path):
    """The validation in the middle of epoch 1 is of a net that will be pruned at its end."""
    save = SparseCheckpoint(tmp_path, monitor="val_loss", filename="{step}", save_top_k=-1)
    fit(tmp_path, asni(), save, val_check_interval=0.5, max_epochs=4)
    assert sorted(int(path.stem[5:]) for path in tmp_path.glob("*.ckpt")) == [8, 10, 12, 14, 16]


@pytest.mark.filterwarnings("ignore:The fit has ended")
def test_a_run_that_ends_too_early_saves_nothing(tmp_path):
    save = SparseCheckpoint(tmp_path, monitor="val_loss", filename="{epoch}")
    fit(tmp_path, asni(), save, max_steps=4)
    assert save.best_model_path == ""
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.filterwarnings("ignore:The fit has ended")
def test_resumed_it_still_knows_its_best(tmp_path):
    def callbacks():
        best = SparseCheckpoint(tmp_path / "best", monitor="val_loss", filename="{epoch}")
        return [asni(), best, ModelCheckpoint(tmp_path, save_last=True)]

    fit(tmp_path, *callbacks(), max_steps=12)
    again = callbacks()
    torch.manual_seed(0)
    runner = trainer(tmp_path, *again, max_epochs=6, enable_checkpointing=True)
    runner.fit(Scripted(), loader(), loader(2), ckpt_path=tmp_path / "last.ckpt")
    assert Path(again[1].best_model_path).name == "epoch=1.ckpt"
    metrics = runner.test(Toy(), loader(2), ckpt_path=again[1].best_model_path, verbose=False)
    assert set(metrics[0]) == {"val_loss"}


@pytest.mark.parametrize("on_epoch_end", [True, False])
@pytest.mark.parametrize(
    ("pruner", "stopped"),
    [(asni, 4), (lambda: asni(reinit=None), 2), (imp, 3), (gradual, 3), (lambda: PruneAtInit("erk", 0.1), 1)],
)
def test_stopping_begins_with_the_last_training_of_the_sparse_net(tmp_path, pruner, stopped, on_epoch_end):
    """Patience 1: the first epoch that is watched is the best. What the search has reached is no bar."""
    stop = SparseEarlyStopping("val_loss", patience=1, min_delta=10.0, check_on_train_epoch_end=on_epoch_end)
    runner = fit(tmp_path, pruner(), stop)
    assert stop.stopped_epoch == stopped
    assert runner.current_epoch == stopped + 1


@pytest.mark.filterwarnings("ignore:EarlyStopping by 'val_loss'")
def test_lightnings_own_stops_before(tmp_path):
    stop = EarlyStopping("val_loss", patience=1, min_delta=10.0)
    with pytest.warns(UserWarning, match=r"ended with 102 weights before ASNI.* was to start training once"):
        assert fit(tmp_path, asni(), stop).current_epoch == 2


def test_without_a_metric_there_is_nothing_to_choose_by(tmp_path):
    with pytest.raises(
        ValueError, match="`monitor` of SparseCheckpoint must be the name of a metric, got None"
    ):
        fit(tmp_path, asni(), SparseCheckpoint(tmp_path))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda p: ModelCheckpoint(p, monitor="val_loss"),
            r"ModelCheckpoint by 'val_loss' may save a net that .* not made sparse yet.*Use SparseCheckpoint",
        ),
        (
            lambda p: EarlyStopping("val_loss"),
            r"EarlyStopping by 'val_loss' may stop at a net that .*Use SparseEarlyStopping",
        ),
    ],
)
@pytest.mark.parametrize("pruner", [asni, imp])
def test_lightnings_own_are_warned_of(tmp_path, pruner, other, message):
    with pytest.warns(UserWarning, match=message):
        fit(tmp_path, pruner(), other(tmp_path))


@pytest.mark.parametrize(
    "others",
    [
        lambda p: [ModelCheckpoint(p, save_last=True)],
        lambda p: [SparseCheckpoint(p, monitor="val_loss"), SparseEarlyStopping("val_loss")],
        lambda p: [ModelCheckpoint(p, every_n_train_steps=2, save_top_k=-1)],
    ],
)
def test_those_that_choose_nothing_are_not(tmp_path, others):
    """A warning would be an error here."""
    fit(tmp_path, asni(), *others(tmp_path))


def test_fixed_and_exchanged_masks_are_as_sparse_as_they_will_be(tmp_path):
    for callback in (PruneAtInit("erk", 0.1), Rotate()):
        assert not callback.pruning
        fit(tmp_path, callback, ModelCheckpoint(tmp_path, monitor="val_loss"), max_epochs=1)


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_by_the_command_line_of_either_package(tmp_path, package):
    forked.run(SCRIPT, package, output=tmp_path / "output.txt", cold=package == "lightning.pytorch")
    saved = torch.load(tmp_path / "best" / "epoch=1.ckpt", "cpu", weights_only=True)
    assert saved["callbacks"]["ASNISigmoidPruner"]["prunings"] == 2
    assert list(tmp_path.glob("best/*")) == [tmp_path / "best" / "epoch=1.ckpt"]
    assert "class_path: lightning_sparse.SparseCheckpoint" in (tmp_path / "config.yaml").read_text()
