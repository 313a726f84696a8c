"""``lightning-sparse sweep``: from its file to its table, and over a kill in the middle."""

import csv
import json
import signal
import sys
import time
from pathlib import Path

import forked
import pytest
import yaml

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.commands.sweep import _Progress
from lightning_sparse.cli.main import main
from lightning_sparse.experiments.folders import DONE, CellFolder, Result
from lightning_sparse.experiments.running import Job
from lightning_sparse.experiments.sweeps import read_sweep

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "recipes" / "sweeps" / "digits.yaml"
SCRIPT = ROOT / "tests" / "scripts" / "sweep.py"
RECIPE = str(ROOT / "recipes" / "quickstart.yaml")
GRID = {"trainer.callbacks.PruneAtInit.method": ["erk", "synflow"], "trainer.callbacks.density": [0.1, 0.05]}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])


def write(path="s.yaml", **keys):
    content = {"recipe": RECIPE, "set": {"trainer.max_epochs": 1}, "grid": GRID, "out": "out", "threads": 1}
    Path(path).write_text(yaml.safe_dump(content | keys))
    return path


def error_of(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", *words])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line.removeprefix("error: ")


def table(path):
    """Rows of a table without what no two runs have in common."""
    with Path(path).open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


# Before anything is run.


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"set": {"trainer.max_epoch": 1}}, "did you mean --trainer.max_epochs?"),
        (
            {"grid": {"trainer.callbacks.PruneAtInit.density": [0.1, 1.5]}},
            "density=1.5: `density` must be in (0, 1]",
        ),
        ({"grid": {"trainer.callbacks.PruneAtInt.density": [0.1, 0.5]}}, "did you mean PruneAtInit?"),
        (
            {"recipe": "nothing.yaml"},
            "`--config` must be a recipe, got 'nothing.yaml', which does not exist.",
        ),
    ],
)
def test_mistakes_cost_a_line_and_run_nothing(capsys, keys, said):
    assert said in error_of(capsys, write(**keys))
    assert not Path("out").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3"])
def test_shards_that_are_none(capsys, shard):
    assert "`--shard` must be I/N with I from 1 to N, as 2/8" in error_of(capsys, write(), "--shard", shard)


def test_a_dry_run_says_what_would_be_done(capsys):
    main(["sweep", write(grid={"seed_everything": [0, 1, 2]}), "--dry-run", "--shard", "2/2"])
    assert capsys.readouterr().out.splitlines() == ["seed=1  to run", "1 of 1 cells would be run."]
    assert not Path("out").exists()


def test_what_the_figure_cannot_have_is_said_first(capsys):
    said = error_of(capsys, write(), "--x", "densty")
    assert said == "`--x` must be one of method, density, got 'densty'; did you mean density?"
    assert "`--line` must be one of" in error_of(capsys, write(), "--line", "densty")
    assert not Path("out").exists()


def test_without_ray_nothing_is_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match=r"error: `ray` must be installed for --ray: pip install"):
        main(["sweep", write(grid={"seed_everything": [0]}), "--ray"])
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere", "got 'nowhere'. List those: lightning-sparse recipes"),
        ("digit", "got 'digit'; did you mean sweeps/digits?"),
        ("other.yml", "got 'other.yml'; did you mean other.yaml?"),
        (RECIPE, "'seed_everything'"),
    ],
)
def test_what_is_no_sweep(capsys, path, said):
    Path("other.yaml").touch()
    assert said in error_of(capsys, path)


def test_the_example_is_a_sweep_of_two_methods_three_densities_and_two_seeds():
    sweep = read_sweep(EXAMPLE)
    values = [{cell.settings[key] for cell in sweep.cells} for key in sweep.names]
    assert values == [{"erk", "synflow"}, {0.1, 0.05, 0.01}, {0, 1}]
    assert len(sweep.cells) == 12


# Whole sweeps.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a sweep with a cell that fails, and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    grid = {"model.optimizer.lr": [0.002, -1], "seed_everything": [0, 1]}
    path = folder / "s.yaml"
    write(path, grid=grid, metric=["test/acc", "test/loss"])
    said = forked.run(SCRIPT, path, "--shard", "1/2", output=folder / "first.txt")
    status, more = forked.finish(forked.start(SCRIPT, path, output=folder / "second.txt"))
    assert status == 1, more
    return folder, said, more


