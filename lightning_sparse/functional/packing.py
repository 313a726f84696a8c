"""Masks as a checkpoint holds them: bits, with what it takes to notice a damaged one."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.types import Masks

__all__ = ["count_bits", "pack_bits", "pack_masks", "unpack_bits", "unpack_masks"]


def pack_bits(mask: Tensor) -> Tensor:
    """Pack a mask into bits, eight to a byte, in C order.

    Args:
        mask: Boolean tensor of any shape and device.

    Returns:
        uint8 tensor of length ``ceil(mask.numel() / 8)`` on the CPU; the first entry is the highest bit, as
        in ``numpy.packbits``, and unused bits of the last byte are 0.

    Examples:
        >>> pack_bits(torch.tensor([True, False, False, False, False, False, True, True, True]))
        tensor([131, 128], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(mask.detach().cpu().bool().numpy()))


def unpack_bits(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Unpack what ``pack_bits`` packed.

    Args:
        packed: uint8 tensor of length ``ceil(prod(shape) / 8)``.
        shape: Shape of the mask.

    Returns:
        Boolean tensor of that shape on the CPU.

    Raises:
        SparsityError: If the length does not belong to ``shape``, or an unused bit of the last byte is set.
    """
    num_bits = math.prod(shape)
    if packed.numel() != -(-num_bits // 8):
        raise SparsityError(
            f"`packed` must have {-(-num_bits // 8)} bytes for shape {tuple(shape)}, got {packed.numel()}. "
            "Was the mask saved for another model?"
        )
    bits = np.unpackbits(packed.detach().cpu().numpy())
    if bits[num_bits:].any():
        raise SparsityError(
            f"`packed` must not set bits past the {num_bits} of shape {tuple(shape)}, got some set. "
            "Was the mask saved for another model?"
        )
    return torch.from_numpy(bits[:num_bits].astype(bool).reshape(tuple(shape)))


def pack_masks(masks: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return masks as a checkpoint holds them: eight weights a byte, with shape, count and checksum."""
    return {name: _pack(mask) for name, mask in masks.items()}


def unpack_masks(packed: Mapping[str, Mapping[str, Any]]) -> Masks:
    """Return the masks that ``pack_masks`` packed.

    Raises:
        SparsityError: If the bits of a mask are not those that were packed.
    """
    masks: Masks = {}
    for name, entry in packed.items():
        if _checksum(entry["bits"]) != entry["crc32"]:
            raise SparsityError(
                f"The checkpoint's mask of {name!r} is corrupt (wrong checksum). Use another checkpoint."
            )
        masks[name] = unpack_bits(entry["bits"], torch.Size(entry["shape"]))
    return masks


def _pack(mask: Tensor) -> dict[str, Any]:
    bits = pack_bits(mask)
    return {"bits": bits, "shape": list(mask.shape), "crc32": _checksum(bits)}


def _checksum(bits: Tensor) -> int:
    return zlib.crc32(bits.numpy().tobytes())


def count_bits(packed: Tensor) -> int:
    """Count the bits that are set."""
    return int(unpack_bits(packed, [8 * len(packed)]).count_nonzero())
