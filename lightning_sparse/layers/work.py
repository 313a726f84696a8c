"""What products with an offset cost in theory; nothing here is measured."""

import math
from math import log2, prod

import torch

from lightning_sparse.layers.offsets import Offset

__all__ = ["fast_transform_work", "offset_work"]


def fast_transform_work(shape: tuple[int, ...]) -> float:
    """Return multiply-adds of a fast transform on one vector, constants left out: q log2 q, q = max(m, n).

    A convolution is the matrix that it applies at every position: m filters, n = patch size.

    Args:
        shape: Shape of the weight, ``(out, in / groups, *kernel)``.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 5.4.

    >>> fast_transform_work((16, 64)), fast_transform_work((1, 1))
    (384.0, 0.0)
    """
    q = max(shape[0], prod(shape[1:]))
    return q * log2(q) if q > 1 else 0.0


def offset_work(offset: Offset, shape: torch.Size) -> float:
    """Return multiply-adds of applying C to one vector: that of its transform, or mn where it has none.

    Args:
        offset: The dense part C of a layer.
        shape: Shape of its weight.

    Examples:
        >>> from lightning_sparse.layers.offsets import DCTOffset, NoOffset
        >>> offset_work(DCTOffset(), torch.Size((16, 64))), offset_work(NoOffset(), torch.Size((16, 64)))
        (384.0, 0.0)
    """
    if offset.is_zero:
        return 0.0
    is_fast = not offset.is_stored and math.isfinite(offset.transform_time(shape, 1, 1))
    return fast_transform_work(tuple(shape)) if is_fast else float(prod(shape))
