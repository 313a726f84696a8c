"""From values to places, and where to put ticks so that a reader can count."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scale", "linear", "logarithmic", "number"]


@dataclass(frozen=True)
class Scale:
    """An axis: where values lie, and its ticks.

    Attributes:
        low: Value at the start of the axis.
        high: Value at its end.
        ticks: Values with a label, ascending, within both.
        is_log: Whether equal distances are equal factors.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value, 0 at the start and 1 at the end of the axis."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear(values: Sequence[float], ticks: int = 5, whole: bool = False, zero: bool = False) -> Scale:
    """Return an axis for these values with about so many ticks at round numbers.

    Args:
        values: What is to be shown; finite.
        ticks: About so many.
        whole: Whether only whole numbers have ticks, as of epochs.
        zero: Whether the axis begins at zero.

    >>> linear([0.12, 0.98]).ticks
    (0.2, 0.4, 0.6, 0.8, 1.0)
    >>> linear([0, 3], whole=True).ticks
    (0.0, 1.0, 2.0, 3.0)
    >>> linear([-0.9, 0.9], 4).ticks  # no fewer than three, or nobody could read a value
    (-0.5, 0.0, 0.5)
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(low, 0.0) if zero else low
    if high - low < 1e-8 * max(abs(high), abs(low), 1e-300):
        room = 0.5 if whole else (abs(high) * 0.1 or 0.5)
        low, high = (0.0, high * 1.1 or 1.0) if zero else (low - room, high + room)
    elif not whole:
        room = 0.04 * (high - low)
        low, high = (low if zero and low == 0 else low - room), high + room
    for wanted in (ticks, 2 * ticks, 3 * ticks):
        step = _step((high - low) / max(1, wanted))
        step = max(1.0, round(step)) if whole else step
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first >= 2:
            break
    return Scale(low, high, tuple(_clean(i * step) for i in range(first, last + 1)))


def logarithmic(values: Sequence[float], ticks: int = 6) -> Scale:
    """Return a logarithmic axis for these values, which are greater than zero.

    >>> logarithmic([0.01, 1.0]).ticks
    (0.01, 0.03, 0.1, 0.3, 1.0)
    >>> logarithmic([0.03, 0.4]).ticks
    (0.05, 0.1, 0.2)
    """
    low, high = min(values), max(values)
    room = max(1.03, (high / low) ** 0.04)
    low, high = low / room, high * room
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [_clean(one * 10.0**decade) for decade in decades for one in steps]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= ticks:
            return Scale(low, high, tuple(found), is_log=True)
    return Scale(low, high, tuple(found[:: math.ceil(len(found) / ticks)]), is_log=True)


def number(value: float, percent: bool = False) -> str:
    """Return a number as ticks and tables show it: as short as it can be.

    >>> [number(value) for value in (0, 0.25, 1500, 2_000_000, 0.00002, -3)]
    ['0', '0.25', '1.5k', '2M', '2e-05', '-3']
    >>> number(0.005, percent=True), number(1, percent=True)
    ('0.5%', '100%')
    """
    if percent:
        return f"{number(_clean(100 * value))}%"
    if value < 0:
        return f"-{number(-value)}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}" if value < 1e15 else f"{value:.2g}"
    return f"{value:.3g}"


def _step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, ... times a power of ten that is no less."""
    size = 10.0 ** math.floor(math.log10(least))
    return next(one * size for one in (1, 2, 5, 10) if one * size >= least * (1 - 1e-9))


def _clean(value: float) -> float:
    """Return a number without the digits that sums of floats leave behind."""
    return float(f"{value:.13g}")
