"""Fine-tunes pretrained nets in many ways, with as many trained weights each, and says what differs.

    python -m benchmarks.experiments.fine_tuning sentences --data_dir data
    python -m benchmarks.experiments.fine_tuning sentences --show --against LoRA

Each run adds a line to `<results>/fine_tuning.jsonl`; those that are there already are not repeated, so a
broken series goes on where it stopped. A run that ends in an error is kept with its message: a gap in the
table.

The rates of each method are chosen first, in runs half as long, with a seed and data that are in no run that
counts (see `benchmarks.experiments.tuning.rates`). A pair are two runs of one seed: same training and test
data, same head at the start, same order of batches. The interval is Student's over the differences of the
pairs, with 95%.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.experiments.tuning import training
from benchmarks.experiments.tuning.digits import DIGITS
from benchmarks.experiments.tuning.images import IMAGES
from benchmarks.experiments.tuning.queue import Plan
from benchmarks.experiments.tuning.rates import MOST, number_of, rate
from benchmarks.experiments.tuning.sentences import SENTENCES
from benchmarks.experiments.tuning.tables import tables
from benchmarks.harness import series

TASKS = {task.name: task for task in (SENTENCES, IMAGES, DIGITS)}
SEEDS = (0, 1, 2, 3, 4)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, or show what is there."""
    options = _parse(argv)
    plan, path = plan_of(options), series.records_of("fine_tuning", options)
    if not options.show:
        series.settle(options.threads)
        work(plan, path, options.data_dir, options.smoke)
    print("\n".join(tables(plan, series.read(path), options.against)))


def plan_of(options: argparse.Namespace) -> Plan:
    """Return what the options ask for."""
    task = TASKS[options.task]
    task = replace(task, epochs=options.epochs or task.epochs)
    known = list(task.methods)
    budgets = [budget.name for budget in task.budgets]
    series.refuse_unknown("--methods", options.methods or (), known)
    series.refuse_unknown("--budgets", options.budgets or (), budgets)
    series.refuse_unknown("--against", (options.against,), known)
    chosen = {"methods": options.methods or known, "budgets": options.budgets or budgets}
    most = 1 if options.smoke else MOST
    series.refuse_unknown("--rates", [name for name, _ in options.rates], known)
    return Plan(task, **chosen, seeds=options.seeds, most=most, rates=dict(options.rates))


def method_rate(text: str) -> tuple[str, int]:
    """Read ``METHOD=RATE``."""
    name, _, number = text.partition("=")
    try:
        return name, number_of(number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be METHOD=RATE, got {text!r}: {error}") from None


def work(plan: Plan, path: Path, data_dir: str, smoke: bool) -> None:
    """Train what ``path`` does not hold yet; it is read each time, for another process may add to it."""
    while (run := plan.next_run(series.read(path))) is not None:
        data = plan.task.data(data_dir, run.seed, plan.epochs_of(run.seed), smoke)
        head_rate = rate(run.exponent if run.head_exponent is None else run.head_exponent)
        rates = training.Rates(rate(run.exponent), head_rate, plan.task.warmup)
        pretrained = training.pristine(plan.task.net, data_dir)
        result = training.Training(plan.task, pretrained, *run.cell, run.seed, rates, data).run()
        record = plan.key(run) | result
        print(json.dumps(record), flush=True)
        series.add(record, path)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = series.parser(__doc__)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--data_dir", type=series.absolute, default="data", help="folder with its data")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--methods", nargs="+", help="names of rows; default: all")
    parser.add_argument("--budgets", nargs="+", help="names of columns; default: all")
    help_text = "to train with instead of the rate that validation data chose"
    parser.add_argument(
        "--rates", nargs="+", default=(), metavar="METHOD=RATE", type=method_rate, help=help_text
    )
    parser.add_argument("--epochs", type=int, help="of the runs that count; default: those of the task")
    parser.add_argument("--against", default="LoRA", help="row to take differences from")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
