"""What launches of kernels have in common."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_sparse.layers.kernels.language import INTERPRETED

__all__ = ["AS_IT_IS", "Epilogue", "dot_options", "launch", "output_of", "rows_of"]

_device_of: Any = torch.cuda.device_of


class Epilogue(NamedTuple):
    """What a kernel does to its result before it writes it: ``alpha result + plus``.

    Args:
        alpha: One number, on the device; ``None`` for 1.
        plus: In the shape of the result, of any precision; ``None`` for 0.
        dtype: Of what is written; ``None`` for that of the input.
    """

    alpha: Tensor | None = None
    plus: Tensor | None = None
    dtype: torch.dtype | None = None


AS_IT_IS = Epilogue()
"""The result itself."""


def rows_of(x: Tensor) -> Tensor:
    """Return ``(rows, features)`` such that the features of a row lie side by side."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def output_of(x: Tensor, features: int, epilogue: Epilogue) -> tuple[Tensor, Tensor | None]:
    """Return where to write, and what to add in the layout that kernels take."""
    y = x.new_empty(len(x), features, dtype=epilogue.dtype or x.dtype)
    return y, None if epilogue.plus is None else rows_of(epilogue.plus)


def dot_options(dtype: torch.dtype) -> dict[str, Any]:
    """Return how kernels multiply: float32 as three products in TF32, about as exact as one in float32."""
    return {"precision": "tf32x3" if dtype == torch.float32 else "tf32", "widen": INTERPRETED}


def launch(kernel: Any, grid: tuple[int, ...], x: Tensor, *arguments: Any, **options: Any) -> None:
    """Launch a kernel on the device of x, its first argument, if the grid has any programs."""
    if all(grid):
        with _device_of(x):  # Triton launches on the current device
            kernel[grid](x, *arguments, **options)
