import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_sparse.checks import SparsityError
from lightning_sparse.experiments.folders import DONE, FAILED, WAITING, CellFolder, Result
from lightning_sparse.experiments.plots import MARKERS, draw, usual_x
from lightning_sparse.experiments.sweeps import read_sweep
from lightning_sparse.experiments.tables import Row, groups_of, render_groups, rows_of, write_tables

SWEEP = """\
recipe: a
grid:
  p.method: [erk, synflow]
  p.density: [0.1, 0.01]
  seed_everything: [0, 1, 2]
list: [{p.method: dense, seed_everything: 0}]
out: out
"""
# By method and density, of seeds 0 to 2; None: failed.
FOUND = {
    ("erk", 0.1): (0.5, 0.6, 0.7),
    ("erk", 0.01): (0.2, 0.3, 0.4),
    ("synflow", 0.1): (0.6, 0.8, 1.0),
    ("synflow", 0.01): (0.5, None, 0.5),
    ("dense", None): (0.9,),
}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(SWEEP)
    made = read_sweep("s.yaml")
    for cell in made.cells:
        value = FOUND[cell.settings["p.method"], cell.settings.get("p.density")][
            cell.settings["seed_everything"]
        ]
        good = Result(DONE, {"test/acc": value, "other": 1.0, "lost": math.nan}, 2.5)
        CellFolder(made.out / cell.name).write_result(good if value else Result(FAILED, error="a\nit broke"))
    return made


def groups(sweep):
    found = groups_of(sweep, rows_of(sweep), "test/acc")
    return {(g.settings["p.method"], g.settings.get("p.density")): g for g in found}


def test_means_and_paired_differences_worked_by_hand(sweep):
    found = groups(sweep)
    assert found["erk", 0.1].mean == pytest.approx(0.6)
    assert found["erk", 0.1].deviation == pytest.approx(0.1)
    assert found["erk", 0.1].difference is None
    paired = found["synflow", 0.1].difference  # of 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, t 4.302653
    assert (paired.mean, paired.number) == (pytest.approx(0.2), 3)
    assert paired.high - paired.mean == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)


def test_a_failed_seed_is_left_out_of_its_pair_alone(sweep):
    group = groups(sweep)["synflow", 0.01]
    assert (group.failed, group.cells, group.mean) == (1, 3, 0.5)
    assert (group.difference.number, group.difference.mean) == (2, pytest.approx(0.2))  # of 0.3 and 0.1


def test_what_has_no_counterpart_has_no_difference(sweep):
    group = groups(sweep)["dense", None]
    assert (group.mean, group.difference.number) == (0.9, 0)


def test_the_printed_table(sweep):
    lines = render_groups(sweep, list(groups(sweep).values()), "test/acc").splitlines()
    cells = [" ".join(line.split()) for line in lines]
    assert cells[0] == "method density test/acc deviation runs minus erk 95% interval pairs"
    assert "erk 0.1 0.6000 0.1000 3" in cells
    assert "synflow 0.01 0.5000 0.0000 2 (1 failed) +0.2000 -1.0706 to +1.4706 2" in cells
    assert "dense 0.9000 - 1 - - 0" in cells


