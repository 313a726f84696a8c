r"""The DCT-II of size ``q1 q2`` as two small matrix products with a twiddle between them.

Even inputs first and odd ones last in reverse (Makhoul) turn the DCT into a DFT, ``X_k = s_k Re(exp(-i pi k
/ 2q) V_k)``. Cooley and Tukey's ``n = q2 n1 + n2`` and ``k = k1 + q1 k2`` split that DFT, and the factor in
front splits along with it. With the reordered input as a matrix ``v`` of shape ``(q1, q2)``:

    ``A = F v``, ``B = T * A`` entry by entry, ``X[k1, k2] = Re (B M)[k1, k2]``, and frequency 0 over sqrt(2)

    ``F[k1, n1] = exp(-2 pi i n1 k1 / q1) / sqrt(q1)``
    ``T[k1, n2] = exp(-i pi k1 (4 n2 + 1) / (2 q))``
    ``M[n2, k2] = exp(-i pi k2 (4 n2 + 1) / (2 q2)) sqrt(2 / q2)``

That is ``4 q (q1 + q2)`` floating-point operations for each input vector, nearly all of them in products of
real matrices, which is what tensor cores do; rows of ``F`` and ``M`` are about as long as an orthonormal
matrix's, so that no half-precision intermediate overflows.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError

__all__ = ["DCTFactors", "dct_factors", "dct_twiddles", "makhoul_order"]


class DCTFactors(NamedTuple):
    """Real and imaginary parts of the three tables, in float64.

    Args:
        f_re: Of ``F``, which is symmetric: ``(q1, q1)``.
        f_im: Of the same.
        t_re: Of ``T``: ``(q1, q2)``.
        t_im: Of the same.
        m_re: Of ``M``: ``(q2, q2)``.
        m_im: Of the same.
    """

    f_re: Tensor
    f_im: Tensor
    t_re: Tensor
    t_im: Tensor
    m_re: Tensor
    m_im: Tensor


def dct_factors(left: int, right: int) -> DCTFactors:
    """Return the tables for the DCT-II of size ``left * right``; angles are exact integers until the cosine.

    Args:
        left: The size q1 of the first product.
        right: The size q2 of the second one.

    Raises:
        SparsityError: If a size is not positive.

    Source:
        Makhoul, "A fast cosine transform in one and two dimensions", IEEE TASSP 28(1), 1980; Cooley and
        Tukey, "An algorithm for the machine calculation of complex Fourier series", Math. Comp. 19, 1965.

    Examples:
        >>> factors, x = dct_factors(2, 2), torch.ones(4, dtype=torch.float64)
        >>> factors.m_re[:, 0].tolist()
        [1.0, 1.0]
    """
    if min(left, right) < 1:
        raise SparsityError(f"`left` and `right` must be 1 or more, got {left}, {right}.")
    size = left * right
    lefts, rights = torch.arange(left, device="cpu"), torch.arange(right, device="cpu")
    k1, n2 = lefts[:, None], rights[:, None]
    return DCTFactors(
        *_wave(k1 * lefts * 4, 4 * left, math.sqrt(1 / left)),
        *_wave(k1 * (4 * rights + 1), 4 * size, 1.0),
        *_wave(rights * (4 * n2 + 1), 4 * right, math.sqrt(2 / right)),
    )


def dct_twiddles(size: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of ``pi k / 2 size`` for k up to ``size // 2``, in float64."""
    angle = torch.arange(size // 2 + 1, dtype=torch.float64, device="cpu") * (math.pi / (2 * size))
    return angle.cos(), angle.sin()


def makhoul_order(size: int) -> Tensor:
    """Return which input comes where: even ones first, odd ones last in reverse.

    >>> makhoul_order(5).tolist()
    [0, 2, 4, 3, 1]
    """
    index = torch.arange(size, device="cpu")
    return torch.cat([index[::2], index[1::2].flip(0)])


def _wave(turns: Tensor, period: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return the parts of ``scale exp(-2 pi i turns / period)``."""
    angle = (turns % period).double() * (2 * math.pi / period)
    return scale * angle.cos(), -scale * angle.sin()
