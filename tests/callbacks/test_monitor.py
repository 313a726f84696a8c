import pickle

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import Toy, loader, logged, make_toy, trainer

from lightning_sparse import PruneAtInit, SparsityMonitor

KEYS = {"sparsity/net.0", "sparsity/net.6", "sparsity/total"}


def test_every_callback_logs_by_itself_once_per_epoch(tmp_path):
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, PruneAtInit("erk", 0.1), logger=logger, log_every_n_steps=1).fit(make_toy(), loader())
    assert [int(row["step"]) for row in logged(logger, "sparsity/total")] == [3, 7]
    for row in logged(logger, "sparsity/total"):
        assert float(row["sparsity/total"]) == pytest.approx(1 - 102 / 1016)
        assert row.keys() >= KEYS


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
    assert float(runner.callback_metrics["sparsity/net.6"]) == 0.5
    assert float(runner.callback_metrics["sparsity/net.0"]) == 0.0
    assert "616" in capsys.readouterr().out


def test_masks_of_an_earlier_fit_do_not_count(tmp_path):
    toy = make_toy()
    trainer(tmp_path, PruneAtInit("erk", 0.1)).fit(toy, loader())
    runner = trainer(tmp_path, SparsityMonitor())
    runner.fit(toy, loader())
    zeros = int((toy.net[6].weight == 0).sum())
    assert zeros < 400  # trained densely, and said so
    assert float(runner.callback_metrics["sparsity/net.6"]) == pytest.approx(zeros / 800)


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
    assert "sparsity/net.0" in runner.callback_metrics
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
