"""Tables of accuracies, on figures that are known; the series that are sweeps."""

from pathlib import Path

import pytest
import yaml

from benchmarks.experiments import accuracy
from benchmarks.harness.series import ROOT
from lightning_sparse.cli.composing import arguments_of
from lightning_sparse.experiments.jobs import jobs_of
from lightning_sparse.experiments.sweeps import read_sweep

SWEEPS = {path.stem: path for path in (ROOT / "benchmarks" / "sweeps").glob("*.yaml")}


def record(method, budget, seed, value):
    return {"method": method, "budget": budget, "seed": seed, "accuracy": value}


def test_tables_pair_by_seed_and_leave_gaps():
    experiment = accuracy.Experiment(("a", "b"), (10, 20), against="a")
    records = [record("a", 10, s, 50.0 + s) for s in (0, 1, 2)] + [record("a", 20, 0, None)]
    records += [record("b", 10, 2, 50.0), record("b", 10, 1, 50.0)]
    lines = accuracy.table(experiment, records)
    assert lines[2] == "| a | 51.0 ± 1.0 (3) | - |"
    assert lines[3] == "| b | 50.0 ± 0.0 (2) | - |"
    assert lines[-1] == "| a - b | +1.5 (-4.9 to +7.9) | - |"


def recipe_of(configs):
    """What is in a file: that recipes are of use is tested with them."""
    recipe, *overlays = (yaml.safe_load(Path(path).read_text()) for path in configs)
    for overlay in overlays:
        recipe["trainer"] |= overlay["trainer"]
    return recipe


@pytest.mark.parametrize(
    ("name", "cells", "kept"),
    [
        ("lenet5_budgets", 108, {100, 300, 1_000, 3_000, 20_000}),
        ("lenet300_moving", 110, {1_331, 2_662, 5_324}),
        ("lenet300_tickets", 25, {5_324}),
    ],
)
def test_series_are_sweeps_of_whole_recipes_at_the_budgets_of_the_docs(name, cells, kept):
    sweep = read_sweep(SWEEPS[name])
    assert len(sweep.cells) == cells
    weights = 61_510 if name == "lenet5_budgets" else 266_200
    found = set()
    for job in jobs_of(sweep, sweep.cells, recipe_of, arguments_of):
        for callback in job.recipe["trainer"]["callbacks"]:
            if density := callback.get("init_args", {}).get("density"):
                found.add(int(density * weights + 0.5))
        assert {"model", "data"} <= job.recipe.keys()
    assert found == kept
