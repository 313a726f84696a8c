"""What is said of a net at the start of its training."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_sparse.reporting.layers import render_table

__all__ = ["Diagnosis", "LayerStart", "Spectrum", "named"]

NEAR = 1.25
"""A first loss is called near log(classes), what a guess costs, within this factor."""
SHOWN = 3
"""So many names are written out."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the input-output Jacobian.

    Attributes:
        values: For each input that was looked at, its singular values, the largest first.
        outputs: Number of outputs of the net.
        inputs: Number of entries of one input.
        reached: How many outputs depend on at least one entry of at least one input.
        statistics: ``"running"`` or ``"batch"``: which ones layers of batch normalisation used; "" if there
            are no such layers.
        dtype: The type that was computed in.
    """

    values: tuple[tuple[float, ...], ...]
    outputs: int
    inputs: int
    reached: int
    statistics: str
    dtype: str

    @property
    def mean(self) -> tuple[float, ...]:
        """Each singular value in the mean over the inputs."""
        return tuple(statistics.fmean(column) for column in zip(*self.values, strict=True))

    @property
    def largest(self) -> float:
        """The largest singular value, in the mean over the inputs."""
        return self.mean[0]

    @property
    def is_zero(self) -> bool:
        """Whether nothing of any input reaches any output: every entry of every Jacobian is exactly zero."""
        return all(value == 0 for values in self.values for value in values)


@dataclass(frozen=True)
class LayerStart:
    """One weight, and what its layer does to signals.

    Attributes:
        name: Of the layer.
        shape: Of the whole weight.
        weights: Number of its entries.
        kept: How many of them are trained.
        is_dense: Whether the layer multiplies by a dense matrix all the same: none of it is cut off.
        output: Standard deviation of the layer's output; ``None`` where it was not called, or not watched.
        gradient: Standard deviation of the loss's gradient with respect to that output.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    is_dense: bool = False
    output: float | None = None
    gradient: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """A net at the start of its training; prints as a table, after three lines that say whether it can learn.

    Attributes:
        spectrum: Of the input-output Jacobian.
        layers: The linear and convolutional weights, and all others that are sparse, in the net's order.
        loss: Of the first batch, as training sees it; ``None`` where no loss was given.
        classes: Number of classes, where the net returns one number for each of several; else ``None``.
        source: What the inputs are, in words.
    """

    spectrum: Spectrum
    layers: tuple[LayerStart, ...]
    loss: float | None
    classes: int | None
    source: str

    @property
    def connected(self) -> bool:
        """Whether anything of the inputs reaches the outputs."""
        return not self.spectrum.is_zero

    @property
    def empty(self) -> tuple[str, ...]:
        """Layers of which nothing is kept, and which have no dense part that would take its place."""
        return tuple(layer.name for layer in self.layers if not layer.kept and not layer.is_dense)

    @property
    def kept(self) -> int:
        """Weights kept in all layers together."""
        return sum(layer.kept for layer in self.layers)

    @property
    def density(self) -> float:
        """Share of all their weights."""
        return self.kept / max(1, sum(layer.weights for layer in self.layers))

    @property
    def loss_ratio(self) -> float | None:
        """The first loss over log(classes)."""
        return None if self.loss is None or not self.classes else self.loss / math.log(self.classes)

    def __str__(self) -> str:
        rows = [_cells(layer) for layer in self.layers]
        total = ("total", "", f"{sum(one.weights for one in self.layers):,}", f"{self.kept:,}", "", "")
        header = ("layer", "shape", "weights", "kept", "output", "gradient")
        return "\n".join(
            [
                _of_connection(self.spectrum),
                _of_layers(self.empty, self.layers),
                _of_loss(self),
                render_table(header, rows, total),
                f"Inputs: {self.source}. output, gradient: standard deviation of the layer's output, and of "
                "the loss's gradient there, in the first batch.",
            ]
        )

    def content(self) -> dict[str, Any]:
        """Return everything as plain values, as `from_content` takes them."""
        return asdict(self)

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> "Diagnosis":
        """Return the diagnosis that `content` was taken of."""
        own = dict(content)
        spectrum = dict(own.pop("spectrum"))
        spectrum["values"] = tuple(tuple(values) for values in spectrum["values"])
        layers = tuple(LayerStart(**{**one, "shape": tuple(one["shape"])}) for one in own.pop("layers"))
        return cls(Spectrum(**spectrum), layers, **own)


def named(names: Sequence[str]) -> str:
    """Return the first names, and how many there are of more.

    >>> named(["a", "b", "c", "d"])
    'a, b, c, ... (4)'
    """
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)})" if len(names) > SHOWN else "")


def _of_connection(spectrum: Spectrum) -> str:
    count = len(spectrum.values)
    where = f"in the mean over {count} inputs" if count > 1 else "of one input"
    used = {
        "running": ", batch normalisation by its running statistics",
        "batch": ", batch normalisation by the statistics of these inputs, held fixed",
    }.get(spectrum.statistics, "")
    if spectrum.is_zero:
        return (
            f"Connected: NO. No output depends on the input: the Jacobian is exactly zero ({where}, "
            f"{spectrum.dtype}{used}). Such a net can only guess."
        )
    reached = f"{spectrum.reached} of {spectrum.outputs} outputs depend on the input"
    values = f"singular values {spectrum.mean[0]:.3g} to {spectrum.mean[-1]:.3g}"
    return f"Connected: yes. {reached}; {values} ({where}, {spectrum.dtype}{used})."


def _of_layers(empty: Sequence[str], layers: Sequence[LayerStart]) -> str:
    if not empty:
        return f"Empty layers: none of {len(layers)}."
    return f"Empty layers: {len(empty)} of {len(layers)}: {named(empty)}."


def _of_loss(diagnosis: Diagnosis) -> str:
    loss, ratio = diagnosis.loss, diagnosis.loss_ratio
    if loss is None:
        return "First loss: not measured, no loss was given."
    if ratio is None:
        return f"First loss: {loss:.4g}."
    guess = f"log({diagnosis.classes}) = {math.log(diagnosis.classes or 2):.3f}, the loss of a guess"
    if not math.isfinite(loss):
        return f"First loss: {loss}, which is no number to learn from; {guess}."
    how = "near" if 1 / NEAR <= ratio <= NEAR else f"{ratio:.2g} times"
    return f"First loss: {loss:.3f}, {how} {guess}."


def _cells(layer: LayerStart) -> tuple[str, ...]:
    shape = " x ".join(map(str, layer.shape))
    scales = ("" if value is None else f"{value:.3g}" for value in (layer.output, layer.gradient))
    return (layer.name, shape, f"{layer.weights:,}", f"{layer.kept:,}", *scales)
