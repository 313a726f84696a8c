"""From the material of runs to the content of a report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_sparse.reporting.dead_units import count_dead_units
from lightning_sparse.reporting.latency import Latency
from lightning_sparse.reporting.names import centroids_in, densities, metrics_in
from lightning_sparse.reporting.report.charts import density_chart, metric_charts, movement_charts
from lightning_sparse.reporting.report.content import (
    Cost,
    Histogram,
    Layer,
    LeftOut,
    Picture,
    Report,
    RunRow,
)
from lightning_sparse.reporting.report.costs import costs_of_supports
from lightning_sparse.reporting.report.pictures import first_layers, histogram_of, pictures_of
from lightning_sparse.reporting.report.supports import Support
from lightning_sparse.reporting.runs import Curve

__all__ = ["Material", "build_report"]

HISTOGRAMS = 12
"""So many layers have a histogram at most."""

_MISSING = {
    "accuracy": "no logged name ends or begins with train or val, and says acc or accuracy.",
    "loss": "no logged name says loss, alone or with train or val.",
    "density": "nothing was logged under `sparsity/...`: add SparsityMonitor or a callback that makes nets "
    "sparse.",
    "movements": "no callback that moves connections (RigL, SET) has logged any.",
}


@dataclass(frozen=True)
class Material:
    """What a report of one run is made of.

    Attributes:
        name: Of the run.
        curves: What it logged, by name.
        facts: What was trained.
        callbacks: Its callbacks, for the table of runs.
        supports: Its sparse layers at the end.
        why_no_supports: Why there are none.
        costs: What is known of its costs.
        latency: What was measured.
        left_out: What cannot be said, beside what the content shows to be missing.
    """

    name: str
    curves: Mapping[str, Curve]
    facts: Mapping[str, str]
    callbacks: str = ""
    supports: Sequence[Support] = ()
    why_no_supports: str = ""
    costs: Sequence[Cost] = ()
    latency: Sequence[Latency] = ()
    left_out: Sequence[LeftOut] = field(default=())


def build_report(first: Material, others: Sequence[Material] = ()) -> Report:
    """Return the content of a report of one run, with the curves of others beside its own."""
    runs = _named([first, *others])
    logged = [(name, one.curves) for name, one in runs]
    metrics, density, movements = metric_charts(logged), density_chart(logged), movement_charts(logged)
    histograms, without = _histograms(first)
    there = {chart.key for chart in metrics} | {"density" if density else ""}
    missing = [LeftOut(key, _MISSING[key]) for key in ("accuracy", "loss", "density") if key not in there]
    if not movements:
        missing.append(LeftOut("churn, survived, explored", _MISSING["movements"]))
    elif all(chart.key != "explored" for chart in movements):
        missing.append(LeftOut("explored", "it is logged of masked weights only."))
    if first.supports and not any(one.prunes for one in first.supports):
        missing.append(LeftOut("dead units", "the layers have a fixed dense part, which reaches every unit."))
    if not first.supports:
        parts = "kept weights, dead units, histograms and masks"
        missing.append(LeftOut(parts, first.why_no_supports))
    return Report(
        title=first.name,
        facts=first.facts,
        metrics=tuple(metrics),
        density=density,
        movements=tuple(movements),
        layers=tuple(map(_layer, first.supports)),
        histograms=tuple(histograms),
        pictures=tuple(_pictures(first.supports)),
        costs=(*costs_of_supports(first.supports), *first.costs),
        latency=tuple(first.latency),
        runs=tuple(_row(name, one) for name, one in runs) if others else (),
        left_out=(*first.left_out, *missing, *without),
    )


def _layer(one: Support) -> Layer:
    density = one.kept / one.weights if one.weights else 1.0
    numbers = (one.name, one.shape, one.weights, one.kept, density, one.stored_as)
    if not one.prunes or len(one.shape) < 2:
        return Layer(*numbers)
    dead = count_dead_units(one.shape, one.positions)
    return Layer(*numbers, dead.outputs, dead.without_inputs, dead.inputs, dead.unread)


def _histograms(material: Material) -> tuple[list[Histogram], list[LeftOut]]:
    centroids = centroids_in(material.curves)
    found, left_out = list[Histogram](), list[LeftOut]()
    for one in material.supports:
        histogram = histogram_of(one, centroids.get(one.name))
        if isinstance(histogram, Histogram):
            found.append(histogram)
        else:
            left_out.append(LeftOut(f"the histogram of {one.name}", f"{histogram}."))
    if len(found) > HISTOGRAMS:
        more = f"the histograms of {len(found) - HISTOGRAMS} more layers"
        left_out.append(LeftOut(more, f"the first {HISTOGRAMS} are shown, to keep the page small."))
    return found[:HISTOGRAMS], left_out


def _pictures(supports: Sequence[Support]) -> list[Picture]:
    layers = first_layers(supports)
    return [picture for place, one in enumerate(layers) for picture in pictures_of(one, first=place == 0)]


def _row(name: str, one: Material) -> RunRow:
    metrics, totals = metrics_in(one.curves), densities(one.curves)[0]
    accuracy = metrics.get("accuracy", {})
    accuracy_curve = accuracy.get("val", accuracy.get("train", {}))
    loss = metrics.get("loss", {})
    loss_curve = loss.get("val", loss.get("train", {}))
    epochs = max((epoch for curve in one.curves.values() for epoch in curve), default=-1) + 1
    kept = sum(support.kept for support in one.supports) if one.supports else None
    weights = sum(support.weights for support in one.supports)
    density = kept / weights if kept is not None and weights else _last(totals.get("all layers", {}))
    best = max((value for value in accuracy_curve.values() if math.isfinite(value)), default=None)
    return RunRow(name, one.callbacks, epochs, density, kept, best, _last(accuracy_curve), _last(loss_curve))


def _last(curve: Curve) -> float | None:
    return curve[max(curve)] if curve else None


def _named(runs: Sequence[Material]) -> list[tuple[str, Material]]:
    """Return the runs with names that tell them apart."""
    names = [one.name for one in runs]
    short = [name.rpartition("/version_")[0] or name for name in names]
    names = short if len(set(short)) == len(short) else names
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names, 1)]
    return list(zip(names, runs, strict=True))
