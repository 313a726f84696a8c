"""Layers whose weight is a fixed dense matrix plus a sparse one, stored compactly, and conversion to them."""

from lightning_sparse.layers.alphas import alpha_groups
from lightning_sparse.layers.base import DensePlusSparse, compact_layers
from lightning_sparse.layers.conversion import convert_, merge_, to_dense_
from lightning_sparse.layers.convolutions import (
    DensePlusSparseConv,
    DensePlusSparseConv1d,
    DensePlusSparseConv2d,
    DensePlusSparseConv3d,
)
from lightning_sparse.layers.dense_plus_sparse import DensePlusSparseLinear
from lightning_sparse.layers.lsuv import lsuv_
from lightning_sparse.layers.meta import materialize_
from lightning_sparse.layers.offsets import (
    DCTOffset,
    HadamardOffset,
    NoOffset,
    Offset,
    SignedDCTOffset,
    register_offset,
)

__all__ = [
    "DCTOffset",
    "DensePlusSparse",
    "DensePlusSparseConv",
    "DensePlusSparseConv1d",
    "DensePlusSparseConv2d",
    "DensePlusSparseConv3d",
    "DensePlusSparseLinear",
    "HadamardOffset",
    "NoOffset",
    "Offset",
    "SignedDCTOffset",
    "alpha_groups",
    "compact_layers",
    "convert_",
    "lsuv_",
    "materialize_",
    "merge_",
    "register_offset",
    "to_dense_",
]
