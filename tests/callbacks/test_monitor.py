import pickle

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import Rotate, Toy, loader, logged, make_toy, trainer

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SparsityMonitor,
)

LAYERS = {"sparsity_layers/net.0", "sparsity_layers/net.6"}
KEYS = LAYERS | {"sparsity/total"}


def test_every_callback_logs_by_itself_once_per_epoch(tmp_path):
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, PruneAtInit("erk", 0.1), logger=logger, log_every_n_steps=1).fit(make_toy(), loader())
    assert [int(row["step"]) for row in logged(logger, "sparsity/total")] == [3, 7]
    for row in logged(logger, "sparsity/total"):
        assert float(row["sparsity/total"]) == pytest.approx(1 - 102 / 1016)
    for layer in LAYERS:  # fixed: once
        assert [int(row["step"]) for row in logged(logger, layer)] == [3]


@pytest.mark.parametrize("first", [True, False])
def test_the_monitor_takes_over_in_either_order(tmp_path, first, capsys):
    callbacks = [SparsityMonitor(every_n_epochs=2), PruneAtInit("erk", 0.1)]
    logger = CSVLogger(tmp_path)
    runner = trainer(
        tmp_path, *callbacks[:: 1 if first else -1], logger=logger, log_every_n_steps=1, max_epochs=4
    )
    runner.fit(make_toy(), loader())
    assert [int(row["step"]) for row in logged(logger, "sparsity/total")] == [
        3,
        7,
        15,
    ]  # from the start, then every other epoch
    assert float(logged(logger, "sparsity/total")[0]["sparsity/total"]) == pytest.approx(1 - 102 / 1016)
    printed = capsys.readouterr().out
    assert printed.count("Weights kept") == 1
    assert "102" in printed


def test_alone_it_counts_zeros(tmp_path, capsys):
    toy = make_toy(optimizer=lambda p: torch.optim.SGD(p, 0.0))
    toy.net[6].weight.data[:2] = 0
    runner = trainer(tmp_path, SparsityMonitor())
    runner.fit(toy, loader())
    assert float(runner.callback_metrics["sparsity_layers/net.6"]) == 0.5
    assert float(runner.callback_metrics["sparsity_layers/net.0"]) == 0.0
    assert "616" in capsys.readouterr().out


def test_masks_of_an_earlier_fit_do_not_count(tmp_path):
    toy = make_toy()
    trainer(tmp_path, PruneAtInit("erk", 0.1)).fit(toy, loader())
    runner = trainer(tmp_path, SparsityMonitor())
    runner.fit(toy, loader())
    zeros = int((toy.net[6].weight == 0).sum())
    assert zeros < 400  # trained densely, and said so
    assert float(runner.callback_metrics["sparsity_layers/net.6"]) == pytest.approx(zeros / 800)


def test_tensorboard_has_scalars_and_histograms(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    callbacks = [PruneAtInit("erk", 0.1), SparsityMonitor(log_histograms=True)]
    trainer(tmp_path, *callbacks, logger=logger).fit(make_toy(), loader())
    events = EventAccumulator(logger.log_dir).Reload()
    assert set(events.Tags()["scalars"]) >= KEYS
    assert set(events.Tags()["histograms"]) == {"weights/net.0", "weights/net.6"}
    # kept weights only: the zeros of the others would hide them
    assert (
        sum(h.num for h in (events.Histograms(f"weights/net.{i}")[-1].histogram_value for i in (0, 6))) == 102
    )


class Recurrent(Toy):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.LSTM(64, 4, batch_first=True))

    def training_step(self, batch, *_):
        return self.net(batch[0])[0].square().mean()


def test_a_net_without_layers_to_watch_trains_on_with_a_warning(tmp_path, capsys):
    with pytest.warns(UserWarning, match="SparsityMonitor found no linear or convolutional weights"):
        trainer(tmp_path, SparsityMonitor()).fit(Recurrent(), loader())
    assert "Weights kept" not in capsys.readouterr().out


def test_frozen_layers_are_watched_without_a_word(tmp_path, recwarn):
    toy = make_toy()
    toy.net[0].requires_grad_(False)
    runner = trainer(tmp_path, SparsityMonitor())
    runner.fit(toy, loader())
    assert "sparsity_layers/net.0" in runner.callback_metrics
    assert not [w for w in recwarn if "rozen" in str(w.message)]


def test_the_table_says_what_is_large_and_dense(tmp_path, capsys):
    toy = make_toy()
    toy.rnn = torch.nn.LSTM(3, 4)
    trainer(tmp_path, PruneAtInit("erk", 0.1), enable_model_summary=True).fit(toy, loader())
    assert (
        "Dense and not counted: 112 of 1,128 weights (9.9%): rnn.weight_hh_l0 (64), rnn.weight_ih_l0 (48)."
        in capsys.readouterr().out
    )


def test_pickles_without_the_module(tmp_path):
    monitor = SparsityMonitor()
    size = len(pickle.dumps(monitor))
    trainer(tmp_path, monitor).fit(make_toy(), loader())
    assert len(pickle.dumps(monitor)) < size + 100


