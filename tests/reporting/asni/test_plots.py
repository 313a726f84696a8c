import csv
import sys
from functools import partial
from itertools import pairwise

import asni_toy
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from asni_toy import MASKS, SEARCHED, E, asni_state, fixed_state, log, save
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_sparse.callbacks import ASNISigmoidPruner
from lightning_sparse.data import SyntheticDataModule
from lightning_sparse.models import ImageClassifier, LeNet300100
from lightning_sparse.reporting.asni import plots as asni_plots
from lightning_sparse.reporting.asni.nets import layers_of
from lightning_sparse.reporting.asni.report import report_asni
from lightning_sparse.reporting.asni.runs import parts_of
from lightning_sparse.reporting.layers import LayerCount
from lightning_sparse.reporting.runs import read_run

FILES = {
    "accuracy.png",
    "layer_histograms.png",
    "layer_sparsity.png",
    "layers.csv",
    "net_histograms.png",
    "schedule.png",
}


# Figures, by what is in them.


def lines(axes):
    return [(line.get_label()[0], list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_accuracy_has_a_line_per_run_and_a_panel_without_the_search():
    curves = [("A", {0: 0.5, 1: 0.1}), ("D", {0: 0.7, 1: 0.8}), ("A", {0: 0.4})]
    figure = asni_plots.accuracy(curves, "val/acc")
    both, without = figure.axes
    assert lines(both) == [("D", [0, 1], [0.7, 0.8]), ("A", [0, 1], [0.5, 0.1]), ("A", [0], [0.4])]
    assert lines(without) == [("D", [0, 1], [0.7, 0.8])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["D: dense", "A: search"]
    assert both.get_ylabel() == "val/acc"
    assert len(asni_plots.accuracy(curves[:1], "val/acc").axes) == 1


def test_schedule_is_in_percent():
    (axes,) = asni_plots.schedule({0: 0.25, 1: 0.5}, {0: 0.125}).axes
    assert lines(axes) == [("t", [0, 1], [25, 50]), ("a", [0], [12.5])]
    assert "%" in axes.get_ylabel()
    assert len(asni_plots.schedule({}, {0: 0.125}).axes[0].lines) == 1


def test_centroids_are_bars_at_the_signed_means():
    (figure,) = asni_plots.layer_histograms({"net.a": np.array([1.0, 2.0, -4.0])})
    plus, minus = (c for c in figure.axes[0].containers)
    assert [bars[0].get_center()[0] for bars in (plus, minus)] == [1.5, -4]
    assert [plus.get_label(), minus.get_label()] == ["$c_+$", "$c_-$"]


def test_a_layer_of_one_weight_and_one_of_none():
    (figure,) = asni_plots.layer_histograms({"a": np.array([2.0]), "b": np.array([])})
    plus, minus = figure.axes[0].containers
    assert (plus[0].get_center()[0], minus[0].get_center()[0]) == (2, 0)
    assert all(axes.get_title() in ("a (1)", "b (0)") for axes in figure.axes)


def test_many_layers_go_on_pages():
    rng = np.random.default_rng(0)
    net = {f"net.layer{i}.conv": rng.normal(size=50) for i in range(54)}
    pages = asni_plots.layer_histograms(net)
    assert [len([axes for axes in page.axes if axes.axison]) for page in pages] == [24, 24, 6]
    titles = [axes.get_title() for page in pages for axes in page.axes if axes.axison]
    assert titles == [f"layer{i}.conv (50)" for i in range(54)]
    assert "layers 49 to 54" in pages[-1].get_suptitle()


@pytest.mark.parametrize("layers", [3, 12, 54])
def test_no_two_texts_overlap(layers):
    rng = np.random.default_rng(0)
    names = [f"net.layer{i}.0.downsample" for i in range(layers)]
    counts = [LayerCount(name, (10, 10), 100, 5 + i) for i, name in enumerate(names)]
    figures = asni_plots.layer_histograms({name: rng.normal(size=1000) for name in names})
    sparsity = asni_plots.layer_sparsity(counts)
    for figure in (*figures, sparsity):
        figure.canvas.draw()
        shown = [axes for axes in figure.axes if axes.axison]
        texts = [axes.title.get_window_extent() for axes in shown] + [axes.bbox for axes in shown]
        assert not any(a.overlaps(b) for i, a in enumerate(texts) for b in texts[i + 1 :])
    ticks = [
        tick.get_window_extent() for tick in sparsity.axes[0].get_xticklabels() if tick.get_rotation() == 0
    ]
    assert not any(a.overlaps(b) for a, b in pairwise(ticks))


@pytest.mark.parametrize("layers", [2, 54])
def test_sparsity_per_layer_and_of_all(layers):
    counts = [LayerCount(f"net.{i}", (10, 10), 100, 10) for i in range(layers - 1)]
    figure = asni_plots.layer_sparsity([*counts, LayerCount("net.fc", (100, 1), 100, 60)])
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([90] * (layers - 1) + [40])
    total = 100 * (1 - (10 * (layers - 1) + 60) / (100 * layers))
    assert axes.lines[0].get_ydata()[0] == pytest.approx(total)
    assert f"{total:.2f}%" in axes.get_title()
    named = [label.get_text() for label in axes.get_xticklabels()]
    assert ("net.fc" in named) == (layers == 2)


def test_nets_share_bins_and_one_peak_does_not_hide_the_rest():
    rng = np.random.default_rng(0)
    d, c = rng.normal(size=10_000), np.concatenate([np.full(9_000, 0.5), rng.normal(size=1_000)])
    figure = asni_plots.net_histograms({"D": {"a": d[:5000], "b": d[5000:]}, "C": {"a": c}})
    dense, sparse = figure.axes
    assert dense.get_xlim() == sparse.get_xlim()
    assert "10,000 weights" in dense.get_title(loc="left")
    assert "cut off" not in dense.get_title(loc="left")
    assert "highest bin, cut off: 90" in sparse.get_title(loc="left")
    assert sparse.get_ylim()[1] < 10


# Whole reports.


@pytest.fixture
def runs(tmp_path):
    return [
        asni_toy.search_and_retrain(tmp_path / "ac", TensorBoardLogger),
        asni_toy.dense(tmp_path / "d", CSVLogger),
        asni_toy.from_ticket(tmp_path / "s", TensorBoardLogger),
    ]


def table(folder):
    with (folder / "layers.csv").open() as file:
        return list(csv.DictReader(file))


def test_everything_of_three_runs(runs, tmp_path):
    said = report_asni(runs, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert not [line for line in said if line.startswith("left out")]
    assert {line.rpartition("/")[2] for line in said if line.startswith("wrote")} == FILES
    assert all(path.stat().st_size > 5_000 for path in (tmp_path / "out").glob("*.png"))


def test_order_of_runs_does_not_matter(runs, tmp_path):
    report_asni(runs, tmp_path / "out")
    said = report_asni(runs[::-1])
    assert not [line for line in said if line.startswith("left out")]
    assert table(runs[2] / "plots") == table(tmp_path / "out")  # S is the first that is not dense


def test_the_table_by_hand(runs):
    report_asni(runs[:1])
    assert table(runs[0] / "plots") == [
        dict(zip(("layer", "weights", "non-zeros", "sparsity %", "c_plus", "c_minus"), row, strict=True))
        for row in (
            ("net.a", "6", "3", "50.0000", "1.5", "-4"),
            ("net.b", "4", "2", "50.0000", "0.375", "0"),
        )
    ]


def test_centroids_are_the_retrained_nets_where_the_searched_one_is_gone(tmp_path):
    log(tmp_path / "ac", 2 * E)
    save(tmp_path / "ac", 2 * E - 1, asni_toy.RETRAINED, asni_state(2 * E, restarted=True))
    said = "\n".join(report_asni([tmp_path / "ac"]))
    assert [row["c_plus"] for row in table(tmp_path / "ac" / "plots")] == ["1.5", "0.375"]
    assert "left out layer_histograms.png" in said
    assert "has no checkpoint of A; ModelCheckpoint(every_n_epochs" in said
    assert "left out schedule.png: no run has logged `asni/sparsity`" in said


def test_what_is_missing_is_said(runs):
    said = "\n".join(report_asni(runs[:1]))
    assert "left out D in accuracy.png: no run without a sparsity callback is given." in said
    assert "left out S in accuracy.png: no run with PruneAtInit is given." in said
    assert "left out D in net_histograms.png: no run without a sparsity callback is given." in said
    assert said.count("left out") == 3
    said = "\n".join(report_asni(runs[:1], metric="val_acc"))
    assert "has logged no 'val_acc' in epochs of A; choose by --metric from val/acc." in said
    assert "wrote" in said
    assert "accuracy.png" not in [line.rpartition("/")[2] for line in said.splitlines() if "wrote" in line]


def test_a_fixed_mask_alone_has_a_table_without_centroids(runs):
    said = "\n".join(report_asni(runs[2:]))
    assert [row["c_plus"] for row in table(runs[2] / "plots")] == ["", ""]
    assert "left out C in net_histograms.png: no run with ASNISigmoidPruner is given." in said


def test_a_search_that_is_not_over_is_shown_as_it_stands(tmp_path):
    log(tmp_path / "ac", 2, asni_toy.SCHEDULE)
    save(tmp_path / "ac", 1, SEARCHED, asni_state(2, restarted=False))
    said = "\n".join(report_asni([tmp_path / "ac"]))
    assert "epoch=1.ckpt, in which the search is not over" in said
    assert [row["c_plus"] for row in table(tmp_path / "ac" / "plots")] == ["1.5", "0.375"]


def test_layers_are_those_of_the_sparsest_net_that_there_is(tmp_path):
    all_kept = {name: torch.ones_like(mask) for name, mask in MASKS.items()}
    save(tmp_path / "ac", 0, SEARCHED, asni_state(1, False, masks=all_kept))
    assert kept(parts_of(read_run(tmp_path / "ac"))) == [6, 4]
    fixed = parts_of(read_run(asni_toy.from_ticket(tmp_path / "s")))
    assert kept([*fixed, *parts_of(read_run(tmp_path / "ac"))]) == [6, 4]
    save(tmp_path / "ac", 2 * E - 1, SEARCHED, asni_state(2 * E, True))
    assert kept(parts_of(read_run(tmp_path / "ac"))) == [3, 2]
    assert kept(fixed) == [3, 2]


def kept(parts):
    return [layer.count.kept for layer in layers_of(parts)]


def test_nets_that_cannot_be_compared_are_left_out(runs, tmp_path):
    save(runs[1], E, {**asni_toy.DENSE, "net.a.weight": torch.ones(2, 6)}, {})
    save(tmp_path / "zero", E, {name: 0 * weight for name, weight in SEARCHED.items()}, asni_state(E, False))
    save(runs[0], 2 * E, {**SEARCHED, "net.b.weight": torch.full((2, 2), torch.nan)}, asni_state(7, True))
    said = "\n".join(report_asni(runs))
    assert "is of another net: no 'net.a.weight' of shape (1, 6)" in said
    assert "'net.b.weight' is not finite in" in said
    assert (runs[0] / "plots" / "net_histograms.png").is_file()
    assert "all weights are zero in" in "\n".join(report_asni([tmp_path / "zero"]))


def test_other_methods_runs_are_left_out(runs, tmp_path):
    save(tmp_path / "rigl", 0, SEARCHED, {**fixed_state(), "RigLCallback": {"masks": {}}})
    said = "\n".join(report_asni([*runs, tmp_path / "rigl"]))
    assert "none of D, A, C, S (its callbacks: PruneAtInit, RigLCallback)" in said


def test_a_checkpoint_that_cannot_be_read_is_left_out(runs):
    (runs[0] / "checkpoints" / "cut.ckpt").write_bytes(b"cut short")
    said = report_asni(runs)
    assert [line for line in said if "left out a checkpoint" in line and "cut.ckpt" in line]


def test_dense_runs_alone_are_an_error(runs, tmp_path):
    with pytest.raises(
        ValueError, match="`RUN` must name a run with ASNISigmoidPruner or PruneAtInit, got none"
    ):
        report_asni([runs[1]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plots_need_matplotlib(runs, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="`matplotlib` must be installed for plots: pip install"):
        report_asni(runs)


# A run of the callback itself.


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_a_real_run(tmp_path, logger):
    pl.seed_everything(0)
    net = LeNet300100(in_features=12)
    module = ImageClassifier(net, num_classes=3, optimizer=partial(torch.optim.SGD, lr=0.1))
    data = SyntheticDataModule(shape=(1, 3, 4), num_classes=3, batch_size=16)
    trainer = pl.Trainer(
        max_epochs=4,
        logger=logger(tmp_path, name="run"),
        callbacks=[
            ASNISigmoidPruner(density=0.2),
            pl.callbacks.ModelCheckpoint(every_n_epochs=2, save_top_k=-1),
        ],
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    a, c = parts_of(read_run(tmp_path / "run"))
    assert a.finished
    assert list(a.curves["val/acc"]) == list(c.curves["val/acc"]) == [0, 1]
    weights = sum(weight.numel() for name, weight in module.named_parameters() if "weight" in name)
    kept = int(0.2 * weights + 0.5)
    assert a.curves["asni/sparsity"] == pytest.approx({0: 1 - kept / weights, 1: 1 - kept / weights})
    assert sum(layer.count.kept for layer in layers_of([a])) == kept
    for searched, stored in zip(layers_of([a]), layers_of([c]), strict=True):  # from weights, from the state
        assert searched.centroids == pytest.approx(stored.centroids)
    report_asni([tmp_path / "run"], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
