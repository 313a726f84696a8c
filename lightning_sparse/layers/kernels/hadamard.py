"""The Walsh-Hadamard transform of rows with random signs: two products on tensor cores in one kernel."""

import math
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_sparse.functional.dct import for_good
from lightning_sparse.functional.hadamard import sylvester
from lightning_sparse.layers.kernels import dct_factored
from lightning_sparse.layers.kernels import hadamard_code as code
from lightning_sparse.layers.kernels.dct_factored import Factored
from lightning_sparse.layers.kernels.language import runs_on
from lightning_sparse.layers.kernels.launching import dot_options, launch, rows_of

__all__ = ["HALF_SHAPES", "ON_CUDA", "SHAPES", "HadamardForm", "hadamard_rows", "runs_hadamard"]

HadamardForm: TypeAlias = Literal["plain", "kernel"]
"""``"plain"``: PyTorch's matrix products; ``"kernel"``: one kernel."""

ON_CUDA: HadamardForm = "plain"
"""What layers take on CUDA devices."""

# Chosen by what Triton's compiler makes of them for compute capability 9.0, and timed nowhere yet.
HALF_SHAPES = dct_factored.HALF_SHAPES | {1024: Factored(64, 16, 4, 4), 2048: Factored(64, 32, 2, 4)}
"""For bfloat16 and float16, by size."""

SHAPES = dct_factored.SHAPES | {16384: Factored(128, 128, 1, 8)}  # which spills 152 to 312 bytes a thread
"""For float32."""


def runs_hadamard(
    size: int, dtype: torch.dtype, device: torch.device, form: HadamardForm | None = None
) -> bool:
    """Return whether the kernel is to transform rows on a device, and can.

    Args:
        size: Of the transform.
        dtype: Of the rows: float32 or float64. The kernel takes bfloat16 and float16 as well.
        device: Where the rows lie.
        form: Which way; ``None``: ``ON_CUDA`` on CUDA devices, else plain.
    """
    form = form or (ON_CUDA if device.type == "cuda" else "plain")
    return form == "kernel" and dtype != torch.float64 and size in HALF_SHAPES and runs_on(device)


def hadamard_rows(
    x: Tensor,
    signs: Tensor,
    features: int,
    size: int,
    adjoint: bool = False,
    shape: Factored | None = None,
) -> Tensor:
    """Return ``H diag(signs) x`` of each row, cropped, in the dtype of x: float32, bfloat16 or float16.

    Args:
        x: ``(rows, in)``, or ``(rows, out)`` for the adjoint.
        signs: One for each input, in float32.
        features: Number of outputs; of inputs for the adjoint.
        size: Of H: a power of two from 256 to 16384, not less than inputs and outputs.
        adjoint: Whether to multiply by the transposed matrix, ``diag(signs) H``.
        shape: How the kernel splits the size; ``None``: as the tables say.
    """
    shape = shape or (SHAPES if x.dtype == torch.float32 else HALF_SHAPES)[size]
    longer = max(shape.left, shape.right)
    x, y = rows_of(x), x.new_empty(len(x), features)
    launch(
        code.hadamard_kernel,
        (math.ceil(len(x) / shape.block),),
        x,
        y,
        _matrix(longer, x.dtype, x.device),
        signs,
        *(len(x), x.shape[1], features),
        *(x.stride(0), y.stride(0)),
        *(1 / math.sqrt(shape.left), 1 / math.sqrt(shape.right)),
        longer=longer,
        signs_first=not adjoint,
        **shape.options,
        **dot_options(x.dtype),
    )
    return y


@lru_cache(maxsize=64)
@for_good()
def _matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return sylvester(size).to(device, dtype)
