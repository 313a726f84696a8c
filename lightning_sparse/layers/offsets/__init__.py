"""What is added to the sparse matrix of a layer: a fixed dense matrix that costs no memory, or nothing."""

from lightning_sparse.layers.offsets.base import LinearMap, NoOffset, Offset
from lightning_sparse.layers.offsets.dct import DCTOffset, PatchOrder

__all__ = ["DCTOffset", "LinearMap", "NoOffset", "Offset", "PatchOrder"]
