"""Tables of accuracies in Markdown: methods by budgets, and what differs between pairs of runs of one seed.

The interval is Student's over the differences of the pairs, with 95%; with three seeds it is wide, and one
that holds 0 says only that nothing was shown. In parentheses behind a mean and its standard deviation: the
number of seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import series


@dataclass(frozen=True)
class Experiment:
    """Methods by budgets; every method is compared with ``against``."""

    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    against: str


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
        cells = [_cell(found, method, budget) for budget in experiment.budgets]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", *header]
    for method in experiment.methods:
        if method == experiment.against:
            continue
        cells = [
            _difference(found.get((experiment.against, budget), {}), found.get((method, budget), {}))
            for budget in experiment.budgets
        ]
        lines.append(f"| {experiment.against} - {method} | {' | '.join(cells)} |")
    return lines


def _cell(found: Accuracies, method: str, budget: int) -> str:
    return series.spread(list(found.get((method, budget), {}).values()), 1)


def _difference(ours: dict[int, float], theirs: dict[int, float]) -> str:
    return series.difference([ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()], 1)
