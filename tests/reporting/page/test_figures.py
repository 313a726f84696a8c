"""Figures: what is drawn is where it belongs, whatever is not finite leaves a gap, and all text is text."""

import io
import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lightning_sparse.reporting.page.bars import Bar, bar_chart
from lightning_sparse.reporting.page.histogram import histogram
from lightning_sparse.reporting.page.lines import legend, line_chart
from lightning_sparse.reporting.page.picture import picture, png
from lightning_sparse.reporting.report.content import Chart, Histogram, Line, Picture

NAN = float("nan")


def chart(*lines, **options):
    return Chart("key", "Title <b>&", "unit \"'", "look", tuple(lines), **options)


def paths(svg):
    return [path.get("d") for path in ElementTree.fromstring(svg).iter("path")]


def test_a_line_goes_through_its_points():
    (way,) = paths(line_chart(chart(Line("a", {0: 0.0, 1: 1.0, 2: 0.5}))))
    points = [tuple(map(float, pair.split())) for pair in way[1:].split("L")]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(2 * (y0 - y2), abs=0.2)  # upwards is up


def test_what_is_not_finite_leaves_a_gap():
    found = paths(
        line_chart(chart(Line("a", {0: 1.0, 1: 2.0, 2: NAN, 3: 1.0, 4: float("inf"), 5: 1.0, 6: 2.0})))
    )
    assert len(found) == 2
    assert "nan" not in "".join(found)


@pytest.mark.parametrize("points", [{}, {0: NAN}, {3: 0.5}, {0: 0.0, 1: 0.0}, {0: 1e-30, 1: 1e30}])
@pytest.mark.parametrize("logarithmic", [True, False])
def test_charts_of_nearly_nothing(points, logarithmic):
    svg = line_chart(chart(Line("a", points), logarithmic=logarithmic))
    assert "nan" not in svg
    assert len(list(ElementTree.fromstring(svg).iter("circle"))) == sum(map(math.isfinite, points.values()))


def test_text_is_escaped():
    nasty = "</svg><script>alert('1')</script>"
    svg = line_chart(chart(Line(nasty, {0: 1.0})))
    assert ElementTree.fromstring(svg).find("title").text == "Title <b>&"
    assert nasty not in legend(chart(Line(nasty, {0: 1.0})))
    bars = bar_chart(nasty, nasty, [Bar(nasty, (1.0,), nasty)])
    assert "<script" not in bars
    assert nasty not in picture(Picture("a", nasty, nasty, ((1.0,),), 1.0))


def test_lines_differ_by_more_than_colour():
    lines = [Line(f"layer {i}", {0: 1.0, 1: 2.0}, i) for i in range(7)]
    svg = line_chart(chart(*lines, ordered=True))
    dashes = [path.get("stroke-dasharray") for path in ElementTree.fromstring(svg).iter("path")]
    assert len(set(dashes)) == 7


def test_many_layers_have_a_short_legend():
    lines = [Line(f"layer {i}", {0: 1.0, 1: 2.0}, i) for i in range(50)]
    words = legend(chart(*lines, Line("all layers", {0: 1.0}, -1), ordered=True))
    assert re.findall(r"layer \d+|all layers", words) == ["all layers", "layer 0", "layer 25", "layer 49"]
    assert len(paths(line_chart(chart(*lines, ordered=True)))) == 50


def test_bars_are_as_long_as_their_values():
    svg = bar_chart("t", "u", [Bar("a", (10.0, 5.0), ""), Bar("b", (0.0, 2.5), "")])
    widths = [float(rect.get("width")) for rect in ElementTree.fromstring(svg).iter("rect")]
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.02)
    assert widths[2] == 0
    assert widths[3] == pytest.approx(widths[0] / 4, abs=0.02)


def test_labels_of_bars_do_not_overlap_or_leave_the_image():
    rows = [Bar(f"net.{'very' * 9}.long.{i}", (10.0**i,), f"{10**i:,} (12.3%)") for i in range(9)]
    root = ElementTree.fromstring(bar_chart("t", "u", rows))
    width, height = (float(size) for size in root.get("viewBox").split()[2:])
    spans = {}
    for text in root.iter("text"):
        long, x, y = 6.6 * len(text.text), float(text.get("x")), float(text.get("y"))
        start = {"start": x, "middle": x - long / 2, "end": x - long}[text.get("text-anchor")]
        assert start >= -1, text.text
        assert start + long <= width + 1, text.text
        assert 0 < y < height
        spans.setdefault(y, []).append((start, start + long))
    for line in spans.values():
        line.sort()
        assert all(end <= start + 1 for (_, end), (start, _) in pairwise(line)), line


def test_a_histogram_has_a_line_at_each_centroid():
    root = ElementTree.fromstring(histogram(Histogram("a", (-1.0, 0.0, 1.0), (3, 1), (0.0, 1.0))))
    marks = [float(line.get("x1")) for line in root.iter("line") if line.get("class") == "mark"]
    ticks = {t.text: float(t.get("x")) for t in root.iter("text") if t.get("text-anchor") == "middle"}
    assert marks == pytest.approx([ticks["0"], ticks["1"]], abs=0.02)


def test_a_png_holds_what_was_put_in():
    codes = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    palette = np.array([[1, 2, 3, 0], [40, 50, 60, 128], [7, 8, 9, 255]], dtype=np.uint8)
    pixels = np.asarray(Image.open(io.BytesIO(png(codes, palette))).convert("RGBA"))
    assert (pixels == palette[codes]).all()
