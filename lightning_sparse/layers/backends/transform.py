"""The weight is never built: a fast transform for C, products entry by entry for S."""

import math

import torch

from lightning_sparse.layers.adapted import Adapted
from lightning_sparse.layers.backends.base import BackendRow, LayerParts, Work, register_backend
from lightning_sparse.layers.products import Product
from lightning_sparse.layers.transformed import Transformed
from lightning_sparse.layers.transformed_convolution import TransformedConvolution, TransformedPointwise
from lightning_sparse.layers.transformed_linear import TransformedFew, TransformedLinear

__all__ = ["Transform", "are_few", "lines_met"]

FEW_UP_TO, AND_PER_FEATURE = 80, 0.1  # values, and more of them for each feature of the longer side

# Of the part of S; the offset has the others. Those per feature, channel, line, pixel and value are for each
# row, those per entry for each value whatever the number of rows.
FEW_PER_CALL, FEW_PER_FEATURE, FEW_PER_VALUE = 0.0, 0.0, 0.0
LINEAR_PER_CALL, LINEAR_PER_ENTRY, LINEAR_PER_FEATURE, LINEAR_PER_VALUE = 200.0, 0.0, 0.0027, 0.0003
POINTWISE_PER_CALL, POINTWISE_PER_ENTRY, POINTWISE_PER_CHANNEL, POINTWISE_PER_VALUE = 0.0, 0.0, 0.0093, 0.0003
SPATIAL_PER_CALL, SPATIAL_PER_ENTRY, SPATIAL_PER_PIXEL = 0.0, 0.0, 0.0
SPATIAL_PER_CHANNEL, SPATIAL_PER_LINE, SPATIAL_PER_VALUE = 0.0136, 0.0012, 0.00026


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
        return offset + _time_of_sparse(work)

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


def lines_met(shape: torch.Size, nnz: int) -> int:
    """Return about how many lines a convolution lays out for each row of inputs, and of gradients."""
    return min(math.prod(shape[3:]) * (shape[0] + shape[1]), 2 * nnz)


def _time_of_sparse(work: Work) -> float:
    channels, nnz, rows = work.shape[0] + work.shape[1], work.nnz, work.rows
    if len(work.shape) == 2 and are_few(work.shape, nnz):
        return FEW_PER_CALL + rows * (FEW_PER_FEATURE * channels + FEW_PER_VALUE * nnz)
    if len(work.shape) == 2:
        per_row = LINEAR_PER_FEATURE * channels + LINEAR_PER_VALUE * nnz
        return LINEAR_PER_CALL + LINEAR_PER_ENTRY * nnz + rows * per_row
    if math.prod(work.shape[2:]) == 1:
        per_row = POINTWISE_PER_CHANNEL * channels + POINTWISE_PER_VALUE * nnz
        return POINTWISE_PER_CALL + POINTWISE_PER_ENTRY * nnz + rows * per_row
    per_row = SPATIAL_PER_PIXEL + SPATIAL_PER_CHANNEL * channels + SPATIAL_PER_VALUE * nnz
    per_row += SPATIAL_PER_LINE * lines_met(work.shape, nnz)
    return SPATIAL_PER_CALL + SPATIAL_PER_ENTRY * nnz + rows * per_row
