"""Which way of multiplying is fastest: one rule, with its constants beside it."""

import math
from typing import Literal, TypeAlias, get_args

import torch

__all__ = ["BACKENDS", "Backend", "choose_backend"]

Backend: TypeAlias = Literal["auto", "materialize", "transform"]
"""How a Dense-plus-Sparse layer multiplies: by the whole matrix, by fast transforms, or what is faster."""

BACKENDS: tuple[Backend, ...] = get_args(Backend)

# Cost of the FFT way in units of one entry of the dense product. Fitted on one x86-64 machine with AVX-512
# (torch 2.13) at one and two threads, batch 128, 512 and 32, n = 128 ... 8192.
COST_PER_VALUE = 2
COST_PER_FEATURE = 80  # per thread: FFTs gain less from threads than matrix products do
COST_PER_CALL = 1_000_000  # per thread, shared by the rows of a batch

# Convolutions: (least channels, highest density) at which the separable form is faster. Batch 32 only.
SEPARABLE_FROM = ((256, 0.01), (512, 0.05))
POINTWISE_FROM = 512  # least of input and output channels at which 1 x 1 kernels go by the linear rule


def choose_backend(
    shape: torch.Size, nnz: int, rows: int, device: torch.device, threads: int, groups: int = 1
) -> Literal["materialize", "transform"]:
    """Return the backend that ``"auto"`` takes.

    On a GPU that is always ``"materialize"``: nothing has been measured there.

    Args:
        shape: Shape of the weight, ``(out, in)`` or ``(out, in / groups, height, width)``.
        nnz: Number of values k.
        rows: Vectors multiplied at a time; for convolutions output pixels of all images.
        device: Of the inputs.
        threads: Threads that PyTorch uses.
        groups: Groups of a convolution.
    """
    if device.type != "cpu" or groups > 1 or rows == 0:
        return "materialize"
    return "transform" if _transform_pays(shape, nnz, rows, threads) else "materialize"


def _transform_pays(shape: torch.Size, nnz: int, rows: int, threads: int) -> bool:
    out, channels = shape[:2]
    if math.prod(shape[2:]) > 1:
        density = nnz / math.prod(shape)
        return any(channels >= least and density <= most for least, most in SEPARABLE_FROM)
    if len(shape) > 2 and min(out, channels) < POINTWISE_FROM:
        return False
    per_row = COST_PER_VALUE * nnz + COST_PER_FEATURE * threads * max(out, channels)
    return per_row + COST_PER_CALL * threads / rows < out * channels
