"""The weight is never built: a fast transform for C, products entry by entry for S."""

import math

from lightning_sparse.layers.adapted import Adapted
from lightning_sparse.layers.backends.base import BackendRow, LayerParts, Work, register_backend
from lightning_sparse.layers.products import Product
from lightning_sparse.layers.support import INDEX_ADD_UP_TO, SparsePattern
from lightning_sparse.layers.transformed import TransformedConvolution, TransformedLinear

__all__ = ["Transform"]

# Of the part of S; the offset has the others. Those per value, feature, channel and plane are for each row.
LINEAR_PER_CALL_IN_BAGS, LINEAR_PER_FEATURE_IN_BAGS, LINEAR_PER_VALUE = 200, 0.0027, 0.0003
POINTWISE_PER_CHANNEL, POINTWISE_PER_VALUE = 0.0093, 0.0003
SPATIAL_PER_PLACE, SPATIAL_PER_CHANNEL, SPATIAL_PER_PLANE, SPATIAL_PER_VALUE = 105, 0.0136, 0.0012, 0.00026


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
        kind = TransformedLinear if geometry is None else TransformedConvolution
        if parts.base is not None:
            return Adapted(parts.base.detach(), kind(shape, geometry, _pattern(parts), None))
        transform = parts.offset.transform(shape, geometry, parts.dtype, device)
        if transform is None and not parts.offset.is_zero:
            return None
        return kind(shape, geometry, _pattern(parts), transform)


def _time_of_sparse(work: Work) -> float:
    channels, places = work.shape[0] + work.shape[1], math.prod(work.shape[2:])
    if len(work.shape) == 2:
        in_bags = work.nnz > INDEX_ADD_UP_TO * max(work.shape)
        per_row = LINEAR_PER_VALUE * work.nnz + LINEAR_PER_FEATURE_IN_BAGS * channels * in_bags
        return LINEAR_PER_CALL_IN_BAGS * in_bags + work.rows * per_row
    if places == 1:
        return work.rows * (POINTWISE_PER_CHANNEL * channels + POINTWISE_PER_VALUE * work.nnz)
    planes = min(places * channels, 2 * work.nnz)
    per_row = SPATIAL_PER_CHANNEL * channels + SPATIAL_PER_PLANE * planes + SPATIAL_PER_VALUE * work.nnz
    return SPATIAL_PER_PLACE * places + work.rows * per_row


def _pattern(parts: LayerParts) -> SparsePattern:
    """Place the values in the matrix that maps all input columns, those of every group, to outputs."""
    groups = 1 if parts.geometry is None else parts.geometry.groups
    (out, patch), flat = (parts.shape[0], math.prod(parts.shape[1:])), parts.indices.long()
    rows = flat // patch
    cols = flat % patch + rows // (out // groups) * patch
    return SparsePattern(rows.int(), cols.int(), (out, groups * patch))
