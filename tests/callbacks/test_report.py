"""The report that a fit leaves: when it is written, where, and that nothing else changes by it."""

import json
import os
import pickle
from pathlib import Path

import forked
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader
from toy import Toy, adamw, assert_equal, loader, logged, make_toy, trainer, weights_of

from lightning_sparse import (
    FORCE,
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    PruneAtInit,
    RigLCallback,
    SparsityMonitor,
    SparsityReport,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.randomness import rng_state, same_rng_state
from lightning_sparse.weights.found import sparse_weights

pytestmark = pytest.mark.filterwarnings("ignore:.* and `max_epochs` is [12]:UserWarning")


def quick(**arguments):
    return SparsityReport(latency=False, **arguments)


def read(folder):
    return json.loads((folder / "report.json").read_text())


def drawn(report, key):
    charts = [*report["metrics"], report["density"], *report["movements"]]
    (chart,) = (chart for chart in charts if chart and chart["key"] == key)
    return {line["label"]: line["points"] for line in chart["lines"]}


class Validated(Toy):
    def validation_step(self, batch, *_):
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
        self.log("val_epoch", float(self.current_epoch))


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_it_lies_in_the_folder_of_the_logger(tmp_path, logger, capsys):
    logs = logger(tmp_path / "a b", name="c.d", version=3)
    trainer(tmp_path, quick(), PruneAtInit("erk", 0.1), logger=logs).fit(make_toy(), loader())
    folder = tmp_path / "a b" / "c.d" / "version_3"
    assert (folder / "report.html").is_file()
    assert read(folder)["title"] == "c.d/version_3"
    assert f"Sparsity report: {folder / 'report.html'}" in capsys.readouterr().out


def test_without_a_logger_it_lies_in_the_root_folder_which_need_not_be_there(tmp_path):
    trainer(tmp_path / "not" / "there", quick()).fit(make_toy(), loader())
    assert {path.name for path in (tmp_path / "not" / "there").iterdir()} == {"report.html", "report.json"}


def test_a_path_of_ones_own(tmp_path):
    trainer(tmp_path, quick(path=str(tmp_path / "here" / "page.html"))).fit(make_toy(), loader())
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"page.html", "page.json"}
    with pytest.raises(SparsityError, match="`path` must be a file that can be written"):
        SparsityReport(path="https://example.org/page.html")
    with pytest.raises(SparsityError, match="`latency` must be True or False"):
        SparsityReport(latency="no")