def test_files_have_every_digit(sweep):
    written = write_tables(sweep, rows_of(sweep))
    assert {path.name for path in written} >= {"table.csv", "summary.csv", "sweep.json"}
    with Path("out/table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["method", "density", "seed", "test/acc", "status", "seconds", "folder"]
    assert len(rows) == 13
    assert rows[1] == {
        "method": "erk",
        "density": "0.1",
        "seed": "1",
        "test/acc": "0.6",
        "status": "done",
        "seconds": "2.5",
        "folder": "method=erk,density=0.1,seed=1",
    }
    with Path("out/summary.csv").open() as file:
        summary = list(csv.DictReader(file))
    assert float(summary[2]["difference"]) == groups(sweep)["synflow", 0.1].difference.mean
    assert summary[0]["difference"] == summary[0]["against"] == ""
    content = json.loads(Path("out/sweep.json").read_text(), parse_constant=pytest.fail)
    assert content["cells"][10]["error"] == "a\nit broke"
    assert content["cells"][0]["settings"]["p.density"] == 0.1
    assert content["cells"][0]["metrics"] == {"test/acc": 0.5, "other": 1.0, "lost": None}


def test_parquet_where_pyarrow_is(sweep):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_tables(sweep, rows_of(sweep))
    table = parquet.read_table("out/table.parquet").to_pydict()
    assert table["density"][:2] + table["density"][-1:] == [0.1, 0.1, None]
    assert table["test/acc"][0] == 0.5


def test_a_metric_that_is_not_a_number_is_a_gap(sweep):
    group = groups_of(sweep, rows_of(sweep), "lost")[0]
    assert (group.values, group.failed, group.difference) == ({}, 0, None)
    assert math.isnan(group.mean)
    write_tables(replace(sweep, metrics=("lost",)), rows_of(sweep))
    with Path("out/table.csv").open() as file:
        assert {row["lost"] for row in csv.DictReader(file)} == {""}


def test_cells_that_were_never_begun_are_rows_too(sweep):
    CellFolder(sweep.out / sweep.cells[0].name).clear()
    rows = rows_of(sweep)
    assert rows[0].status == WAITING
    assert groups(sweep)["erk", 0.1].values == {1: 0.6, 2: 0.7}


# The figure.


@pytest.fixture
def drawn(sweep, monkeypatch):
    """Draw, and return the axes."""
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(plt, "close", lambda figure: None)

    def draw_(rows=None, **options):
        said = draw(sweep, rows or rows_of(sweep), Path("out/a.png"), "test/acc", **options)
        axes = plt.gcf().axes[0]
        return said, axes

    yield draw_
    monkeypatch.undo()
    plt.close("all")


def test_accuracy_over_density_with_a_line_for_each_method(sweep, drawn):
    assert usual_x(sweep) == "p.density"
    said, axes = drawn()
    assert said == "wrote out/a.png"
    assert Path("out/a.png").stat().st_size > 10_000
    assert axes.get_xscale() == "log"
    handles, labels = axes.get_legend_handles_labels()
    by_name = dict(zip(labels, handles, strict=True))
    assert set(by_name) == {"erk", "synflow", "dense", "failed"}
    assert [text.get_text() for text in axes.get_legend().texts] == ["erk", "synflow", "dense", "failed"]
    assert axes.get_title() == "test/acc over density: mean and standard deviation over seed"
    line = by_name["erk"].lines[0]
    assert line.get_xdata().tolist() == [0.01, 0.1]
    assert line.get_ydata().tolist() == pytest.approx([0.3, 0.6])
    assert by_name["dense"].get_ydata() == [0.9, 0.9]
    crosses = [found for found in axes.lines if found.get_marker() == "x" and len(found.get_xdata())]
    assert [cross.get_xdata().tolist() for cross in crosses] == [[0.01]]
    bars = by_name["erk"].lines[2][0].get_segments()
    assert bars[1][:, 1].tolist() == pytest.approx([0.5, 0.7])  # a deviation of 0.1 either way


def test_other_columns(drawn):
    _, axes = drawn(x="seed", line="density")
    assert axes.get_xscale() == "linear"
    assert set(axes.get_legend_handles_labels()[1]) == {"0.1", "0.01", "others", "failed"}
    assert axes.get_title() == "test/acc over seed: mean and standard deviation over method"


def test_columns_that_are_not_there(drawn):
    with pytest.raises(SparsityError, match=r"`--x` must be one of method, density, seed, got 'desity'; did"):
        drawn(x="desity")
    with pytest.raises(SparsityError, match="`--line` must be one of"):
        drawn(line="nothing")
    with pytest.raises(SparsityError, match="`--x` must be a setting with numbers, got 'method', which has"):
        drawn(x="method")


def test_each_of_nine_lines_looks_different(sweep, drawn):
    cell = sweep.cells[0]
    methods = {f"m{number}": 0.1 * number for number in range(9)}
    rows = [
        Row(replace(cell, settings={**cell.settings, "p.method": m}), DONE, {"test/acc": v}, 1.0)
        for m, v in methods.items()
    ]
    _, axes = drawn(rows)
    looks = [(line.get_color(), line.get_marker()) for line in axes.lines if line.get_marker() in MARKERS]
    assert len(looks) == len(set(looks)) == 9
