"""Connections of a layer as pictures: its mask, its filters as tiles, and what it has of each input pixel."""

from collections.abc import Sequence
from math import ceil, isqrt, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_sparse.reporting.report.content import Histogram, Picture
from lightning_sparse.reporting.report.supports import Support

__all__ = ["histogram_of", "pictures_of"]

SIDE = 240
"""A picture has so many pixels to a side at most; a larger mask is shown by the density of its blocks."""
BINS = (10, 60)


def histogram_of(support: Support, centroids: tuple[float, float] | None) -> Histogram | str:
    """Return how the kept weights of a layer are distributed, or why that cannot be shown."""
    values = support.values.numpy().astype(np.float64)
    if not len(values):
        return "it keeps no weights" if not support.kept else "its weights are not in the checkpoint"
    if not np.isfinite(values).all():
        return "its weights are not finite: training has diverged"
    bins = int(np.clip(2 * np.sqrt(len(values)), *BINS))
    counts, edges = np.histogram(values, bins)
    marks = () if centroids is None else tuple(sorted(centroids))
    return Histogram(support.name, tuple(edges.tolist()), tuple(counts.tolist()), marks)


def pictures_of(support: Support, first: bool) -> list[Picture]:
    """Return the pictures of a layer; of the first one that is linear also the map of its input."""
    mask = torch.zeros(prod(support.shape))
    mask[support.positions] = 1
    mask = mask.view(support.shape)
    if mask.dim() == 4 and mask.shape[2:] != (1, 1):
        return [_filters(support.name, mask)]
    matrix = mask.flatten(1)
    found = [_matrix(support.name, matrix)]
    if first and mask.dim() == 2 and (side := _image_side(matrix.shape[1])) is not None:
        found.insert(0, _input_map(support.name, matrix, *side))
    return found


def _input_map(layer: str, matrix: Tensor, channels: int, side: int) -> Picture:
    counts = matrix.sum(0).view(channels, side, side).sum(0)
    of_all = "" if channels == 1 else f", summed over {channels} channels"
    return Picture(
        layer,
        f"Input map of {layer}: connections of each of {side} x {side} input pixels{of_all}",
        "Strong colour: many units look at this pixel; empty: none does. Methods that look at data often "
        "leave out the edges of an image, where nothing happens. The input is taken to be a square image.",
        _rows(counts.numpy()),
        float(counts.max()),
    )


def _matrix(layer: str, matrix: Tensor) -> Picture:
    rows, columns = matrix.shape
    block = max(ceil(rows / SIDE), ceil(columns / SIDE))
    shown = _blocks(matrix.numpy(), block, block)
    if block == 1:
        title = f"Mask of {layer}: {rows} units (rows) by {columns} inputs (columns)"
        look = (
            "Each coloured point is a connection. Empty rows are units that nothing goes into; empty columns "
        )
        look += "are inputs that nobody looks at."
    else:
        title = f"Mask of {layer}: {rows} units by {columns} inputs, blocks of {block} x {block}"
        look = "The stronger the colour, the more connections a block has kept. Stripes are units or inputs "
        look += "that have many, or none."
    return Picture(layer, title, look, _rows(shown), float(shown.max()))


def _filters(layer: str, mask: Tensor) -> Picture:
    """Tile the kernels: a row for each filter, a column for each input channel, gaps between them."""
    filters, channels, height, width = mask.shape
    rows, columns = min(filters, SIDE // (height + 1)), min(channels, SIDE // (width + 1))
    rows, columns = max(rows, 1), max(columns, 1)
    tiled = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), -1.0)
    for i in range(rows):
        for j in range(columns):
            top, left = i * (height + 1), j * (width + 1)
            tiled[top : top + height, left : left + width] = mask[i, j].numpy()
    part = "" if (rows, columns) == (filters, channels) else f"; the first {rows} x {columns}"
    title = f"Mask of {layer}: {filters} filters (rows) by {channels} channels, {height} x {width} each{part}"
    look = (
        "Each tile is the kernel of one filter for one input channel. Empty tiles are channels that a filter "
    )
    look += "does not look at; an empty row is a filter that nothing goes into."
    return Picture(layer, title, look, _rows(tiled), 1.0)


def _blocks(matrix: NDArray[np.float32], high: int, wide: int) -> NDArray[np.float64]:
    """Return the mean of each block; the last ones may be smaller."""
    tops, lefts = range(0, matrix.shape[0], high), range(0, matrix.shape[1], wide)
    sums = np.add.reduceat(np.add.reduceat(matrix.astype(np.float64), tops, axis=0), lefts, axis=1)
    heights = np.minimum(high, matrix.shape[0] - np.array(tops))
    widths = np.minimum(wide, matrix.shape[1] - np.array(lefts))
    return np.asarray(sums / np.outer(heights, widths))


def _image_side(inputs: int) -> tuple[int, int] | None:
    """Return channels and side of the square image that so many inputs may be; ``None`` if they are none.

    >>> _image_side(784), _image_side(3072), _image_side(300)
    ((1, 28), (3, 32), None)
    """
    for channels, least in ((1, 2), (3, 16)):  # few inputs are seldom a small image in colour
        side = isqrt(inputs // channels)
        if inputs == channels * side * side and side >= least:
            return channels, side
    return None


def _rows(array: NDArray[np.floating]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(value), 4) for value in row) for row in array)


def first_layers(supports: Sequence[Support], count: int = 3) -> list[Support]:
    """Return the first layers that have a mask to show."""
    return [one for one in supports if len(one.shape) >= 2][:count]
