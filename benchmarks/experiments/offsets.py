"""Trains nets with each offset, with and without RigL, beside SynFlow and random masks; says what differs.

    python -m benchmarks.experiments.offsets --data_dir data --results results
    python -m benchmarks.experiments.offsets --show --results results --against SynFlow

A line per run is added to `<results>/offsets.jsonl`, and no run is repeated, so a broken series goes on
where it stopped, and several processes may work on different nets or seeds. What tells most comes first: all
rows at one budget and seed for every net, then other budgets and seeds, and connections that move.

`--data_dir` holds `MNIST/raw` and `cifar10-jpeg/{train,test}/<class>/`; decoded images are kept in `--cache`.
Tables, pairs and intervals are those of `accuracy`.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments import accuracy
from benchmarks.experiments.offset_nets import NETS, ROWS, Images, Row, load_images, random_images
from benchmarks.experiments.offset_training import train
from benchmarks.harness import series

SEEDS = (0, 1, 2)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, or show what is there."""
    options = _parse(argv)
    path = series.records_of("offsets", options)
    if not options.show:
        series.settle(options.threads)
        run(options, path)
    for name in options.nets:
        print("\n".join([f"\n{name}\n", *table(name, series.read(path), options.against)]))


def run(options: argparse.Namespace, path: Path) -> None:
    """Train what ``path`` does not hold yet."""
    loaded: dict[str, Images] = {}
    for name, row, budget, seed in cells(options.nets, options.seeds, options.rows):
        cell = {"net": name, "method": row.name, "budget": budget, "seed": seed}
        # Read each time: another process may add to it.
        if series.matching(series.read(path), cell):
            continue
        net = NETS[name]
        if options.smoke:
            loaded[net.data] = random_images(net)
        elif net.data not in loaded:
            loaded[net.data] = load_images(net.data, options.data_dir, options.cache)
        epochs = 1 if options.smoke else net.epochs
        record = cell | {"epochs": epochs} | _outcome(name, row, budget, seed, loaded[net.data], epochs)
        print(json.dumps(record), flush=True)
        series.add(record, path)


def cells(
    names: Sequence[str], seeds: Sequence[int], rows: Sequence[str]
) -> Iterator[tuple[str, Row, int, int]]:
    """Yield nets, rows, budgets and seeds: first those that differ least from a first look."""
    every = [
        (name, row, budget, seed)
        for name in names
        for row in ROWS
        if row.name in rows
        for budget in NETS[name].budgets
        for seed in seeds
    ]

    def place(cell: tuple[str, Row, int, int]) -> tuple[int, ...]:
        name, row, budget, seed = cell
        beyond = (row.rigl, budget != NETS[name].budgets[0], seed != seeds[0])
        return sum(beyond), *beyond[:2], seed, names.index(name)

    yield from sorted(every, key=place)


def _outcome(name: str, row: Row, budget: int, seed: int, images: Images, epochs: int) -> dict[str, Any]:
    """Train; a run that ends in an error is kept with its message."""
    try:
        return train(NETS[name], row, budget, seed, images, epochs)
    except (RuntimeError, ValueError) as failure:
        return {"accuracy": None, "error": f"{type(failure).__name__}: {failure}"}


def table(name: str, records: Sequence[dict[str, Any]], against: str) -> list[str]:
    """Return the lines of two tables for a net: accuracies, and differences from a row."""
    net = NETS[name]
    methods = tuple(row.name for row in ROWS)
    experiment = accuracy.Experiment(methods, tuple(sorted(net.budgets)), against)
    return accuracy.table(experiment, [record for record in records if record["net"] == name])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = series.parser(__doc__)
    names = [row.name for row in ROWS]
    parser.add_argument("--data_dir", type=series.absolute, default=Path("data"), help="folder with the data")
    parser.add_argument(
        "--cache", type=series.absolute, default=Path("data"), help="folder for decoded images"
    )
    parser.add_argument("--nets", nargs="+", choices=sorted(NETS), default=list(NETS))
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--against", choices=names, default="SynFlow", help="row to print differences from")
    options = parser.parse_args(argv)
    if options.plot:
        parser.error("`--plot` is not there: a figure would hold four nets.")
    return options


if __name__ == "__main__":
    main()