@pytest.mark.parametrize(("summary", "count"), [(True, 1), (False, 0)])
def test_the_table_follows_the_model_summary(tmp_path, capsys, summary, count):
    trainer(tmp_path, PruneAtInit("erk", 0.1), enable_model_summary=summary).fit(make_toy(), loader())
    assert capsys.readouterr().out.count("Weights kept") == count


def test_wrong_interval():
    with pytest.raises(ValueError, match="`every_n_epochs` must be an integer of at least 1, got 0"):
        SparsityMonitor(every_n_epochs=0)


# Series of layers.


def steps(logger, column):
    return [int(row["step"]) for row in logged(logger, column)]


def fitted(tmp_path, *callbacks, epochs=4, runner=None, **arguments):
    logger = CSVLogger(tmp_path)
    runner = trainer(tmp_path, *callbacks, logger=logger, log_every_n_steps=1, max_epochs=epochs, **arguments)
    runner.fit(make_toy(), loader())
    return logger


@pytest.mark.parametrize("monitor", [[], [SparsityMonitor()]], ids=["alone", "monitored"])
def test_layers_are_logged_as_long_as_they_change(tmp_path, monitor):
    """From the start, so that no line in a chart slopes where nothing has changed; totals always."""
    every = [3, 7, 11, 15]
    for callback in (
        ASNISigmoidPruner(0.1, search_epochs=2),
        IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=2),
        GradualMagnitudePruning(0.1, every_n_steps=3),
        Rotating(0.1),
    ):
        logger = fitted(tmp_path / type(callback).__name__, callback, *monitor)
        assert steps(logger, "sparsity/total") == every
        assert steps(logger, "sparsity_layers/net.0") == every
    for callback in (PruneAtInit("erk", 0.1), RigLCallback(0.1, every_n_steps=3), DCTpSConversion(0.1)):
        logger = fitted(tmp_path / type(callback).__name__, callback, *monitor)
        kind = "trainable_sparsity" if callback.role == "converts" else "sparsity"
        assert steps(logger, f"{kind}/total") == every
        assert steps(logger, f"{kind}_layers/net.0") == [3]


class Rotating(Rotate):
    """Moves weights from one layer to the other, and tells nobody that it does."""

    def new_masks(self, module, optimizer):
        masks = super().new_masks(module, optimizer)
        if masks and self.calls % 4:
            first, last = (masks[name].flatten() for name in ("net.0.weight", "net.6.weight"))
            first[first.nonzero()[0]], last[(~last).nonzero()[0]] = False, True
        return masks


def test_whoever_prunes_beside_the_monitor_is_seen_in_every_epoch(tmp_path):
    logger = fitted(tmp_path, SparsityMonitor(every_n_epochs=2))
    assert steps(logger, "sparsity_layers/net.0") == steps(logger, "sparsity/total") == [3, 7, 15]


@pytest.mark.parametrize(
    ("callback", "totals"),
    [
        (RigLCallback(0.1, every_n_steps=3), {"churn", "drop_fraction", "explored", "moved", "survived"}),
        (ASNISigmoidPruner(0.1, search_epochs=2), {"sparsity", "target_sparsity"}),
        (PruneAtInit("erk", 0.1), set()),
    ],
)
def test_one_switch_leaves_the_totals(tmp_path, callback, totals):
    arguments = {"log_every_n_steps": 1}
    runner = trainer(tmp_path, callback, SparsityMonitor(per_layer=False), max_epochs=3, **arguments)
    runner.fit(make_toy(), loader())
    kind = {"RigLCallback": "rigl", "ASNISigmoidPruner": "asni"}.get(type(callback).__name__, "")
    expected = {"loss", "sparsity/total", *(f"{kind}/{name}" for name in totals)}
    assert set(runner.callback_metrics) == expected


def test_totals_are_alone_in_their_groups(tmp_path):
    """TensorBoard groups by what stands before the first slash, and sorts the groups."""
    runner = trainer(tmp_path, RigLCallback(0.1, every_n_steps=3))
    runner.fit(make_toy(), loader())
    groups = {}
    for name in sorted(set(runner.callback_metrics) - {"loss"}):
        groups.setdefault(name.partition("/")[0], []).append(name)
    assert list(groups) == ["rigl", "rigl_layers", "sparsity", "sparsity_layers"]
    assert groups["sparsity"] == ["sparsity/total"]
    assert len(groups["rigl"]) == 5
    assert all("net." in name for group in ("rigl_layers", "sparsity_layers") for name in groups[group])
    assert not any("net." in name for group in ("rigl", "sparsity") for name in groups[group])


def test_checkpoints_are_chosen_by_the_total_in_every_epoch(tmp_path):
    saves = ModelCheckpoint(tmp_path, "{epoch}", monitor="sparsity/total", save_top_k=-1)
    fitted(tmp_path, PruneAtInit("erk", 0.1), saves, enable_checkpointing=True)
    assert len(list(tmp_path.glob("epoch=*.ckpt"))) == 4


def test_the_switch_must_be_one():
    with pytest.raises(ValueError, match="`per_layer` must be True or False, got 1"):
        SparsityMonitor(per_layer=1)
