"""Masks as PNG images within the page, small files that keep every pixel."""

import struct
import zlib
from base64 import b64encode
from html import escape

import numpy as np
from numpy.typing import NDArray

from lightning_sparse.reporting.report.content import Picture

__all__ = ["picture", "png"]

STEPS = 16
"""Strengths of the colour; the first is none."""
COLOUR, GAP = (37, 132, 214), (128, 128, 128, 110)
"""Blue that is seen on white and on black; grey between filters."""
LEAST_ALPHA = 80


def picture(shown: Picture) -> str:
    """Return an ``img`` element with the image itself in it; empty places let the page shine through."""
    code = b64encode(png(_codes(shown), _palette())).decode()
    high, wide = len(shown.pixels), len(shown.pixels[0]) if shown.pixels else 0
    return (
        f'<img class="mask" src="data:image/png;base64,{code}" width="{wide}" height="{high}" '
        f'style="aspect-ratio:{wide}/{high};max-width:{_width(high, wide)}px" alt="{escape(shown.title)}">'
    )


def png(codes: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Return a PNG file of numbers of colours.

    Args:
        codes: Number of the colour of each pixel, ``(height, width)``.
        palette: Red, green, blue and opacity by number, ``(colours, 4)``.
    """
    height, width = codes.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), codes], axis=1)
    parts = {
        b"IHDR": header,
        b"PLTE": palette[:, :3].tobytes(),
        b"tRNS": palette[:, 3].tobytes(),
        b"IDAT": zlib.compress(lines.tobytes(), 9),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts.items())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _codes(shown: Picture) -> NDArray[np.uint8]:
    values = np.array(shown.pixels, dtype=np.float64)
    steps = np.ceil(values / (shown.largest or 1.0) * (STEPS - 1)).clip(0, STEPS - 1)
    return np.where(values < 0, STEPS, steps).astype(np.uint8)


def _palette() -> NDArray[np.uint8]:
    alphas = [0, *np.linspace(LEAST_ALPHA, 255, STEPS - 1).astype(int)]
    return np.array([*((*COLOUR, alpha) for alpha in alphas), GAP], dtype=np.uint8)


def _width(high: int, wide: int) -> int:
    """Return the width to show it at: several screen pixels for each of a small one, none lost of a large."""
    factor = max(1, min(24, 420 // max(wide, 1), 420 // max(high, 1)))
    return wide * factor
