"""How the kept weights of one layer are distributed."""

from lightning_sparse.reporting.page.scales import linear
from lightning_sparse.reporting.page.svg import Frame, element, image
from lightning_sparse.reporting.report.content import Histogram

__all__ = ["histogram"]

WIDTH, HEIGHT = 300.0, 190.0


def histogram(shown: Histogram) -> str:
    """Return a histogram as SVG, with a dashed line at each centroid."""
    x = linear([*shown.edges, *shown.centroids], 4)
    frame = Frame(WIDTH, HEIGHT, x, linear([0.0, *map(float, shown.counts)], 4, zero=True))
    parts = frame.axes("weight", "number of weights")
    outline = []
    for count, left, right in zip(shown.counts, shown.edges, shown.edges[1:], strict=False):
        (start, top), (end, _) = frame.at(left, count), frame.at(right, count)
        outline.append(f"L{start:.1f} {top:.1f}L{end:.1f} {top:.1f}")
    (first, base), (last, _) = frame.at(shown.edges[0], 0), frame.at(shown.edges[-1], 0)
    way = f"M{first:.1f} {base:.1f}{''.join(outline)}L{last:.1f} {base:.1f}Z"
    parts.append(element("path", d=way, class_="bar b0"))
    for centroid in shown.centroids:
        at, _ = frame.at(centroid, 0)
        parts.append(element("line", class_="mark", x1=at, x2=at, y1=frame.top, y2=base))
    return image(WIDTH, HEIGHT, f"Distribution of the kept weights of {shown.layer}", parts)
