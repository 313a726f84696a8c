"""Masks as a checkpoint holds them: bits, with what it takes to notice a damaged one."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, shown
from lightning_sparse.types import Masks

__all__ = [
    "bits_of",
    "count_bits",
    "pack_bits",
    "pack_masks",
    "unpack_bits",
    "unpack_masks",
    "weigh_bits",
]

_EVERY_NINTH_BIT = sum(1 << 9 * i for i in range(8)) - (1 << 64)
"""As int64; a product with it has no carries where bytes are 0 or 1."""

_WAY_OUT = "Use another checkpoint or file."


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
    return bits_of(mask).cpu()


def bits_of(mask: Tensor) -> Tensor:
    """Pack a mask into bits as `pack_bits` does, on its own device, which is not waited for."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.detach().bool().numpy()))
    return weigh_bits(mask)


def weigh_bits(mask: Tensor) -> Tensor:
    """Pack a mask into bits by torch's own means, on any device of little-endian numbers, as GPUs are.

    >>> weigh_bits(torch.tensor([True, False, False, False, False, False, True, True, True]))
    tensor([131, 128], dtype=torch.uint8)
    """
    flat = mask.detach().reshape(-1)
    padded = torch.zeros(-(-len(flat) // 8) * 8, dtype=torch.bool, device=flat.device)
    padded[: len(flat)] = flat
    eights = padded.view(torch.int64)  # of which entry i is byte i: it comes to bit 7 - i of the highest one
    return (eights * _EVERY_NINTH_BIT).view(torch.uint8)[7::8].contiguous()


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
        SparsityError: If that is not what it is, or the bits of a mask are not those that were packed.
    """
    if not isinstance(packed, Mapping):
        raise SparsityError(f"Masks must be a dict by parameter name, got {shown(packed)}. {_WAY_OUT}")
    return {name: _unpack(name, entry) for name, entry in packed.items()}


def _unpack(name: str, entry: Mapping[str, Any]) -> Tensor:
    if not isinstance(entry, Mapping) or not {"bits", "shape", "crc32"} <= entry.keys():
        got = ", ".join(map(str, entry)) or "nothing" if isinstance(entry, Mapping) else shown(entry)
        raise SparsityError(f"The mask of {name!r} must have bits, shape and crc32, got {got}. {_WAY_OUT}")
    bits, shape = entry["bits"], entry["shape"]
    are_bits = isinstance(bits, Tensor) and bits.dtype == torch.uint8 and bits.ndim == 1
    is_shape = isinstance(shape, list | tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not (are_bits and is_shape):
        raise SparsityError(
            f"The mask of {name!r} must have a vector of bytes and a list of sizes, got {shown(bits)} and "
            f"{shown(shape)}. {_WAY_OUT}"
        )
    if _checksum(bits) != entry["crc32"]:
        raise SparsityError(f"The mask of {name!r} is corrupt (wrong checksum). {_WAY_OUT}")
    return unpack_bits(bits, torch.Size(shape))


def _pack(mask: Tensor) -> dict[str, Any]:
    bits = pack_bits(mask)
    return {"bits": bits, "shape": list(mask.shape), "crc32": _checksum(bits)}


def _checksum(bits: Tensor) -> int:
    return zlib.crc32(bits.cpu().numpy().tobytes())


def count_bits(packed: Tensor) -> int:
    """Count the bits that are set."""
    return int(unpack_bits(packed, [8 * len(packed)]).count_nonzero())
