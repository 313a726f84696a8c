"""Trains recipes over budgets and seeds, and says what differs: means, paired differences, a plot.

    python -m benchmarks.experiments.accuracy lenet5_budgets --data_dir cifar10 --seeds 0 1 2
    python -m benchmarks.experiments.accuracy lenet5_budgets --show --against "DCTpS (EPL) + RigL"

Each run is `lightning-sparse fit` with a recipe and some overrides; its test accuracy after the last epoch is
added to `<results>/<experiment>.jsonl`. Runs that are there already are not repeated, so a broken series goes
on where it stopped. A run that ends in an error is kept with its message: a gap in the table.

A pair are two runs of one seed: same initial weights, same order of batches. The interval is Student's over
the differences of the pairs, with 95%; with three seeds it is wide, and one that holds 0 says only that
nothing was shown. In parentheses behind a mean and its standard deviation: the number of seeds.
"""

import argparse
import contextlib
import io
import json
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.experiments.nets import EXPERIMENTS, Experiment, Method
from benchmarks.harness import series


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing of an experiment, or show what is there."""
    options = _parse(argv)
    experiment = EXPERIMENTS[options.experiment]
    names = [method.name for method in experiment.methods]
    against = options.against or experiment.against
    series.refuse_unknown("--methods", options.methods or (), names)
    series.refuse_unknown("--against", (against,), [m.name for m in experiment.methods if not m.dense])
    path = series.records_of(options.experiment, options)
    if not options.show:
        series.settle(options.threads)
        chosen = replace(
            experiment,
            budgets=tuple(options.budgets or experiment.budgets),
            methods=tuple(m for m in experiment.methods if m.name in (options.methods or names)),
        )
        run(chosen, options.seeds or experiment.seeds, path, options.data_dir, options.smoke)
    records = series.read(path)
    print("\n".join(table(replace(experiment, against=against), records)))
    if options.plot:
        plot(experiment, records, options.plot)


def run(experiment: Experiment, seeds: Sequence[int], path: Path, data_dir: Path, smoke: bool) -> None:
    """Train what ``path`` does not hold yet; seeds outermost, so that an early end leaves whole seeds."""
    for seed in seeds:
        for method, budget in _cells(experiment):
            cell = {"method": method.name, "budget": budget, "seed": seed}
            # Read each time: another process may add to it.
            if series.matching(series.read(path), cell):
                continue
            args = arguments(experiment, method, budget, seed, data_dir, smoke)
            record = cell | fit(args)
            print(json.dumps(record), flush=True)
            series.add(record, path)


def _cells(experiment: Experiment) -> Iterator[tuple[Method, int]]:
    for method in experiment.methods:
        for budget in (experiment.weights,) if method.dense else experiment.budgets:
            yield method, budget


def arguments(
    experiment: Experiment, method: Method, budget: int, seed: int, data_dir: Path, smoke: bool
) -> list[str]:
    """Return the command line of one run."""
    args = ["fit", f"--config={series.ROOT / 'recipes' / method.recipe}.yaml", f"--seed_everything={seed}"]
    args += [f"--trainer.max_epochs={experiment.epochs}", *method.overrides]
    if not method.dense:
        args.append(f"--trainer.callbacks.density={budget / experiment.weights!r}")
    args += [part.format(data_dir=data_dir) for part in experiment.data]
    unneeded = ("logger", "enable_progress_bar", "enable_model_summary")
    args += [*(f"--trainer.{name}=false" for name in unneeded), "--trainer.limit_val_batches=0"]
    return [*args, "--trainer.fast_dev_run=1"] if smoke else args


def fit(args: list[str]) -> dict[str, Any]:
    """Run the command in this process, in a folder of its own; return accuracy, seconds and any error."""
    said, start, error = io.StringIO(), time.perf_counter(), None
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            series.run_cli(args)
    except SystemExit as stop:  # how the command ends on a mistake
        error = f"exit {stop.code}: {said.getvalue().strip()[-300:]}"
    except (RuntimeError, ValueError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    found = re.search(r"test/acc\W+([0-9.]+)", said.getvalue())
    accuracy = 100 * float(found[1]) if found else None
    return {"accuracy": accuracy, "seconds": round(time.perf_counter() - start, 1), "error": error}


Accuracies = dict[tuple[str, int], dict[int, float]]
"""Accuracy by seed, by method and budget; runs that failed are left out."""


def accuracies(records: Sequence[dict[str, Any]]) -> Accuracies:
    """Sort the accuracies of the records."""
    found: Accuracies = {}
    for record in records:
        cell = found.setdefault((record["method"], record["budget"]), {})
        if record["accuracy"] is not None:
            cell[record["seed"]] = record["accuracy"]
    return found


def table(experiment: Experiment, records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of two tables in Markdown: accuracies, and differences from ``against``."""
    found = accuracies(records)
    header = [f"| | {' | '.join(f'{budget:,}' for budget in experiment.budgets)} |"]
    header += ["|---" * (len(experiment.budgets) + 1) + "|"]
    lines = header.copy()
    for method in experiment.methods:
        if method.dense:
            lines.append(f"\n{method.name}: {_cell(found, method, experiment.weights)}")
        else:
            cells = [_cell(found, method, budget) for budget in experiment.budgets]
            lines.append(f"| {method.name} | {' | '.join(cells)} |")
    lines += ["", *header]
    for method in experiment.methods:
        if method.dense or method.name == experiment.against:
            continue
        cells = [
            _difference(found.get((experiment.against, budget), {}), found.get((method.name, budget), {}))
            for budget in experiment.budgets
        ]
        lines.append(f"| {experiment.against} - {method.name} | {' | '.join(cells)} |")
    return lines


def _cell(found: Accuracies, method: Method, budget: int) -> str:
    return series.spread(list(found.get((method.name, budget), {}).values()), 1)


def _difference(ours: dict[int, float], theirs: dict[int, float]) -> str:
    return series.difference([ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()], 1)


def plot(experiment: Experiment, records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy over trained weights, one line per method, its seeds as dots."""
    found = accuracies(records)
    with series.figure(path, xscale="log", xlabel="trained weights in the layers") as axes:
        for method in experiment.methods:
            if method.dense:
                values = list(found.get((method.name, experiment.weights), {}).values())
                if values:
                    axes.axhline(statistics.mean(values), color="0.4", linestyle="--", label="dense")
                continue
            cells = {budget: found.get((method.name, budget), {}) for budget in experiment.budgets}
            means = [statistics.mean(cell.values()) if cell else float("nan") for cell in cells.values()]
            dots = [(budget, value) for budget, cell in cells.items() for value in cell.values()]
            if dots:
                (line,) = axes.plot(experiment.budgets, means, label=method.name)
                axes.scatter(*zip(*dots, strict=True), s=12, color=line.get_color())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = series.parser(__doc__)
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--data_dir", type=series.absolute, default="data", help="folder with its data")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: those of the experiment")
    parser.add_argument("--methods", nargs="+", help="names of rows; default: all")
    parser.add_argument("--against", help="row to print differences from; default: the experiment's")
    parser.add_argument("--budgets", type=int, nargs="+", help="default: those of the experiment")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
