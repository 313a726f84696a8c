"""The DCT-II of rows, or its adjoint, as one real FFT between two kernels; for any size.

Each of the three reads and writes every row once, in float32 between them.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from lightning_sparse.functional.dct import for_good
from lightning_sparse.functional.dct_factors import dct_twiddles
from lightning_sparse.layers.kernels import dct_fused_code as code
from lightning_sparse.layers.kernels.launching import launch, rows_of

__all__ = ["dct_by_fft"]

ROWS, WIDEST = 4, 1024  # of a program: rows, and pairs of numbers


def dct_by_fft(x: Tensor, features: int, size: int, adjoint: bool) -> Tensor:
    """Return the transform of each row, cropped, in the dtype of x: float32, bfloat16 or float16.

    Args:
        x: ``(rows, in)`` for the DCT, ``(rows, out)`` for its adjoint, up to ``size``.
        features: Number of frequencies to return; of inputs for the adjoint.
        size: Of the DCT.
        adjoint: Whether to multiply by the transposed matrix.
    """
    x, y = rows_of(x), x.new_empty(len(x), features)
    if not len(x):
        return y
    width = min(WIDEST, max(16, 1 << (size // 2).bit_length()))
    grid = math.ceil(len(x) / ROWS), math.ceil((size // 2 + 1) / width)
    parts = {"block": ROWS, "width": width}
    ordered = torch.empty(len(x), size, dtype=torch.float32, device=x.device)
    twiddles, sizes = _twiddles(size, x.device), (len(x), x.shape[1], size)
    if adjoint:
        scale = math.sqrt(1 / (2 * size))
        launch(code.before_adjoint_kernel, grid, x, ordered, *twiddles, *sizes, x.stride(0), scale, **parts)
    else:
        launch(code.before_kernel, grid, x, ordered, *sizes, x.stride(0), **parts)
    spectrum = torch.view_as_real(torch.fft.rfft(ordered))
    rest = len(x), features, size, y.stride(0)
    if adjoint:
        launch(code.after_adjoint_kernel, grid, spectrum, y, *rest, **parts)
    else:
        launch(code.after_kernel, grid, spectrum, y, *twiddles, *rest, math.sqrt(2 / size), **parts)
    return y


@lru_cache(maxsize=256)
@for_good()
def _twiddles(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    cosine, sine = dct_twiddles(size)
    return cosine.to(device, torch.float32), sine.to(device, torch.float32)
