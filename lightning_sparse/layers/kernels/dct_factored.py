"""The DCT-II of rows, or its adjoint, as two matrix products on tensor cores in one kernel.

What a row needs of the device's memory is one read and one write. With q = q1 q2 it takes ``4 q (q1 + q2)``
floating-point operations, 2.1 million for q = 4096, where the dense product takes 33 million.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.functional.dct import for_good
from lightning_sparse.functional.dct_factors import DCTFactors, dct_factors
from lightning_sparse.layers.kernels import dct_factored_code as code
from lightning_sparse.layers.kernels.launching import dot_options, launch, rows_of

__all__ = ["HALF_SHAPES", "SHAPES", "Factored", "dct_by_products", "factored_shape"]


@dataclass(frozen=True)
class Factored:
    """How a kernel splits a size, and what one program of it takes.

    Args:
        left: The size q1 of the first product.
        right: The size q2 of the second one.
        block: Rows of one program.
        warps: Of 32 threads.
        registers: At most so many for a thread, so that more programs fit; ``None``: as many as it likes.
    """

    left: int
    right: int
    block: int
    warps: int
    registers: int | None = None

    @property
    def size(self) -> int:
        """Return q, as which a Hadamard transform of two factors is scaled, too."""
        return self.left * self.right

    @property
    def options(self) -> dict[str, Any]:
        """Return what a kernel is compiled with."""
        split = {"q1": self.left, "q2": self.right, "block": self.block}
        return {**split, "num_warps": self.warps, "num_stages": 1, "maxnreg": self.registers}


# Chosen by what Triton's compiler makes of them for compute capability 9.0, and timed nowhere yet.
HALF_SHAPES = {
    256: Factored(16, 16, 8, 4),
    512: Factored(32, 16, 4, 4),
    1024: Factored(64, 16, 2, 4),
    2048: Factored(64, 32, 1, 4),
    4096: Factored(64, 64, 1, 4),
    8192: Factored(128, 64, 1, 8),
    16384: Factored(128, 128, 1, 8),
}
"""For bfloat16 and float16, by size."""

SHAPES = {
    256: Factored(16, 16, 4, 4),
    512: Factored(32, 16, 4, 4),
    1024: Factored(32, 32, 2, 4),
    2048: Factored(64, 32, 1, 4),
    4096: Factored(64, 64, 1, 4),
    8192: Factored(128, 64, 1, 8),  # the adjoint spills 280 bytes a thread
}
"""For float32; twice that size fits no multiprocessor."""


def factored_shape(size: int, dtype: torch.dtype) -> Factored | None:
    """Return how a size is split; ``None`` if it is not: no power of two from 256 on, or too large.

    >>> factored_shape(4096, torch.bfloat16)
    Factored(left=64, right=64, block=1, warps=4, registers=None)
    """
    tables = {torch.float32: SHAPES, torch.bfloat16: HALF_SHAPES, torch.float16: HALF_SHAPES}
    return tables.get(dtype, {}).get(size)


def dct_by_products(x: Tensor, features: int, shape: Factored, adjoint: bool) -> Tensor:
    """Return the transform of each row, cropped, in the dtype of x: float32, bfloat16 or float16.

    Args:
        x: ``(rows, in)`` for the DCT, ``(rows, out)`` for its adjoint, up to ``shape.size``.
        features: Number of frequencies to return; of inputs for the adjoint.
        shape: How the size is split.
        adjoint: Whether to multiply by the transposed matrix.
    """
    x, y = rows_of(x), x.new_empty(len(x), features)
    launch(
        code.dct_adjoint_kernel if adjoint else code.dct_kernel,
        (math.ceil(len(x) / shape.block),),
        x,
        y,
        *_tables(shape.left, shape.right, x.dtype, x.device),
        *(len(x), x.shape[1], features),
        *(x.stride(0), y.stride(0)),
        **shape.options,
        **dot_options(x.dtype),
    )
    return y


@lru_cache(maxsize=256)
@for_good()
def _tables(left: int, right: int, dtype: torch.dtype, device: torch.device) -> DCTFactors:
    """Return the tables: matrices in the dtype of inputs; twiddles, at most 1, in float16 for either half."""
    factors = dct_factors(left, right)
    twiddles = torch.float32 if dtype == torch.float32 else torch.float16
    dtypes = (dtype, dtype, twiddles, twiddles, dtype, dtype)
    return DCTFactors(*(table.to(device, kind) for table, kind in zip(factors, dtypes, strict=True)))
