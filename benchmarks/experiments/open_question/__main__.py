"""Does DCTpS lead on LeNet-5 below 2,000 weights, as in Figure 1 of its paper? 160 epochs, three seeds.

    python -m benchmarks.experiments.open_question --data_dir data --results results
    python -m benchmarks.experiments.open_question --results results --show
    python -m benchmarks.experiments.open_question --check     # the compiled step against the package's

LeNet-5 on CIFAR-10, images cropped and mirrored, batch 64, Adam at 0.001 with weight decay 0.0005, no drop
of the rate (Table 4 of the paper). DCTpS as in the paper and with the offset that did best in `offsets`,
beside SynFlow, FORCE and random masks (EPL), each from Kaiming's normal initialisation and from PyTorch's
default, which the authors' code leaves LeNet-5 with. Test accuracy after the last epoch and at the epoch that
was best on held-out images, and the highest accuracy on these, which Figure 1 reports.

All nets of a budget and seed are trained at once, on the same batches, by a step that `g++` compiles
(`lenet5.cpp`); nets without any path from input to output are not trained, since no step would change an
output. Everything is saved after each epoch, so a series may be killed and started again at any time; a line
per net is added to `<results>/open_question/runs.jsonl` when its training is over.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments.open_question import check, stream, tables
from benchmarks.experiments.open_question.kernel import library
from benchmarks.experiments.open_question.pack import Pack, train
from benchmarks.experiments.open_question.starts import STARTS, Start, has_path, make, state_of
from benchmarks.experiments.open_question.stream import Stream
from benchmarks.harness import series
from lightning_sparse.checks import SparsityError

BUDGETS, SEEDS, EPOCHS = (300, 100, 1_000, 3_000), (0, 1, 2), 160


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, or show what is there."""
    options = _parse(argv)
    folder = options.results / f"open_question{'-smoke' if options.smoke else ''}"
    series.settle(options.threads)
    if options.check:
        print("\n".join(check.table(stream.noise(), folder / "compiled", options.budgets)))
        return
    if not options.show:
        run(options, folder)
    print("\n".join(tables.all_tables(series.read(folder / "runs.jsonl"), folder, sorted(options.budgets))))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Train what is missing: all methods at one budget, seed by seed, then the next budget."""
    records = folder / "runs.jsonl"
    loaded: Stream | None = None
    for budget in options.budgets:
        for seed in options.seeds:
            missing = [
                start
                for start in STARTS
                if not series.matching(series.read(records), _key(start, budget, seed))
            ]
            if not missing:
                continue
            if loaded is None:
                library(folder / "compiled")
                loaded = stream.noise() if options.smoke else stream.load(options.data_dir, options.cache)
            _train(missing, budget, seed, loaded, options.epochs, folder)


def _key(start: Start, budget: int, seed: int) -> dict[str, Any]:
    return {"method": start.name, "budget": budget, "seed": seed}


def _train(
    missing: Sequence[Start], budget: int, seed: int, images: Stream, epochs: int, folder: Path
) -> None:
    """Train nets that have no record yet, and add one for each; those that cannot be trained come first."""
    compiled, records = folder / "compiled", folder / "runs.jsonl"
    path = folder / "under_way" / f"{budget}-{seed}.pt"

    def add(start: Start, outcome: dict[str, Any]) -> None:
        print(json.dumps(_key(start, budget, seed) | outcome), flush=True)
        series.add(_key(start, budget, seed) | outcome, records)

    def started() -> Pack | None:
        states = {}
        for start in missing:
            try:
                state = state_of(make(start, budget, seed, images))
            except SparsityError as refusal:
                add(start, {"error": str(refusal)})
                continue
            if has_path(state):
                states[start.name] = state
            else:
                add(start, _untrained(Pack([start.name], [state], seed, compiled), images))
        return Pack(list(states), list(states.values()), seed, compiled) if states else None

    pack = train(path, started, images, epochs, compiled)
    if pack is None:
        return
    for start in missing:
        if start.name in pack.names:
            add(start, {"path": True} | pack.outcome(pack.names.index(start.name), images))
    path.unlink()


def _untrained(pack: Pack, images: Stream) -> dict[str, Any]:
    """Return what becomes of a net without a path: what it was."""
    pack.curves = [[pack.accuracy(pack.states[0], images.val)]]
    return {"path": False} | pack.outcome(0, images)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = series.parser(__doc__)
    parser.add_argument("--data_dir", type=series.absolute, default=Path("data"), help="folder with the data")
    parser.add_argument(
        "--cache", type=series.absolute, default=Path("data"), help="folder for decoded images"
    )
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=BUDGETS, help="trained weights, in this order"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--check", action="store_true", help="compare 50 steps with the package's, and end")
    options = parser.parse_args(argv)
    if options.plot:
        parser.error("`--plot` is not there: the tables say more.")
    if options.smoke:
        options.budgets, options.seeds, options.epochs = options.budgets[:1], options.seeds[:1], 2
    return options


if __name__ == "__main__":
    main()
