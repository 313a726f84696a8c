"""What is added to the sparse matrix of a layer: a fixed dense matrix, or nothing.

An offset is a file here: a frozen dataclass after `Offset` with a `register_offset` above it. It is found by
itself.
"""

from typing import TYPE_CHECKING, Literal, TypeAlias

from lightning_sparse.layers.offsets.base import (
    OFFSETS,
    LinearMap,
    Offset,
    OffsetOptions,
    offset_from_name,
    register_offset,
)
from lightning_sparse.layers.offsets.dct import DCTOffset, PatchOrder
from lightning_sparse.layers.offsets.hadamard import HadamardOffset
from lightning_sparse.layers.offsets.none import NoOffset
from lightning_sparse.layers.offsets.pretrained import PretrainedOffset
from lightning_sparse.layers.offsets.signed_dct import SignedDCTOffset
from lightning_sparse.registry import modules_in

__all__ = [
    "OFFSETS",
    "DCTOffset",
    "HadamardOffset",
    "LinearMap",
    "NoOffset",
    "Offset",
    "OffsetName",
    "OffsetOptions",
    "PatchOrder",
    "PretrainedOffset",
    "SignedDCTOffset",
    "offset_from_name",
    "register_offset",
]

modules_in(__name__, __path__)

if TYPE_CHECKING:
    OffsetName: TypeAlias = str
else:
    OffsetName = Literal[tuple(OFFSETS)] | str
    """Name of an offset: one that comes with the package, or a registered one."""
