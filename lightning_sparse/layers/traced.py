"""Weights for ``torch.jit.trace`` and the old exporter to ONNX, which know no autograd functions of ours.

They write down each operation on the way. So in their presence the weight is built by operations that both
know, none of them in place, and constants are made where they do not see it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.functional.dct import accumulation_dtype

__all__ = ["is_tracing", "traced_weight", "untraced"]

_C: Any = torch._C  # its stubs lack what sets the state


def is_tracing() -> bool:
    """Tell whether operations are being written down by ``torch.jit.trace``."""
    return _C._get_tracing_state() is not None


@contextmanager
def untraced() -> Iterator[None]:
    """Keep operations from being written down: what comes of them is a constant."""
    state = _C._get_tracing_state()
    if state is None:  # also under `torch.compile`, where it may not be set
        yield
        return
    _C._set_tracing_state(None)
    try:
        yield
    finally:
        _C._set_tracing_state(state)


def traced_weight(
    shape: torch.Size, values: Tensor, indices: Tensor, matrix: Tensor | None, alpha: Tensor | None
) -> Tensor:
    """Return ``alpha C + S`` in the dtype that it is summed up in.

    Args:
        shape: Of the weight.
        values: Of S.
        indices: Their flat positions.
        matrix: C; ``None`` if it is zero.
        alpha: Its scale; ``None`` for 1.
    """
    dtype = accumulation_dtype(values.dtype)
    nothing = torch.zeros(shape.numel(), dtype=dtype, device=values.device)
    sparse = nothing.scatter(0, indices.long(), values.to(dtype)).view(shape)
    if matrix is None:
        return sparse
    return sparse + (matrix.to(dtype) if alpha is None else matrix.to(dtype) * alpha.to(dtype))
