"""A metric of a sweep over one setting, with a line for each value of another."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError, near
from lightning_sparse.experiments.folders import FAILED
from lightning_sparse.experiments.names import in_words
from lightning_sparse.experiments.sweeps import SEED, Sweep
from lightning_sparse.experiments.tables import Row
from lightning_sparse.extras import import_extra
from lightning_sparse.reporting.curve_pages import COLOURS
from lightning_sparse.reporting.statistics import deviation

__all__ = ["axes_of", "draw", "usual_x"]

MARKERS = "osD^vPX*"  # one more than colours: no two lines of many look the same
DECADE = 10
"""Positive settings that differ by so much are drawn on an axis of logarithms, as densities always are."""


def usual_x(sweep: Sweep) -> str | None:
    """Return the key that belongs on the horizontal axis: density, else the first that has numbers."""
    numeric = [
        key
        for key in sweep.names
        if key not in (SEED, sweep.compare)
        and len({cell.settings.get(key) for cell in sweep.cells if _is_number(cell.settings.get(key))}) > 1
    ]
    return next((key for key in numeric if key.rpartition(".")[2] == "density"), next(iter(numeric), None))


def axes_of(sweep: Sweep, x: str | None = None, line: str | None = None) -> tuple[str | None, list[str]]:
    """Return the key of the horizontal axis, ``None`` if there is none, and those that have lines.

    Args:
        sweep: The sweep.
        x: Key or name of a setting; ``None``: `usual_x`.
        line: Key or name of a setting; ``None``: all but that of the axis and seeds.

    Raises:
        SparsityError: If there is no such setting, or that of the axis has no numbers.
    """
    over = _key(sweep, x, "--x") if x else usual_x(sweep)
    if over and not any(_is_number(cell.settings.get(over)) for cell in sweep.cells):
        raise SparsityError(f"`--x` must be a setting with numbers, got {x!r}, which has none.")
    return over, [_key(sweep, line, "--line")] if line else [k for k in sweep.names if k not in (SEED, over)]


def draw(
    sweep: Sweep, rows: Sequence[Row], path: Path, metric: str, x: str | None = None, line: str | None = None
) -> str:
    """Draw the figure into a file, and return what to print of it.

    Lines are means, bars the standard deviation over seeds where there are two or more; cells without a
    number for ``x`` are horizontal lines. Cells that failed are crosses at the lower edge.

    Args:
        sweep: The sweep.
        rows: Its cells.
        path: A file that ends in ``.png``, or another ending that matplotlib knows.
        metric: What to draw.
        x: Key or name of the setting on the horizontal axis; ``None``: `usual_x`.
        line: Key or name of the setting that has a line for each value; ``None``: all other settings.

    Raises:
        SparsityError: As from `axes_of`.
        ModuleNotFoundError: If matplotlib is not installed.
    """
    over, lines = axes_of(sweep, x, line)
    if over is None:
        return "left out the figure: no setting has two or more numbers. Name one by --x."
    matplotlib = import_extra("matplotlib", "the figure of a sweep")
    matplotlib.use("Agg")
    plt = import_extra("matplotlib.pyplot", "the figure of a sweep")
    figure, axes = plt.subplots(figsize=(7, 4.5))
    labels = list(dict.fromkeys(_label(row, lines) for row in rows))
    failed = 0
    for index, label in enumerate(labels):
        style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        own = [row for row in rows if _label(row, lines) == label]
        failed += _draw_line(axes, own, over, metric, label, style)
    if failed:
        axes.plot([], [], linestyle="", marker="x", color="#555555", label="failed")
    merged = [sweep.names[key] for key in sweep.names if key not in (over, *lines) and _differs(rows, key)]
    bars = f"mean and standard deviation over {', '.join(merged)}" if merged else "one run each"
    axes.set_title(f"{metric} over {sweep.names[over]}: {bars}", fontsize=10)
    axes.set(xlabel=sweep.names[over], ylabel=metric)
    _finish(axes, rows, over, [*labels, "failed"])
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return f"wrote {path}"


def _draw_line(
    axes: Any, rows: Sequence[Row], over: str, metric: str, label: str, style: dict[str, Any]
) -> int:
    """Draw one line, and return how many of its cells failed."""
    values: dict[Any, list[float]] = {}
    for row in rows:
        if (value := row.value(metric)) is not None:
            values.setdefault(row.cell.settings.get(over), []).append(value)
    places = sorted(place for place in values if _is_number(place))
    if places:
        means = [statistics.fmean(values[place]) for place in places]
        bars = [0.0 if math.isnan(d := deviation(values[place])) else d for place in places]
        axes.errorbar(places, means, bars, label=label, capsize=3, markersize=5, linewidth=1.4, **style)
    elsewhere = [value for place, found in values.items() if not _is_number(place) for value in found]
    if elsewhere:
        axes.axhline(statistics.fmean(elsewhere), color=style["color"], linestyle="--", label=label)
    lost = [row.cell.settings.get(over) for row in rows if row.status == FAILED]
    marked = [place for place in lost if _is_number(place)]
    edge = axes.get_xaxis_transform()  # heights are shares of the axis
    axes.plot(marked, [0.03] * len(marked), "x", color=style["color"], transform=edge, clip_on=False)
    return len(lost)


def _finish(axes: Any, rows: Sequence[Row], over: str, labels: Sequence[str]) -> None:
    """Mark the values that were set; explain the lines, in their order."""
    places = sorted({row.cell.settings[over] for row in rows if _is_number(row.cell.settings.get(over))})
    if (
        places
        and places[0] > 0
        and (over.rpartition(".")[2] == "density" or places[-1] >= DECADE * places[0])
    ):
        axes.set_xscale("log")
    if len(places) <= DECADE:
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    shown = [label for label in labels if label in handles]
    if shown:
        axes.legend([handles[label] for label in shown], shown, fontsize=9)


def _differs(rows: Sequence[Row], key: str) -> bool:
    return len({repr(row.cell.settings.get(key)) for row in rows}) > 1


def _key(sweep: Sweep, name: str, option: str) -> str:
    found = [key for key, short in sweep.names.items() if name in (key, short)]
    if not found:
        names = list(sweep.names.values())
        raise SparsityError(
            f"`{option}` must be one of {', '.join(names)}, got {name!r}{near(name, names) or '.'}"
        )
    return found[0]


def _label(row: Row, keys: Sequence[str]) -> str:
    said = ", ".join(in_words(row.cell.settings[key]) for key in keys if key in row.cell.settings)
    return said or "others" if keys else "all"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
