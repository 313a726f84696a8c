"""Plots of any run: their tables hold what was logged and kept; figures are drawn whatever it is."""

import csv

import pytest
import torch
from asni_toy import MASKS, RETRAINED, fixed_state, log, save

from lightning_sparse.checks import SparsityError
from lightning_sparse.reporting.curve_pages import AccuracyPage, ChurnPage, DensityPage, LayersPage


def rows(path):
    with path.open() as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


@pytest.fixture
def run(tmp_path):
    values = {
        "sparsity/total": lambda e: 0.5 + 0.1 * e,
        "sparsity/net.a": lambda e: 0.25,
        "rigl/churn": lambda e: 0.5 - 0.1 * e,
        "rigl/churn/net.a": lambda e: 0.125,
        "train/acc": lambda e: 0.75,
        "odd name": lambda e: float(e),
    }
    log(tmp_path / "run", 2, values)
    save(tmp_path / "run", 1, RETRAINED, fixed_state())
    return tmp_path / "run"


@pytest.fixture
def other(tmp_path):
    log(tmp_path / "other" / "version_0", 3, {"sparsity/total": lambda e: 0.9}, start=0.1)
    save(tmp_path / "other" / "version_0", 2, RETRAINED, fixed_state())
    return tmp_path / "other"


def test_density(run, other, tmp_path):
    assert DensityPage().write([run], None) == [f"wrote {run}/plots/density.{e}" for e in ("png", "csv")]
    total = [("run", "total", "0", "0.5"), ("run", "total", "1", "0.4")]
    expected = [*(("run", "net.a", epoch, "0.75") for epoch in "01"), *total]
    assert rows(run / "plots" / "density.csv") == expected
    DensityPage().write([run, other], tmp_path / "both")
    more = [("other", "total", epoch, "0.1") for epoch in "012"]
    assert rows(tmp_path / "both" / "density.csv") == [*expected, *more]


def test_accuracy_and_any_other_metric(run):
    AccuracyPage().write([run], None)
    assert rows(run / "plots" / "accuracy.csv") == [
        *(("run, train", "total", e, "0.75") for e in "01"),
        *(("run, val", "total", e, a) for e, a in (("0", "0.5"), ("1", "0.6"))),
    ]
    assert AccuracyPage("odd name").write([run], None)[0] == f"wrote {run}/plots/odd_name.png"
    (said,) = AccuracyPage("loss").write([run], None)
    assert said == "left out loss.png: no run has logged 'loss'; choose by --metric from accuracy."


def test_layers(run, other, tmp_path):
    LayersPage().write([run, other], tmp_path / "out")
    kept = [(name.removesuffix(".weight"), str(m.numel()), str(int(m.sum()))) for name, m in MASKS.items()]
    expected = [(one, *layer, "0.5") for one in ("run", "other") for layer in kept]
    assert rows(tmp_path / "out" / "layers.csv") == expected


def test_layers_that_keep_nothing_are_drawn(tmp_path):
    masks = {"a.weight": torch.zeros(2, 2, dtype=torch.bool), "b.weight": torch.ones(2, 2, dtype=torch.bool)}
    save(tmp_path / "run", 0, {name: m.float() for name, m in masks.items()}, fixed_state(masks))
    LayersPage().write([tmp_path / "run"], None)
    assert [row[3] for row in rows(tmp_path / "run" / "plots" / "layers.csv")] == ["0", "4"]


def test_churn(run):
    printed = ChurnPage().write([run], None)
    others = ("survived", "explored")
    assert printed[2:] == [f"left out {kind}.png: no run has logged {kind!r}." for kind in others]
    assert rows(run / "plots" / "churn.csv") == [
        *(("run", "net.a", e, "0.125") for e in "01"),
        *(("run", "total", e, c) for e, c in (("0", "0.5"), ("1", "0.4"))),
    ]


def test_runs_without_any_of_it(tmp_path):
    save(tmp_path / "run", 0, {}, {"ModelCheckpoint": {}})
    for page, name in ((DensityPage(), "density"), (AccuracyPage(), "accuracy")):
        (said,) = page.write([tmp_path / "run"], None)
        assert said.startswith(f"left out {name}.png: no run has logged")
    (said,) = LayersPage().write([tmp_path / "run"], None)
    assert said == "left out run in layers.png: it has no checkpoint with masks or positions."
    assert not (tmp_path / "run" / "plots").exists()
    with pytest.raises(SparsityError, match="nothing there"):
        DensityPage().write([tmp_path / "nowhere"], None)


def test_very_many_layers_have_a_short_legend(tmp_path):
    values = {f"sparsity/net.{i}": lambda _, i=i: i / 60 for i in range(60)}
    log(tmp_path / "run", 2, values)
    DensityPage().write([tmp_path / "run"], None)
    assert (tmp_path / "run" / "plots" / "density.png").stat().st_size > 10_000
