"""What launches of kernels have in common."""

from typing import Any

import torch
from torch import Tensor

from lightning_sparse.layers.kernels.language import INTERPRETED

__all__ = ["dot_options", "launch", "rows_of"]

_device_of: Any = torch.cuda.device_of


def rows_of(x: Tensor) -> Tensor:
    """Return ``(rows, features)`` such that the features of a row lie side by side."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def dot_options(dtype: torch.dtype) -> dict[str, Any]:
    """Return how kernels multiply: float32 as three products in TF32, about as exact as one in float32."""
    return {"precision": "tf32x3" if dtype == torch.float32 else "tf32", "widen": INTERPRETED}


def launch(kernel: Any, grid: tuple[int, ...], x: Tensor, *arguments: Any, **options: Any) -> None:
    """Launch a kernel on the device of x, its first argument, if the grid has any programs."""
    if all(grid):
        with _device_of(x):  # Triton launches on the current device
            kernel[grid](x, *arguments, **options)
