"""Tables of the open question: three figures by method and budget, and differences of pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiments import accuracy
from benchmarks.experiments.open_question.starts import MENDED, PLAIN, STARTS

CHANCE = 10.0
FIGURES = {
    "best": "Test accuracy at the epoch that was best on held-out images",
    "last": "Test accuracy after the last epoch",
    "max_val": "Highest accuracy on held-out images, as Figure 1 of the paper",
}


def all_tables(records: Sequence[dict[str, Any]], folder: Path, budgets: Sequence[int]) -> list[str]:
    """Return the lines of all tables, and how far trainings under way have come."""
    lines = []
    for figure, title in FIGURES.items():
        lines += ["", f"{title}; below what each DCTpS leads by", ""]
        found = [record | {"accuracy": _figure(record, figure)} for record in records]
        methods = tuple(start.name for start in STARTS)
        shown = [
            accuracy.table(accuracy.Experiment(methods, tuple(budgets), to), found) for to in (PLAIN, MENDED)
        ]
        lines += shown[0] + shown[1][len(methods) + 2 :]
    for record in records:
        if record["error"]:
            lines.append(
                f"{record['method']}, {record['budget']:,}, seed {record['seed']}: {record['error']}"
            )
    return lines + _under_way(folder)


def _figure(record: dict[str, Any], figure: str) -> float:
    """Return a figure; what a method refuses counts as chance, as in the paper."""
    return CHANCE if record["error"] else record[figure]


def _under_way(folder: Path) -> list[str]:
    lines = []
    for path in sorted((folder / "under_way").glob("*.pt")):
        saved = torch.load(path)
        lines += [
            "",
            f"under way: {path.stem} (budget-seed), epoch {saved['epoch']}; held-out, last and highest",
        ]
        curves = zip(saved["names"], saved["curves"], strict=True)
        lines += [f"  {name}: {curve[-1]:.1f}, {max(curve):.1f}" for name, curve in curves if curve]
    return lines