def test_a_trial_leaves_no_files(tmp_path):
    trainer(tmp_path, quick(), fast_dev_run=True).fit(make_toy(), loader())
    assert not list(tmp_path.rglob("report.*"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_nothing_is_written(tmp_path, error):
    class Failing(Toy):
        def on_train_epoch_end(self):
            if self.current_epoch == 1:
                raise error("on purpose")

    runner = trainer(tmp_path, quick())
    with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
        runner.fit(Failing(), loader())
    assert not list(tmp_path.rglob("report.*"))


def test_only_fit_writes(tmp_path):
    runner = trainer(tmp_path, quick())
    runner.validate(make_toy(), loader(), verbose=False)
    runner.test(make_toy(), loader(), verbose=False)
    assert not list(tmp_path.rglob("report.*"))


NEIGHBOURS = {
    "scores": lambda: [PruneAtInit(FORCE(3, 2), 0.1)],
    "compact": lambda: [
        RigLCallback(every_n_steps=3, stop_at=100, seed=0),
        PruneAtInit("magnitude", 0.1, storage="compact"),
    ],
    "ASNI": lambda: [ASNISigmoidPruner(density=0.1, search_epochs=2)],
}


@pytest.mark.parametrize("row", NEIGHBOURS)
def test_nothing_else_changes(tmp_path, row):
    """Weights, optimizer, random numbers, mode, hooks and buffers are those of a fit without it."""
    ends = []
    for report in ([], [SparsityReport(), SparsityMonitor()]):
        toy = make_toy(optimizer=adamw, dropout=0.5)
        runner = trainer(tmp_path, *report, *NEIGHBOURS[row](), max_epochs=3)
        torch.manual_seed(7)
        runner.fit(toy, loader(shuffle=True), loader())
        hooks = [len(vars(m)[name]) for m in toy.modules() for name in vars(m) if "hooks" in name]
        modes = [m.training for m in toy.modules()]
        ends.append((weights_of(toy), rng_state(), hooks, modes, torch.get_num_threads()))
    (weights, random, *rest), (others, other_random, *other_rest) = ends
    assert_equal(weights, others)
    assert same_rng_state(random, other_random)
    assert rest == other_rest
    assert len(read(tmp_path)["layers"]) == 2


def test_metrics_of_a_validation_now_and_then_are_drawn_where_they_were_made(tmp_path):
    runner = trainer(tmp_path, quick(), max_epochs=5, check_val_every_n_epoch=2)
    runner.fit(Validated(), loader(), loader())
    assert set(drawn(read(tmp_path), "loss")["validation"]) == {"1", "3"}


@pytest.mark.parametrize("place", [0, 1])
def test_what_callbacks_log_after_it_belongs_to_the_same_epoch(tmp_path, place):
    callbacks = [RigLCallback(0.1, every_n_steps=2, seed=0)]
    callbacks.insert(place, quick())
    logs = CSVLogger(tmp_path, name="", version="")
    trainer(tmp_path, *callbacks, max_epochs=3, logger=logs).fit(Validated(), loader(), loader())
    report = read(tmp_path)
    rows = logged(logs, "rigl/churn")
    expected = {row["epoch"]: float(row["rigl/churn"]) for row in rows}
    assert drawn(report, "churn")["all layers"] == pytest.approx(expected)
    assert len(expected) == 3


def test_a_resumed_fit_has_the_whole_of_it(tmp_path):
    def run(folder, epochs, path=None):
        save = ModelCheckpoint(folder / "saved", save_last=True)
        moves = RigLCallback(0.1, every_n_steps=2, stop_at=100, seed=0)
        callbacks = [quick(), ExactResume(), moves, save]
        runner = trainer(folder, *callbacks, max_epochs=epochs, enable_checkpointing=True)
        torch.manual_seed(0)
        runner.fit(Validated(), loader(), loader(), ckpt_path=path)
        return read(folder)

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "first", 2)
    resumed = run(tmp_path / "second", 4, tmp_path / "first" / "saved" / "last.ckpt")
    for key in ("loss", "density", "churn", "survived", "explored"):
        assert drawn(resumed, key) == drawn(whole, key), key


def test_a_second_fit_starts_anew_and_one_that_goes_on_does_not(tmp_path):
    report, toy = quick(), make_toy()
    runner = trainer(tmp_path, report, max_epochs=2)
    runner.fit(toy, loader())
    runner.fit_loop.max_epochs = 3
    runner.fit(toy, loader())
    assert set(drawn(read(tmp_path), "loss")["training"]) == {"0", "1", "2"}
    trainer(tmp_path, report, max_epochs=1).fit(make_toy(), loader())
    assert set(drawn(read(tmp_path), "loss")["training"]) == {"0"}


def test_layers_on_a_dense_part(tmp_path):
    toy = make_toy()
    trainer(tmp_path, quick(), DCTpSConversion(0.1)).fit(toy, loader())
    report = read(tmp_path)
    assert [layer["kept"] for layer in report["layers"]] == [toy.net[0].nnz, toy.net[6].nnz]
    forward = next(cost for cost in report["costs"] if cost["what"] == "FLOPs, forward")
    weights = sparse_weights(toy)
    conv, linear = (weights[f"net.{i}.weight"].nnz + weights[f"net.{i}.weight"].offset_work for i in (0, 6))
    assert forward["sparse"] == pytest.approx(2 * (36 * conv + linear))


def test_nets_that_cannot_be_run_on_one_input_say_so(tmp_path):
    class Pair(Toy):
        def training_step(self, batch, *_):
            return super().training_step((batch["x"], batch["y"]))

    data = DataLoader([{"x": x, "y": y} for x, y in loader()], batch_size=None)
    trainer(tmp_path, SparsityReport(), PruneAtInit("erk", 0.1)).fit(Pair(), data)
    left_out = {one["what"]: one["why"] for one in read(tmp_path)["left_out"]}
    assert left_out["FLOPs"] == left_out["latency"] == "the batches do not begin with a tensor."

    class Odd(Toy):
        def forward(self, x, y):
            return self.net(x) + y

    trainer(tmp_path, SparsityReport(), PruneAtInit("erk", 0.1)).fit(Odd(), loader())
    left_out = {one["what"]: one["why"] for one in read(tmp_path)["left_out"]}
    assert "missing 1 required positional argument" in left_out["FLOPs"]
    assert "missing 1 required positional argument" in left_out["latency"]


def test_what_is_dead_is_left_out_of_the_exported_net(tmp_path):
    toy = make_toy()
    with torch.no_grad():
        toy.net[0].weight[0] = 0.0  # a filter that nothing leads to
    trainer(tmp_path, SparsityReport(), PruneAtInit("magnitude", 0.1)).fit(toy, loader())
    names = [one["name"] for one in read(tmp_path)["latency"]]
    assert names == ["as it was trained", "exported as dense-small", "dense twin"]


def test_an_example_of_the_modules_own_comes_first(tmp_path):
    toy = make_toy()
    toy.example_input_array = torch.zeros(3, 3, 8, 8)
    trainer(tmp_path, quick(), PruneAtInit("erk", 0.1)).fit(toy, loader())
    notes = [cost["note"] for cost in read(tmp_path)["costs"]]
    assert any("input 3 x 3 x 8 x 8" in note for note in notes)


def test_what_goes_wrong_at_the_end_is_a_warning(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("lightning_sparse.callbacks.report.write_report", fails)
    with pytest.warns(UserWarning, match="SparsityReport has written nothing: OSError: the disk is full"):
        trainer(tmp_path, quick()).fit(make_toy(), loader())


def test_a_state_of_something_else_is_refused():
    with pytest.raises(SparsityError, match="state of SparsityReport lacks 'curves'"):
        quick().load_state_dict({"masks": {}})


def test_pickles_without_the_module_and_its_metrics(tmp_path):
    report = quick()
    trainer(tmp_path, report, PruneAtInit("erk", 0.1)).fit(make_toy(), loader())
    assert len(pickle.dumps(report)) < 2000
    assert pickle.loads(pickle.dumps(report)).state_dict() == report.state_dict()


DDP = """
import sys
import pytorch_lightning as pl
sys.path.insert(0, {tests!r})
import torch
from toy import Toy, loader
from lightning_sparse import RigLCallback, SparsityReport

class Averaged(Toy):
    def training_step(self, batch, *_):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_epoch=True, sync_dist=True)
        return loss

pl.seed_everything(0)
trainer = pl.Trainer(
    callbacks=[SparsityReport(latency=False), RigLCallback(0.1, every_n_steps=1)], accelerator="cpu",
    devices=2, strategy="ddp", max_epochs=2, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, default_root_dir={root!r})
trainer.fit(Averaged(), loader())
trainer.strategy.barrier()
print("fitted", trainer.callback_metrics["train_loss_epoch"].item())
"""


def test_of_two_processes_one_writes_and_neither_waits(tmp_path):
    script, root = tmp_path / "script.py", tmp_path / "root"
    script.write_text(DDP.format(tests=str(Path(__file__).parents[1]), root=str(root)))
    said = forked.run(script, output=tmp_path / "output.txt", ranks=2)
    assert said.count("fitted") == 2
    assert said.count("Sparsity report:") == 1
    assert sorted(os.listdir(root)) == ["report.html", "report.json"]
    last = float(said.split("fitted ")[1].split()[0])
    assert drawn(read(root), "loss")["training"]["1"] == pytest.approx(last)
