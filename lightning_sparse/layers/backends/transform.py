"""The weight is never built: a fast transform for C, products entry by entry for S."""

import math

import torch

from lightning_sparse.layers.adapted import Adapted
from lightning_sparse.layers.backends.base import BackendRow, LayerParts, Work, register_backend
from lightning_sparse.layers.products import Product
from lightning_sparse.layers.transformed import Transformed
from lightning_sparse.layers.transformed_convolution import TransformedConvolution, TransformedPointwise
from lightning_sparse.layers.transformed_linear import TransformedFew, TransformedLinear

__all__ = ["CONSTANTS", "Transform", "are_few", "sparse_features"]

FEW_UP_TO, AND_PER_FEATURE = 80, 0.1  # values, and more of them for each feature of the longer side

# Of the part of S, for each of `sparse_features`; the offset has its own.
CONSTANTS: dict[str, tuple[float, ...]] = {
    "few": (210, 0.0013, 0.001),
    "linear": (350, 0.0098, 0.0023, 0.00019),
    "pointwise": (210, 0.00081, 0.0014, 0.00019),
    "spatial": (1200, 0.019, 0.044, 0.0038, 0.00083, 0.00022),
}


@register_backend
class Transform(BackendRow):
    """Multiply by C with its fast transform, where it has one, and by S entry by entry."""

    name = "transform"

    def available(self, work: Work) -> bool:
        """Return whether its time is known: on a CPU, and without groups.

        Convolutions were measured in two dimensions; others are estimated alike, by places and output pixels.
        """
        return work.device.type == "cpu" and work.groups == 1 and work.rows > 0

    def time(self, work: Work) -> float:
        """Return the time of the offset's transform and of the products with S."""
        offset = work.offset.transform_time(work.shape, work.rows, work.threads)
        way, features = sparse_features(work.shape, work.nnz, work.rows)
        return offset + sum(c * f for c, f in zip(CONSTANTS[way], features, strict=True))

    def build(self, parts: LayerParts) -> Product | None:
        """Return the product; ``None`` without a fast transform, or on the meta device."""
        shape, geometry, device = parts.shape, parts.geometry, parts.indices.device
        if device.type == "meta":  # only shapes count there, and supports cannot be read
            return None
        kind = _kind(parts)
        if parts.base is not None:
            return Adapted(parts.base.detach(), kind(shape, geometry, parts.indices, None))
        transform = parts.offset.transform(shape, geometry, parts.dtype, device)
        if transform is None and not parts.offset.is_zero:
            return None
        return kind(shape, geometry, parts.indices, transform)


def _kind(parts: LayerParts) -> type[Transformed]:
    if parts.geometry is not None:
        pointwise = math.prod(parts.shape[2:]) == 1 and not any(parts.geometry.padding)
        return TransformedPointwise if pointwise else TransformedConvolution
    return TransformedFew if are_few(parts.shape, len(parts.indices)) else TransformedLinear


def are_few(shape: torch.Size, nnz: int) -> bool:
    """Return whether a linear layer has so few values that taking them one by one is fastest."""
    return nnz <= FEW_UP_TO + AND_PER_FEATURE * max(shape)


def sparse_features(shape: torch.Size, nnz: int, rows: int) -> tuple[str, tuple[float, ...]]:
    """Return which way products with S go, and what their time is a sum of, in the order of `CONSTANTS`.

    First calls, then entries whatever the number of rows; then, for each row, pixels of larger kernels,
    features or channels, lines that a convolution lays out, and entries.
    """
    channels = rows * (shape[0] + shape[1])
    if len(shape) == 2 and are_few(shape, nnz):
        return "few", (1, channels, rows * nnz)
    if math.prod(shape[2:]) == 1:
        return "linear" if len(shape) == 2 else "pointwise", (1, nnz, channels, rows * nnz)
    shifts = math.prod(shape[3:] or shape[2:])  # a sequence is one row
    lines = min(shifts * (shape[0] + shape[1]), 2 * nnz)
    return "spatial", (1, nnz, rows, channels, rows * lines, rows * nnz)
