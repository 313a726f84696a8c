"""The weight is built in each step, and the multiplication is an ordinary one."""

import math

import torch

from lightning_sparse.layers.backends.base import BackendRow, LayerParts, Work, register_backend
from lightning_sparse.layers.offsets import Offset
from lightning_sparse.layers.products import Materialized

__all__ = ["CONSTANTS", "Materialize", "dense_features"]

# For each of `dense_features`, of linear layers and of convolutions.
CONSTANTS: dict[str, tuple[float, ...]] = {"linear": (110, 0.004, 0, 4.6e-5), "conv": (110, 0.004, 0, 4.6e-5)}


@register_backend
class Materialize(BackendRow):
    """Build the weight, multiply, let it go."""

    name = "materialize"

    def available(self, work: Work) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def time(self, work: Work) -> float:
        """Return the time to build the weight, and of the products, which threads share."""
        way, features = dense_features(work.shape, work.rows, work.offset)
        *building, products = (c * f for c, f in zip(CONSTANTS[way], features, strict=True))
        return sum(building) + products / work.threads

    def build(self, parts: LayerParts) -> Materialized:
        """Return the product by the whole weight; it holds C."""
        return Materialized(parts.shape, parts.geometry, parts.indices, parts.matrix())


def dense_features(shape: torch.Size, rows: int, offset: Offset) -> tuple[str, tuple[float, ...]]:
    """Return which way products go, and what their time is a sum of, in the order of `CONSTANTS`.

    Calls, entries of the weight, entries of an offset, and products.
    """
    entries = math.prod(shape)
    return "linear" if len(shape) == 2 else "conv", (
        1,
        entries,
        entries * (not offset.is_zero),
        rows * entries,
    )
