"""Which way of multiplying is fastest: one rule, with its constants beside it."""

import math
from typing import Literal, TypeAlias, get_args

import torch

from lightning_sparse.layers.support import INDEX_ADD_UP_TO

__all__ = ["BACKENDS", "Backend", "choose_backend"]

Backend: TypeAlias = Literal["auto", "materialize", "transform"]
"""How a Dense-plus-Sparse layer multiplies: by the whole matrix, by fast transforms, or what is faster."""

BACKENDS: tuple[Backend, ...] = get_args(Backend)

# Microseconds of forward and backward in float32, on one thread of an x86-64 CPU with AVX-512 (torch 2.15),
# fitted by `python -m benchmarks.speed.backend_rule`. Only their ratios count.
PER_CALL, PER_ENTRY, PER_PRODUCT = 110, 0.004, 4.6e-5  # materialize; the last for each row and entry

# transform; what follows the first line is for each row
LINEAR_PER_CALL, LINEAR_PER_CALL_IN_BAGS = 280, 200
LINEAR_PER_FEATURE, LINEAR_PER_FEATURE_IN_BAGS, LINEAR_PER_VALUE = 0.011, 0.0027, 0.0003

POINTWISE_PER_CALL = 670
POINTWISE_PER_FEATURE, POINTWISE_PER_CHANNEL, POINTWISE_PER_VALUE = 0.0065, 0.0093, 0.0003

SPATIAL_PER_PLACE = 105
SPATIAL_PER_PRODUCT, SPATIAL_PER_CHANNEL, SPATIAL_PER_PLANE, SPATIAL_PER_VALUE = 1e-4, 0.0136, 0.0012, 0.00026


def choose_backend(
    shape: torch.Size, nnz: int, rows: int, device: torch.device, threads: int, groups: int = 1
) -> Literal["materialize", "transform"]:
    """Return the backend that ``"auto"`` takes: that of the shorter estimated time.

    On a GPU that is always ``"materialize"``: nothing has been measured there.

    Args:
        shape: Shape of the weight, ``(out, in)`` or ``(out, in / groups, height, width)``.
        nnz: Number of values k.
        rows: Vectors multiplied at a time; for convolutions output pixels of all images.
        device: Of the inputs.
        threads: Threads that PyTorch uses. Only matrix products are counted as shared among them.
        groups: Groups of a convolution.
    """
    if device.type != "cpu" or groups > 1 or rows == 0:
        return "materialize"
    entries = math.prod(shape)
    materialize = PER_CALL + PER_ENTRY * entries + PER_PRODUCT * rows * entries / threads
    return "transform" if _time_of_transform(shape, nnz, rows, threads) < materialize else "materialize"


def _time_of_transform(shape: torch.Size, nnz: int, rows: int, threads: int) -> float:
    channels, longer, places = shape[0] + shape[1], max(shape[:2]), math.prod(shape[2:])
    if len(shape) == 2:
        in_bags = nnz > INDEX_ADD_UP_TO * longer
        per_row = LINEAR_PER_FEATURE * longer + LINEAR_PER_VALUE * nnz
        per_row += LINEAR_PER_FEATURE_IN_BAGS * channels * in_bags
        return LINEAR_PER_CALL + LINEAR_PER_CALL_IN_BAGS * in_bags + rows * per_row
    if places == 1:
        per_row = POINTWISE_PER_FEATURE * longer + POINTWISE_PER_CHANNEL * channels
        return POINTWISE_PER_CALL + rows * (per_row + POINTWISE_PER_VALUE * nnz)
    per_row = SPATIAL_PER_PRODUCT * shape[0] * shape[1] / threads + SPATIAL_PER_CHANNEL * channels
    per_row += SPATIAL_PER_PLANE * min(places * channels, 2 * nnz) + SPATIAL_PER_VALUE * nnz
    return SPATIAL_PER_PLACE * places + rows * per_row
