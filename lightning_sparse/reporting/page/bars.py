"""Bars beside names: one or two to each, with their values in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_sparse.reporting.asni.plots import common_prefix
from lightning_sparse.reporting.page.scales import linear, logarithmic, number
from lightning_sparse.reporting.page.svg import element, image, shortened, text

__all__ = ["Bar", "bar_chart"]

WIDTH, NAMES, LETTERS = 440.0, 118.0, 17
MOST = 80
"""So many rows are drawn at most."""


@dataclass(frozen=True)
class Bar:
    """A row: its name, its values (each a bar of its own colour), and words at its end."""

    name: str
    values: tuple[float, ...]
    words: str


def bar_chart(title: str, unit: str, rows: Sequence[Bar], percent: bool = False) -> str:
    """Return rows of horizontal bars as SVG; where values differ by far, their axis is logarithmic.

    Args:
        title: Read out in place of the image.
        unit: Name of the axis.
        rows: From top to bottom; what is beyond the first 80 is left out.
        percent: Whether values are shares, shown in percent.
    """
    shown = rows[:MOST]
    values = [value for row in shown for value in row.values]
    positive = [value for value in values if value > 0]
    is_log = bool(positive) and max(positive) / min(positive) > 50
    scale = (
        logarithmic([min(positive) / 2, max(positive)])
        if is_log
        else linear([0.0, *(positive or [1.0])], 3, zero=True)
    )
    each = max((len(row.values) for row in shown), default=1)
    thick = 9.0 if each > 1 else 13.0
    high = each * thick + 7
    room = 6.6 * max((len(row.words) for row in shown), default=0) + 10
    wide, top = WIDTH - NAMES - room, 6.0
    bottom = top + high * len(shown)
    parts, prefix = list[str](), common_prefix([row.name for row in shown]) if len(shown) > 1 else ""
    for tick in _apart(scale.ticks, wide, percent):
        x = NAMES + wide * scale(tick)
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=top, y2=bottom))
        parts.append(text(number(tick, percent), x, bottom + 16, "middle", class_="tick"))
    for place, row in enumerate(shown):
        y = top + place * high
        name = shortened(row.name.removeprefix(prefix), LETTERS)
        parts.append(text(name, NAMES - 6, y + high / 2 + 1, "end", class_="tick label"))
        for number_of, value in enumerate(row.values):
            length = wide * scale(value) if value > 0 else 0.0
            at = y + number_of * thick + 1
            width = max(length, 1.0 if value > 0 else 0.0)
            parts.append(
                element("rect", class_=f"bar b{number_of}", x=NAMES, y=at, width=width, height=thick - 2)
            )
        end = NAMES + wide + 6
        parts.append(text(row.words, end, y + high / 2 + 1, class_="tick value"))
    parts.append(element("line", class_="axis", x1=NAMES, x2=NAMES, y1=top, y2=bottom))
    axis = f"{unit}{', logarithmic axis' if is_log else ''}"
    parts.append(text(axis, NAMES + wide / 2, bottom + 34, "middle", class_="name"))
    return image(WIDTH, bottom + 42, title, parts)


def _apart(ticks: Sequence[float], wide: float, percent: bool) -> Sequence[float]:
    """Return as many of the ticks as have room for their labels beside each other."""
    most = max(1, int(wide / (7.5 * max((len(number(tick, percent)) for tick in ticks), default=1) + 8)))
    step = -(-len(ticks) // most)
    return ticks[::step] if step else ticks
