"""What the records say: accuracies, paired differences, costs and the rates that were chosen."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.experiments.tuning.methods import METHODS
from benchmarks.experiments.tuning.queue import Cell, Plan, Records
from benchmarks.experiments.tuning.rates import rate
from benchmarks.experiments.tuning.task import TUNING_SEED
from benchmarks.harness import series


def tables(plan: Plan, records: Records, against: str) -> list[str]:
    """Return the lines of all tables, in Markdown."""
    costs = "ms of CPU time per step (median) / MiB at the peak of a run, above the pretrained net"
    return [
        *_table("test accuracy, %", plan, lambda cell: _accuracy(plan, cell, records)),
        *_table(
            f"difference from {against}, paired", plan, lambda cell: _difference(plan, cell, records, against)
        ),
        *_table(costs, plan, lambda cell: _costs(plan, cell, records)),
        *_table(
            "rate chosen, validation accuracy of all rates tried, %",
            plan,
            lambda cell: _rates(plan, cell, records),
        ),
        *_failures(plan, records),
    ]


def runs_of(plan: Plan, cell: Cell, records: Records) -> dict[int, dict[str, Any]]:
    """Return the records of a cell that count, by seed: with the rate taken, without those that failed."""
    key = {"task": plan.task.name, **cell.key, "epochs": plan.task.epochs}
    if plan.tried(cell, records):
        key["exponent"] = plan.rate_of(cell, records)
    found = [record for record in series.matching(records, key) if record["seed"] != TUNING_SEED]
    return {record["seed"]: record for record in found if record["accuracy"] is not None}


def _table(title: str, plan: Plan, cell: Callable[[Cell], str]) -> list[str]:
    budgets = [budget for budget in plan.task.budgets if budget.name in plan.budgets]
    heads = [f"{budget.count:,} ({budget.name})" for budget in budgets]
    lines = [f"{title}:", "", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in plan.methods:
        cells = [Cell(METHODS[name], budget) for budget in budgets]
        shown = [cell(one) for one in (cells if METHODS[name].budgeted else cells[:1])]
        lines.append(f"| {name} | {' | '.join(shown + [''] * (len(cells) - len(shown)))} |")
    return [*lines, ""]


def _accuracy(plan: Plan, cell: Cell, records: Records) -> str:
    return series.spread([record["accuracy"] for record in runs_of(plan, cell, records).values()], 1)


def _difference(plan: Plan, cell: Cell, records: Records, against: str) -> str:
    theirs = runs_of(plan, Cell(METHODS[against], cell.budget), records)
    ours = runs_of(plan, cell, records)
    if cell.method.name == against:
        return ""
    pairs = [
        ours[seed]["accuracy"] - theirs[seed]["accuracy"] for seed in sorted(ours.keys() & theirs.keys())
    ]
    return series.difference(pairs, 1)


def _costs(plan: Plan, cell: Cell, records: Records) -> str:
    runs = runs_of(plan, cell, records).values()
    seconds, peaks = (_known(runs, name) for name in ("step_seconds", "peak_mib"))
    if not seconds:
        return "-"
    peak = f"{statistics.median(peaks):.0f}" if peaks else "?"
    return f"{1e3 * statistics.median(seconds):.3g} / {peak}"


def _known(runs: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [record[name] for record in runs if record[name] is not None]


def _rates(plan: Plan, cell: Cell, records: Records) -> str:
    tried = plan.tried(cell, records)
    if not tried:
        return "-"
    each = ", ".join(f"{rate(number):g}: {tried[number]:.1f}" for number in sorted(tried))
    return f"**{rate(plan.rate_of(cell, records)):g}** ({each})"


def _failures(plan: Plan, records: Records) -> list[str]:
    failed = [r for r in records if r["task"] == plan.task.name and r["error"] is not None]
    return [f"{r['method']}, {r['budget']}, seed {r['seed']}: {r['error']}" for r in failed]
