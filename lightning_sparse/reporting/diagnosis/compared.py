"""Several nets at their start, side by side: which can learn, as lines, as a table, and as files."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_sparse.files.writing import whole_file
from lightning_sparse.reporting.diagnosis.content import NEAR, SHOWN, Diagnosis
from lightning_sparse.reporting.layers import render_table

__all__ = ["Seen", "compared", "percent", "write_tables"]

HEADER = (
    "method",
    "density",
    "kept",
    "connected",
    "largest",
    "smallest",
    "empty layers",
    "first loss",
    "/ guess",
)
LEGEND = """\
connected: outputs that depend on the input, of all. largest, smallest: singular values of the Jacobian, in
the mean over the inputs. first loss: of the first batch; / guess: over log(classes), the loss of a guess."""


@dataclass(frozen=True)
class Seen:
    """One net.

    Args:
        method: What makes it sparse.
        density: Share of its weights that was asked for; ``None``: as the recipe says.
        found: What was seen; ``None`` if the method could not make it sparse.
        error: Why not.
    """

    method: str
    density: float | None
    found: Diagnosis | None
    error: str = ""

    @property
    def name(self) -> str:
        """As lines speak of it."""
        return self.method if self.density is None else f"{self.method} at {percent(self.density)}"


def percent(density: float) -> str:
    """Return a density as people write it.

    >>> percent(0.001), percent(0.00025), percent(1.0)
    ('0.1%', '0.025%', '100%')
    """
    return f"{100 * density:.6g}%"


def compared(seen: Sequence[Seen]) -> str:
    """Return three lines that say which nets can learn, and a table with a row for each."""
    there = [(one, one.found) for one in seen if one.found is not None]
    found = [diagnosis for _, diagnosis in there]
    lost = [one.name for one, diagnosis in there if not diagnosis.connected]
    empty = [f"{one.name} ({len(diagnosis.empty)})" for one, diagnosis in there if diagnosis.empty]
    rated = [(one, diagnosis.loss_ratio) for one, diagnosis in there if diagnosis.loss_ratio is not None]
    far = [f"{one.name} ({ratio:.2g} times)" for one, ratio in rated if not 1 / NEAR <= ratio <= NEAR]
    lines = [
        f"Connected: {len(found) - len(lost)} of {len(found)} nets"
        + (f". NOT connected, the Jacobian is exactly zero: {_some(lost)}." if lost else "."),
        f"Empty layers: in {len(empty)} of {len(found)} nets" + (f": {_some(empty)}." if empty else "."),
    ]
    if rated:
        classes = " and ".join(sorted({f"log({one.classes})" for one in found if one.classes}))
        lines.append(
            f"First loss: near that of a guess, {classes}, in {len(rated) - len(far)} of {len(rated)} nets"
            + (f". Not near: {_some(far)}." if far else ".")
        )
    failed = [f"Failed: {one.name}: {one.error}" for one in seen if one.found is None]
    if not found:
        return "\n".join(failed)
    table = [render_table(HEADER, [_cells(one) for one in seen]), LEGEND]
    sources = dict.fromkeys(_inputs_of(diagnosis) for diagnosis in found)
    return "\n".join([*lines, *table, *sources, *failed])


def write_tables(seen: Sequence[Seen], out: Path) -> list[Path]:
    """Write ``start.csv``, ``spectrum.csv`` and ``layers.csv`` into a folder."""
    there = [(one, one.found) for one in seen if one.found is not None]
    start = ("method", "density", "kept", "weights", "connected", "reached", "outputs", "largest", "smallest")
    return [
        _write(out / "start.csv", (*start, "empty", "loss", "classes", "error"), map(_start, seen)),
        _write(
            out / "spectrum.csv",
            ("method", "density", "number", "mean", "least", "most", "inputs", "batch_norm", "dtype"),
            (row for one, found in there for row in _spectrum(one, found)),
        ),
        _write(
            out / "layers.csv",
            ("method", "density", "layer", "weights", "kept", "output", "gradient"),
            (
                (one.method, one.density, layer.name, layer.weights, layer.kept, layer.output, layer.gradient)
                for one, found in there
                for layer in found.layers
            ),
        ),
    ]


def _start(one: Seen) -> tuple[Any, ...]:
    found = one.found
    if found is None:
        return (one.method, one.density, *[None] * 10, one.error)
    spectrum = found.spectrum
    weights = sum(layer.weights for layer in found.layers)
    return (
        *(one.method, one.density, found.kept, weights, found.connected, spectrum.reached, spectrum.outputs),
        *(spectrum.mean[0], spectrum.mean[-1], " ".join(found.empty), found.loss, found.classes, ""),
    )


def _spectrum(one: Seen, found: Diagnosis) -> Iterable[tuple[Any, ...]]:
    spectrum = found.spectrum
    about = (len(spectrum.values), spectrum.statistics, spectrum.dtype)
    for number, values in enumerate(zip(*spectrum.values, strict=True), 1):
        mean = math.fsum(values) / len(values)
        yield one.method, one.density, number, mean, min(values), max(values), *about


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    with (
        whole_file(path, ".csv") as (unfinished, _),
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _cells(one: Seen) -> tuple[str, ...]:
    density = "" if one.density is None else percent(one.density)
    found = one.found
    if found is None:
        return (one.method, density, "", "failed", *[""] * 5)
    spectrum = found.spectrum
    loss = "" if found.loss is None else f"{found.loss:.4g}"
    return (
        *(one.method, density, f"{found.kept:,}", f"{spectrum.reached} of {spectrum.outputs}"),
        *(_number(spectrum.mean[0]), _number(spectrum.mean[-1]), str(len(found.empty))),
        *(loss, "" if found.loss_ratio is None else f"{found.loss_ratio:.2f}"),
    )


def _number(value: float) -> str:
    return f"{value:.3g}"


def _inputs_of(found: Diagnosis) -> str:
    norm = {"running": "its running statistics", "batch": "those of these inputs, held fixed"}
    said = norm.get(found.spectrum.statistics)
    return f"Inputs: {found.source}; {found.spectrum.dtype}" + (
        f"; batch normalisation by {said}." if said else "."
    )


def _some(names: Sequence[str], most: int = 2 * SHOWN) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")
