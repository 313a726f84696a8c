"""Draws the figure of the documentation's first page out of a table in docs/results.

    python -m benchmarks.experiments.home_figure

Nothing is trained, and no figure stands here: accuracies are read from the page on RigL and SET, whose
table is from ``lightning-sparse sweep benchmarks/sweeps/lenet300_moving.yaml``. It writes
docs/images/home.png.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

DOCS = Path(__file__).parents[2] / "docs"
TABLE = DOCS / "results" / "rigl.md"
WEIGHTS = 266_200  # of LeNet-300-100, biases left out
LINES = {
    "DCTpS, EPL, and RigL": ("DCTpS with RigL: a fixed matrix beside the weights", "#1b6e53", "o-"),
    "RigL, ERK": ("RigL: connections move during training", "#3a6fc4", "s-"),
    "static ERK": ("random connections that stay (ERK)", "#c4573a", "^-"),
}
"""Rows of the table that are drawn: words, colour, and form of the line, best first."""


class Accuracies(NamedTuple):
    """Test accuracies in percent: mean and deviation at each number of weights; and the dense net's."""

    kept: list[int]
    rows: dict[str, list[tuple[float, float]]]
    dense: float


def read_accuracies(page: str) -> Accuracies:
    """Return what the page's table of accuracies has, found by the row of static masks."""
    table = next(
        part for part in page.split("\n\n") if part.startswith("| | ") and "\n| static ERK |" in part
    )
    heads, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")]
    rows = {name: [_mean_and_deviation(cell) for cell in cells] for name, *cells in lines}
    dense = re.search(r"^The dense net has ([\d.]+) ±", page, flags=re.MULTILINE)
    assert dense, "the line of the dense net is gone"
    return Accuracies([int(head.replace(",", "")) for head in heads[1:]], rows, float(dense[1]))


def _mean_and_deviation(cell: str) -> tuple[float, float]:
    mean, deviation = cell.split(" ± ")
    return float(mean), float(deviation)


def draw(found: Accuracies) -> Figure:
    """Return accuracy over density, a line for each row of `LINES`."""
    figure = Figure((7, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    density = [100 * kept / WEIGHTS for kept in found.kept]
    axes.axhline(found.dense, color="0.35", linestyle="--", label=f"all weights: {found.dense}%")
    for name, (words, colour, form) in LINES.items():
        means, deviations = zip(*found.rows[name], strict=True)
        axes.errorbar(density, means, yerr=deviations, fmt=form, color=colour, capsize=3, label=words)
        axes.annotate(
            f"{means[0]:.1f}", (density[0], means[0]), (-8, -4), textcoords="offset points", ha="right"
        )
    axes.set(xscale="log", xlabel="weights kept (%)", ylabel="test accuracy (%)", xlim=(0.42, 2.15))
    axes.set_xticks(density, [f"{share:.1f}" for share in density])
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Read the table, draw it, and say where the figure is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=DOCS / "images" / "home.png", help="the figure's path")
    out = parser.parse_args(argv).out
    draw(read_accuracies(TABLE.read_text())).savefig(out, metadata={"Software": None})
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