def test_shards_make_one_table_and_cells_run_once(run):
    folder, first, second = run
    assert "[1/2] lr=0.002,seed=0  test/acc 0." in first
    assert "[2/2] lr=0.002,seed=1  test/acc 0." in first
    assert "2 of 4 cells: not finished" in first
    assert "2 of 4 cells are finished already." in second
    assert "[3/4] lr=-1,seed=0  FAILED: error: `model.optimizer`: Invalid learning rate: -1." in second
    assert "failed: 2 of 4 cells (--retry-failed runs them again)" in second
    rows = table(folder / "out" / "table.csv")
    assert [row["status"] for row in rows] == ["done", "done", "failed", "failed"]
    assert rows[0]["test/acc"] != rows[1]["test/acc"]
    assert 0.2 < float(rows[0]["test/acc"]) < 1 < float(rows[0]["test/loss"])
    assert (folder / "out" / "test_acc.png").is_file()
    assert "test/loss" in second


def test_a_cell_leaves_a_run_like_any_other(run):
    cell = run[0] / "out" / "lr=0.002,seed=0"
    assert (cell / "run" / "version_0" / "checkpoints" / "last.ckpt").is_file()
    recipe = yaml.safe_load((cell / "recipe.yaml").read_text())
    assert recipe["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.002
    metrics = json.loads((cell / "metrics.json").read_text())
    assert {"val/acc", "test/acc", "sparsity/total"} <= set(metrics)


def test_the_table_alone(run, capsys, monkeypatch):
    monkeypatch.chdir(run[0])
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "s.yaml", "--table", "--x", "seed", "--line", "lr"])
    assert stopped.value.code == 1
    assert "wrote out/table.csv" in capsys.readouterr().out


def test_a_metric_that_nobody_logs_is_said_and_costs_no_run(run, capsys, monkeypatch):
    monkeypatch.chdir(run[0])
    grid = {"model.optimizer.lr": [0.002, -1], "seed_everything": [0, 1]}
    said = error_of(capsys, write("t.yaml", grid=grid, metric="test/ac"), "--table")
    assert "got 'test/ac'; did you mean test/acc? They log" in said


def test_a_metric_that_only_some_cells_log_stops_nothing(tmp_path):
    sweep = read_sweep(write(metric=["test/acc", "rigl/explored"]))
    job = Job("a", tmp_path, {}, {}, tmp_path, {})
    progress = _Progress(sweep, [], [])
    progress.end(job, Result(DONE, {"test/acc": 0.5, "rigl/explored": 0.1}))
    progress.end(job, Result(DONE, {"test/acc": 0.5}))
    with pytest.raises(SparsityError, match="`metric` must be one that the runs log, got 'rigl/explored'"):
        _Progress(sweep, [], []).end(job, Result(DONE, {"test/acc": 0.5}))


def test_changed_settings_are_refused(run, capsys, monkeypatch):
    monkeypatch.chdir(run[0])
    grid = {"model.optimizer.lr": [0.002, -1], "seed_everything": [0, 1]}
    said = error_of(capsys, write("t.yaml", grid=grid, set={"trainer.max_epochs": 2}))
    assert "`trainer.max_epochs` was 1, and is 2. Name another `out`" in said


def test_a_sweep_killed_in_the_middle_of_a_cell_ends_with_the_table_of_an_undisturbed_one(tmp_path):
    grid = {"trainer.callbacks.PruneAtInit.method": ["snip"]}
    folders = {name: tmp_path / name for name in ("undisturbed", "killed")}
    for folder in folders.values():
        folder.mkdir()
        write(folder / "s.yaml", grid=grid, set={"trainer.max_epochs": 12, "data.batch_size": 64})
    started = forked.start(SCRIPT, "s.yaml", output=folders["killed"] / "log.txt")
    cell = CellFolder(folders["killed"] / "out" / "method=snip")
    end = time.monotonic() + 60
    while cell.checkpoint() is None and time.monotonic() < end:
        time.sleep(0.01)
    forked.signalled(started.processes[0], signal.SIGKILL)
    started.processes[0].join()
    assert cell.checkpoint()
    assert cell.result() is None, "it had ended before it was killed"
    said = {name: forked.run(SCRIPT, "s.yaml", output=folder / "log.txt") for name, folder in folders.items()}
    assert "(went on from its checkpoint)" in said["killed"]
    assert table(folders["killed"] / "out" / "table.csv") == table(
        folders["undisturbed"] / "out" / "table.csv"
    )


def test_a_cell_is_a_process_of_its_own(capsys):
    grid = {"trainer.callbacks.density": [0.1], "seed_everything": [0]}
    main(["sweep", write(grid=grid, set={"trainer.max_steps": 1})])
    assert "[1/1] density=0.1,seed=0  test/acc 0." in capsys.readouterr().out
    assert read_sweep("s.yaml").cells[0].name == table("out/table.csv")[0]["folder"]
