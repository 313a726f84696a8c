"""How time and memory of a Dense-plus-Sparse layer grow with its size q, at ten values per row."""

import argparse
import math
import statistics
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.harness.memory import MIB, peak_extra
from benchmarks.harness.report import Bar, Report
from benchmarks.speed.dctps_forms import ForwardBackward, compact_form, take_turns

SIZES = (1024, 2048, 4096, 8192, 16384)
SMOKE_SIZES = (512, 1024)
DENSE_UP_TO = 8192
VALUES_PER_ROW = 10
ROWS = 128


class Point(NamedTuple):
    """What a layer of size q takes: seconds and peak extra bytes of a forward and backward pass."""

    form: str
    size: int
    seconds: float
    extra: int | None


def growth(report: Report, options: argparse.Namespace) -> str:
    """Measure sizes, fit exponents, and draw all that if asked to."""
    sizes = [q for q in (SMOKE_SIZES if options.smoke else SIZES) if q <= options.largest]
    points = [point for q in sizes for point in measure(report, options, q)]
    lines = [f"{p.form}, q = {p.size}: {p.seconds * 1e3:.3f} ms, {_mib(p.extra)} MiB" for p in points]
    for (form, quantity), exponent in exponents(points).items():
        report.add_value("growth", f"exponent of {quantity}, {form}", exponent)
        lines.append(f"{form}: {quantity} grows as q to the power of {exponent:.2f}")
    if options.plot:
        plot(points, options.plot)
    return "\n".join(lines)


def measure(report: Report, options: argparse.Namespace, size: int) -> list[Point]:
    """Return time and memory of the compact layer and, if it is not too large, of the dense one."""
    case, x = f"growth, q = {size}", torch.randn(ROWS, size)
    make = partial(nn.Linear, size, size)
    forms = {"compact": compact_form(make, VALUES_PER_ROW / size)}
    if size <= DENSE_UP_TO:
        forms["dense"] = make()
    turns = {form: ForwardBackward(layer, x) for form, layer in forms.items()}
    bars = [Bar("compact", "dense")] if "dense" in turns else []
    report.add(case, take_turns(turns, options), bars)
    points = [Point(form, size, report.seconds(case, form), extra_of(turn)) for form, turn in turns.items()]
    for point in points:
        if point.extra is not None:
            report.add_value(case, f"peak extra MiB, {point.form}", point.extra / MIB)
    return points


def extra_of(turn: ForwardBackward) -> int | None:
    """Return the peak extra bytes of a pass, gradients included: the median of three."""
    found = []
    for _ in range(3):
        turn.forget()
        found.append(peak_extra(turn))
    return None if None in found else statistics.median(found)


def exponents(points: list[Point]) -> dict[tuple[str, str], float]:
    """Return the least-squares slopes of log time and log memory over log q, by form and quantity."""
    slopes = {}
    for form in dict.fromkeys(point.form for point in points):
        for quantity in ("seconds", "extra"):
            logs = [
                (math.log(point.size), math.log(getattr(point, quantity)))
                for point in points
                if point.form == form and getattr(point, quantity)
            ]
            if len(logs) > 1:
                slopes[form, quantity] = statistics.linear_regression(*zip(*logs, strict=True)).slope
    return slopes


def plot(points: list[Point], path: Path) -> None:
    """Draw time and memory over q, both scales logarithmic."""
    from matplotlib.figure import Figure

    figure, slopes = Figure(figsize=(9, 4)), exponents(points)
    panels = {"seconds": ("ms", 1e3), "extra": ("peak extra MiB", 1 / MIB)}
    for axes, (quantity, (label, unit)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for form in dict.fromkeys(form for form, what in slopes if what == quantity):
            line = [(p.size, getattr(p, quantity) * unit) for p in points if p.form == form]
            axes.plot(*zip(*line, strict=True), "o-", label=f"{form}: q^{slopes[form, quantity]:.2f}")
        axes.set(xscale="log", yscale="log", xlabel="q", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"Forward and backward of a q x q layer, {VALUES_PER_ROW} values per row, {ROWS} rows")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _mib(extra: int | None) -> str:
    return "?" if extra is None else f"{extra / MIB:.1f}"
