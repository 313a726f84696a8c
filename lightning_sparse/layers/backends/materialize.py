"""The weight is built in each step, and the multiplication is an ordinary one."""

import math

import torch

from lightning_sparse.layers.backends.base import BackendRow, LayerParts, Work, register_backend
from lightning_sparse.layers.offsets import Offset
from lightning_sparse.layers.products import Materialized

__all__ = ["CONSTANTS", "Materialize", "dense_features"]

# For each of `dense_features`, of linear layers and of convolutions.
CONSTANTS: dict[str, tuple[float, ...]] = {
    "linear": (160, 0.0014, 0.00051, 0.0038, 0.0019, 7e-05),
    "conv": (77, 0.0043, 0.00059, 0.0039, 0.0025, 5.2e-05),
}


@register_backend
class Materialize(BackendRow):
    """Build the weight, multiply, let it go."""

    name = "materialize"

    def available(self, work: Work) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def time(self, work: Work) -> float:
        """Return the time to build the weight, and of the products, which threads share."""
        way, features = dense_features(work.shape, work.nnz, work.rows, work.offset)
        *building, products = (c * f for c, f in zip(CONSTANTS[way], features, strict=True))
        return sum(building) + products / work.threads

    def build(self, parts: LayerParts) -> Materialized:
        """Return the product by the whole weight; it holds C."""
        return Materialized(parts.shape, parts.geometry, parts.indices, parts.matrix())


def dense_features(shape: torch.Size, nnz: int, rows: int, offset: Offset) -> tuple[str, tuple[float, ...]]:
    """Return which way products go, and what their time is a sum of, in the order of `CONSTANTS`.

    Calls, entries of the weight, entries of an offset, values; features or channels of each row, products.
    """
    entries = math.prod(shape)
    way = "linear" if len(shape) == 2 else "conv"
    return way, (
        1,
        entries,
        entries * (not offset.is_zero),
        nnz,
        rows * (shape[0] + shape[1]),
        rows * entries,
    )
