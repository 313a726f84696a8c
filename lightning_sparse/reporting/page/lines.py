"""Charts of values over epochs."""

import math
from collections.abc import Sequence
from html import escape

from lightning_sparse.reporting.page.scales import linear, logarithmic
from lightning_sparse.reporting.page.svg import COLOURS, Frame, element, image, ramp
from lightning_sparse.reporting.report.content import Chart, Line
from lightning_sparse.reporting.runs import Curve

__all__ = ["legend", "line_chart"]

WIDTH, HEIGHT = 440.0, 270.0
DOTTED = 25
"""Lines of so few points have a dot at each, if they are few themselves."""
POINTS = 1200
"""So many points a chart has at most, or a page of many layers over many epochs would be large."""
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 2")


def line_chart(chart: Chart) -> str:
    """Return a chart as SVG: what is not finite leaves a gap, what must be looked at first lies on top."""
    values = [value for line in chart.lines for value in line.points.values() if math.isfinite(value)]
    epochs = [float(epoch) for line in chart.lines for epoch in line.points]
    if chart.logarithmic and all(value > 0 for value in values) and values:
        y = logarithmic(values)
    else:
        y = linear(values)
    frame = Frame(WIDTH, HEIGHT, linear(epochs, 6, whole=True), y)
    order = sorted(chart.lines, key=lambda line: line.strong)
    most = max(20, POINTS // max(1, len(order)))
    dotted = len(order) <= COLOURS + 1
    lines = [_line(frame, line, most, dotted, *_look(chart, line)) for line in order]
    axes = frame.axes("epoch (from 0)", chart.unit, chart.percent)
    return image(WIDTH, HEIGHT, chart.title, [*axes, *lines])


def legend(chart: Chart) -> str:
    """Return what each line stands for, as HTML; of very many layers the first and the last."""
    lines = [line for line in chart.lines if line.group >= 0]
    together = [line for line in chart.lines if line.group < 0]
    if chart.ordered and len(lines) > COLOURS:
        lines = [lines[0], lines[len(lines) // 2], lines[-1]]
    entries = [_entry(line, *_look(chart, line)) for line in [*together, *lines]]
    if len(lines) < sum(line.group >= 0 for line in chart.lines):
        entries.append("<li>and the layers between them</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>' if entries else ""


def _look(chart: Chart, line: Line) -> tuple[str, str, str]:
    """Return class, dashes and colour of a line; a colour only where the style has none."""
    layers = 1 + max((one.group for one in chart.lines), default=0)
    width = " strong" if line.strong else ""
    if line.group < 0:
        return f"line together{width}", "", ""
    if chart.ordered and layers > COLOURS:
        return f"line many{width}", "", ramp(line.group, layers)
    in_pairs = any(one.dashed for one in chart.lines)
    dashes = "" if in_pairs else DASHES[line.group % COLOURS]
    dashes = "5 4" if line.dashed else dashes
    return f"line c{line.group % COLOURS}{width}", dashes, ""


def _line(frame: Frame, line: Line, most: int, dotted: bool, style: str, dashes: str, colour: str) -> str:
    drawn, parts = {"style": f"stroke:{colour}"} if colour else {}, []
    for piece in _pieces(line.points):
        points = _thinned([frame.at(epoch, value) for epoch, value in piece], most)
        way = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        if len(points) > 1:
            dashed = {"stroke_dasharray": dashes} if dashes else {}
            parts.append(element("path", d=way, class_=style, **dashed, **drawn))
        if len(points) == 1 or (len(line.points) <= DOTTED and (dotted or line.strong)):
            filled = {"style": f"fill:{colour}"} if colour else {}
            dots = style.replace("line", "dot", 1)
            parts += [element("circle", cx=x, cy=y, r=2.2, class_=dots, **filled) for x, y in points]
    return "".join(parts)


def _pieces(points: Curve) -> Sequence[list[tuple[int, float]]]:
    """Return the pieces of a curve between values that are not finite."""
    pieces: list[list[tuple[int, float]]] = [[]]
    for epoch, value in sorted(points.items()):
        if math.isfinite(value):
            pieces[-1].append((epoch, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _thinned(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Leave out points within flat stretches, and then as many as it takes, but never an end or a peak.

    >>> [x for x, _ in _thinned([(i, 9 if i == 50 else 1) for i in range(100)], 10)]
    [0, 49, 50, 51, 99]
    """
    if len(points) <= DOTTED:
        return points
    heights = [round(y, 1) for _, y in points]
    inner = range(1, len(points) - 1)
    bends = [i for i in inner if not heights[i - 1] == heights[i] == heights[i + 1]]
    step = -(-2 * len(bends) // most) or 1
    kept = [0]
    for start in range(0, len(bends), max(1, step)):
        few = bends[start : start + step]
        kept += sorted({min(few, key=lambda i: points[i][1]), max(few, key=lambda i: points[i][1])})
    return [points[i] for i in [*kept, len(points) - 1]]


def _entry(line: Line, style: str, dashes: str, colour: str) -> str:
    dashed = {"stroke_dasharray": dashes} if dashes else {}
    drawn = {"style": f"stroke:{colour}"} if colour else {}
    stroke = element("path", d="M1 5H27", class_=style, **dashed, **drawn)
    sample = element("svg", stroke, viewBox="0 0 28 10", class_="sample", aria_hidden="true")
    return f"<li>{sample}{escape(line.label)}</li>"
