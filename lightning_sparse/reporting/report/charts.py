"""The charts of a report: what runs have logged over epochs, in plain data."""

import math
from collections.abc import Iterable, Mapping, Sequence

from lightning_sparse.reporting.names import MOVEMENTS, densities, metrics_in, movements_in, series
from lightning_sparse.reporting.report.content import Chart, Line
from lightning_sparse.reporting.runs import Curve

__all__ = ["Logged", "density_chart", "metric_charts", "movement_charts"]

Logged = tuple[str, Mapping[str, Curve]]
"""A run's name and what it has logged."""

METRICS = 5
"""So many metrics have a chart at most."""

_LOOK = {
    "accuracy": "Higher is better. A gap between training and validation is what the net has learnt by "
    "heart; a sudden fall is where weights were taken away.",
    "loss": "Lower is better. Validation loss that rises again while training loss falls means that the net "
    "begins to learn by heart.",
}
_MOVED = {
    "churn": (
        "Churn: connections moved in each epoch",
        "share of the connections",
        "How busy the search for better connections is. With the usual cosine schedule it falls to zero, and "
        "ends when the last quarter of training begins.",
    ),
    "survived": (
        "Survived: connections that were there from the start",
        "share of the connections",
        "How much of the first, mostly random choice is left. A flat curve: what stays is settled.",
    ),
    "explored": (
        "Explored: weights that were ever tried",
        "share of all weights",
        "How much of the dense net has been tried out, though the net was sparse all the time.",
    ),
}


def metric_charts(runs: Sequence[Logged]) -> list[Chart]:
    """Return a chart of each metric that the first run has logged; others' validation curves beside it."""
    found = [(name, metrics_in(curves)) for name, curves in runs]
    return [_metric_chart(metric, found) for metric in list(found[0][1])[:METRICS]]


def _metric_chart(metric: str, runs: Sequence[tuple[str, Mapping[str, Mapping[str, Curve]]]]) -> Chart:
    lines = []
    for group, (name, metrics) in enumerate(runs):
        splits = metrics.get(metric, {})
        for split, words in (("val", "validation"), ("train", "training")):
            if split in splits:
                label = words if len(runs) == 1 else f"{name}, {words}"
                colour = group if len(runs) > 1 else int(split == "train")
                lines.append(Line(label, splits[split], colour, split == "train", split == "val"))
    values = _finite(line.points for line in lines)
    percent = metric == "accuracy" and all(0 <= value <= 1 for value in values)
    unit = f"{metric} (% of items that are right)" if percent else metric
    look = _LOOK.get(metric, "Compare validation with training, and its end with its best epoch.")
    return Chart(metric, f"{metric.capitalize()} over epochs", unit, look, tuple(lines), percent)


def density_chart(runs: Sequence[Logged]) -> Chart | None:
    """Return densities over epochs: of the first run by layer, of others in total; ``None`` without any."""
    totals, layers = densities(runs[0][1])
    if not totals and not layers:
        return None
    if len(runs) > 1:
        found = [(name, densities(curves)[0]) for name, curves in runs]
        lines = [
            Line(name if len(by) == 1 else f"{name}, {what}", curve, group, strong=True)
            for group, (name, by) in enumerate(found)
            for what, curve in by.items()
        ]
    else:
        lines = [Line(name, curve, group) for group, (name, curve) in enumerate(layers.items())]
        lines += [Line(what, curve, -1, strong=True) for what, curve in totals.items()]
    return Chart(
        "density",
        "Density over epochs" + ("" if len(runs) > 1 else ": how much is kept of each layer"),
        "density (% of the weights kept)",
        "Flat lines: what is kept was settled before training. Falling lines: weights are pruned on the way. "
        "A layer far below the others is the one to worry about.",
        tuple(lines),
        percent=True,
        logarithmic=_spread(_finite(line.points for line in lines)) >= 10,
        ordered=len(runs) == 1,
    )


def movement_charts(runs: Sequence[Logged]) -> list[Chart]:
    """Return churn, survival and exploration over epochs, of the runs that have logged them."""
    found = [(name, curves, movements_in(curves)) for name, curves in runs]
    charts = []
    for kind in MOVEMENTS:
        lines: list[Line] = []
        for group, (name, curves, names) in enumerate(found):
            if kind in names:
                total, layers = series(curves, names[kind])
                alone = len(runs) == 1
                lines += [Line(layer, c, i) for i, (layer, c) in enumerate(layers.items())] if alone else []
                lines += [Line("all layers" if alone else name, total, -1 if alone else group, strong=True)]
        if lines:
            title, unit, look = _MOVED[kind]
            unit = f"{unit} (%)"
            charts.append(Chart(kind, title, unit, look, tuple(lines), percent=True, ordered=len(runs) == 1))
    return charts


def _finite(curves: Iterable[Curve]) -> list[float]:
    return [value for curve in curves for value in curve.values() if math.isfinite(value)]


def _spread(values: Sequence[float]) -> float:
    """Return how many times the smallest value the largest is; 1 where some are zero: they have no logarithm.

    >>> _spread([0.01, 0.5]), _spread([0.0, 0.5])
    (50.0, 1.0)
    """
    return max(values) / min(values) if values and min(values) > 0 else 1.0
