"""Masks as a checkpoint holds them: bits, with what it takes to notice a damaged one."""

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.functional.masks import pack_bits, unpack_bits
from lightning_sparse.types import Masks

__all__ = ["checksums", "pack_masks", "unpack_masks"]


def checksums(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the CRC-32 of every mask's packed bits."""
    return {name: _checksum(pack_bits(mask)) for name, mask in masks.items()}


def pack_masks(masks: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return masks as a checkpoint holds them: eight weights a byte, with shape, count and checksum."""
    return {name: _pack(mask) for name, mask in masks.items()}


def unpack_masks(packed: Mapping[str, Mapping[str, Any]]) -> Masks:
    """Return the masks that ``pack_masks`` packed.

    Raises:
        ValueError: If the bits of a mask are not those that were packed.
    """
    masks: Masks = {}
    for name, entry in packed.items():
        if _checksum(entry["bits"]) != entry["crc32"]:
            raise ValueError(
                f"The checkpoint's mask of {name!r} is corrupt (wrong checksum). Use another checkpoint."
            )
        masks[name] = unpack_bits(entry["bits"], torch.Size(entry["shape"]))
    return masks


def _pack(mask: Tensor) -> dict[str, Any]:
    bits = pack_bits(mask)
    return {"bits": bits, "shape": list(mask.shape), "crc32": _checksum(bits)}


def _checksum(bits: Tensor) -> int:
    return zlib.crc32(bits.numpy().tobytes())
