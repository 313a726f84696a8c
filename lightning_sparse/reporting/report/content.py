"""What a report says, as plain data: every figure of the page is drawn from this, and so is the JSON file."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from lightning_sparse.reporting.latency import Latency
from lightning_sparse.reporting.runs import Curve

__all__ = [
    "Chart",
    "Cost",
    "Histogram",
    "How",
    "Layer",
    "LeftOut",
    "Line",
    "Picture",
    "Report",
    "RunRow",
    "to_json",
]

How: TypeAlias = Literal["measured", "theory"]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: In the legend.
        points: Value by epoch.
        group: Lines of one group have one colour; what they stand for is the chart's choice.
        dashed: Whether it is the second of a pair, such as training beside validation.
        strong: Whether it is the one to look at first.
    """

    label: str
    points: Curve
    group: int = 0
    dashed: bool = False
    strong: bool = False


@dataclass(frozen=True)
class Chart:
    """Values over epochs.

    Attributes:
        key: Its name in the JSON file.
        title: Above it.
        unit: At the vertical axis.
        look_for: One sentence that says what to look for.
        lines: What is drawn.
        percent: Whether values are shares, shown in percent.
        logarithmic: Whether the vertical axis is.
        ordered: Whether groups are layers in the order of the net, so that many have room.
    """

    key: str
    title: str
    unit: str
    look_for: str
    lines: tuple[Line, ...]
    percent: bool = False
    logarithmic: bool = False
    ordered: bool = False


@dataclass(frozen=True)
class Layer:
    """A sparse layer at the end; counts of units as in `DeadUnits`, ``None`` where a dense part keeps all."""

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    density: float
    stored_as: str
    outputs: int | None = None
    without_inputs: int | None = None
    inputs: int | None = None
    unread: int | None = None


@dataclass(frozen=True)
class Histogram:
    """How the kept weights of a layer are distributed; ``centroids`` are ASNI's c- and c+, if there are."""

    layer: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    centroids: tuple[float, ...] = ()


@dataclass(frozen=True)
class Picture:
    """Connections as an image.

    Attributes:
        layer: Which layer.
        title: What is shown.
        look_for: One sentence that says what to look for.
        pixels: Row by row, from 0 to ``largest``; -1 is no place of the weight, but a gap between filters.
        largest: Value of the strongest colour.
    """

    layer: str
    title: str
    look_for: str
    pixels: tuple[tuple[float, ...], ...]
    largest: float


@dataclass(frozen=True)
class Cost:
    """One cost of the dense net and of this one; ``None`` where it is not known."""

    what: str
    unit: str
    dense: float | None
    dense_how: How
    sparse: float | None
    sparse_how: How
    note: str = ""


@dataclass(frozen=True)
class RunRow:
    """A run in the table of runs; what it did not log or keep is ``None``."""

    name: str
    callbacks: str
    epochs: int
    density: float | None
    kept: int | None
    best_accuracy: float | None
    last_accuracy: float | None
    last_loss: float | None


@dataclass(frozen=True)
class LeftOut:
    """What the report lacks, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Report:
    """All of it."""

    title: str
    facts: Mapping[str, str]
    metrics: tuple[Chart, ...] = ()
    density: Chart | None = None
    movements: tuple[Chart, ...] = ()
    layers: tuple[Layer, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    pictures: tuple[Picture, ...] = ()
    costs: tuple[Cost, ...] = ()
    latency: tuple[Latency, ...] = ()
    runs: tuple[RunRow, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def to_json(report: Report) -> str:
    """Return a report as JSON: the fields of `Report` by name; NaN and infinities become ``null``."""
    return json.dumps(_plain(asdict(report)), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
