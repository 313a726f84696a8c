"""The weight is built in each step, and the multiplication is an ordinary one."""

import math

from lightning_sparse.layers.backends.base import BackendRow, LayerParts, Work, register_backend
from lightning_sparse.layers.products import Materialized

__all__ = ["Materialize"]

PER_CALL, PER_ENTRY, PER_PRODUCT = 110, 0.004, 4.6e-5  # the last for each row and entry


@register_backend
class Materialize(BackendRow):
    """Build the weight, multiply, let it go."""

    name = "materialize"

    def available(self, work: Work) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def time(self, work: Work) -> float:
        """Return the time to build the weight, and of the products, which threads share."""
        entries = math.prod(work.shape)
        return PER_CALL + PER_ENTRY * entries + PER_PRODUCT * work.rows * entries / work.threads

    def build(self, parts: LayerParts) -> Materialized:
        """Return the product by the whole weight; it holds C."""
        return Materialized(parts.shape, parts.geometry, parts.indices, parts.matrix())
