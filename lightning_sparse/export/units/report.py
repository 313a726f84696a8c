"""What was cut of a net, what was not, and why."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from lightning_sparse.export.units.cutting import Cut
from lightning_sparse.export.units.flow import Mixer
from lightning_sparse.export.units.values import Value
from lightning_sparse.selection import layer_name, plain_name

__all__ = ["KeptUnits", "SmallerLayer", "SmallerNet", "kept_units", "smaller_layers"]

TIED = "not needed here, but tied by a sum or a depthwise convolution to units that are"
LAST = "the last of a layer, which cannot be without any"
SHOWN = 4
"""Layers named in a line; `SmallerNet.kept_because` has all."""


@dataclass(frozen=True)
class SmallerLayer:
    """Sizes of a linear or convolutional layer, before and after.

    Attributes:
        name: Its name in the module.
        units_before: Neurons or output channels.
        units: Those that are left.
        inputs_before: Inputs, or input channels.
        inputs: Those that are left.
    """

    name: str
    units_before: int
    units: int
    inputs_before: int
    inputs: int


@dataclass(frozen=True)
class KeptUnits:
    """Why units, or a whole layer, were not cut.

    Attributes:
        layer: Name of the layer; "" for the whole net.
        units: How many; ``None`` for a layer that is left as it is.
        reason: In words.
    """

    layer: str
    units: int | None
    reason: str


@dataclass(frozen=True)
class SmallerNet:
    """A net without the units that are dead or constant.

    Attributes:
        module: A copy of the net in eval mode on the CPU, of the same classes, with smaller layers.
        layers: Their sizes.
        kept_because: What could not be cut, and why.
        parameters_before: Numbers that the net's parameters held.
        parameters: Those that they hold now.
        difference: Largest difference of outputs that was measured, relative to the largest output.
    """

    module: nn.Module
    layers: tuple[SmallerLayer, ...]
    kept_because: tuple[KeptUnits, ...]
    parameters_before: int
    parameters: int
    difference: float

    @property
    def units_before(self) -> int:
        """Units of all layers, those of the last one included."""
        return sum(layer.units_before for layer in self.layers)

    @property
    def units(self) -> int:
        """Units that are left."""
        return sum(layer.units for layer in self.layers)

    def lines(self) -> list[str]:
        """Return all of this as lines of text."""
        heading = ("layer", "units", "left", "inputs", "left")
        rows = [(x.name, x.units_before, x.units, x.inputs_before, x.inputs) for x in self.layers]
        total = ("total", self.units_before, self.units, "", "")
        cut = self.units_before - self.units
        return [
            *_table([heading, *rows, total]),
            f"Units cut: {cut:,} of {self.units_before:,}{_share(cut, self.units_before)}. "
            f"Parameters: {self.parameters_before:,} before, {self.parameters:,} now"
            f"{_share(self.parameters, self.parameters_before)}.",
            f"Largest difference of outputs, measured: {self.difference:.1e} of the largest output.",
            *(["Not cut, and why:"] if self.kept_because else []),
            *(f"  {line}" for line in _by_reason(self.kept_because)),
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def smaller_layers(cut: Cut, prefix: str) -> Iterator[SmallerLayer]:
    """Yield the sizes of all layers through which units were followed, in the order in which they run."""
    for mixer in cut.flow.mixers:
        made, before = cut.slots(mixer.made), len(mixer.folded)
        inputs = before if mixer.given is None else int(cut.slots(mixer.given).sum())
        yield SmallerLayer(plain_name(prefix + mixer.layer), len(made), int(made.sum()), before, inputs)


def kept_units(cut: Cut, prefix: str) -> Iterator[KeptUnits]:
    """Yield why units that are dead or constant are still there, and what was left as it was."""
    for mixer in cut.flow.mixers:
        yield from _not_needed(cut, mixer, prefix)
    for mixer in cut.flow.mixers:
        if mixer.given is not None and bool(mixer.blocked.any()):
            reader = plain_name(prefix + mixer.layer)
            reason = f"constant, but {reader!r}, which reads them, {mixer.why_blocked}"
            yield from _by_layer(cut, mixer, mixer.given, reason, prefix)
    for name, reason in cut.flow.left.items():
        if cut.flow.trace.tensors[name].dim() > 1:
            yield KeptUnits(plain_name(prefix + layer_name(name)), None, reason)


def _not_needed(cut: Cut, mixer: Mixer, prefix: str) -> Iterator[KeptUnits]:
    reasons: Counter[str] = Counter()
    for unit, needed in zip(mixer.made.ids.tolist(), mixer.made.needed.tolist(), strict=True):
        if reason := cut.flow.units.held.get(unit):
            reasons[reason] += 1
        elif bool(cut.kept[unit]) and not needed:
            reasons[LAST if unit in cut.last else TIED] += 1
    for reason, count in reasons.items():
        yield KeptUnits(plain_name(prefix + mixer.layer), count, reason)


def _by_layer(cut: Cut, mixer: Mixer, given: Value, reason: str, prefix: str) -> Iterator[KeptUnits]:
    units = set(given.ids[mixer.blocked].tolist())
    layers = Counter(cut.flow.units.layer_of(unit) for unit in units)
    for layer, count in layers.items():
        yield KeptUnits(plain_name(prefix + layer), count, reason)


def _by_reason(kept: Iterable[KeptUnits]) -> Iterator[str]:
    """Yield a line for each reason, with the first of the layers that it is about."""
    groups: dict[str, list[KeptUnits]] = {}
    for each in kept:
        groups.setdefault(each.reason, []).append(each)
    for reason, these in groups.items():
        layers = [each.layer or "the whole net" for each in these]
        more = f" and {len(these) - SHOWN} more" if len(these) > SHOWN else ""
        units = sum(each.units or 0 for each in these)
        count = f"{units:,} unit{'s' * (units != 1)} of " if units else ""
        yield f"{count}{', '.join(layers[:SHOWN])}{more}: {reason}"


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if whole else ""


def _table(rows: Iterable[tuple[object, ...]]) -> list[str]:
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
