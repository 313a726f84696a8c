"""Sorted positions in about as few bits as they can have: Golomb codes of the gaps between them.

k positions drawn at random from N have ``log2 C(N, k)`` bits of information: 4.69, 8.08 or 11.41 each where a
tenth, a hundredth or a thousandth of N is drawn. A list of int32 has 32.

A gap g is written as a quotient in unary and a remainder: ``g = q m + r``. For geometric gaps, which random
positions have, no prefix code is shorter than this with the best m. It follows from k and N in whole numbers,
so that no two machines round it differently. All first bits of remainders come first, then all second ones,
and so on; then the last bits of those remainders that have one more; then the quotients, each as so many
zeros and a one. So each part is read in one piece, and the ones say where quotients end.
"""

import struct
import zlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_count, shown

__all__ = ["pack_positions", "unpack_positions"]

Positions: TypeAlias = npt.NDArray[np.int64]
Bits: TypeAlias = npt.NDArray[np.bool_]

_HEADER = struct.Struct("<IBQQ")
"""CRC-32 of all that follows; the form; k; N."""

_GAPS, _HOLES, _MAP, _LIST = range(4)
"""Forms: gaps between positions, or between those that are left out; a bit for each of N; plain numbers."""

_WAY_OUT = "Use another file or checkpoint."


class _Misfit(Exception):  # noqa: N818
    """There are fewer bits than so many positions need, or other ones."""


def pack_positions(positions: Tensor, size: int) -> Tensor:
    """Pack ascending positions into about as few bits as they need.

    The shortest of three forms is taken: Golomb codes of the gaps (of the positions that are left out, where
    those are fewer), a bit for each of the N positions, and each position in as many bits as N - 1 has.

    Args:
        positions: k distinct integers in [0, N), ascending; on any device.
        size: Their range N; it may be beyond 2^31.

    Returns:
        uint8 tensor on the CPU: 21 bytes of counts and checksum, then the bits.

    Raises:
        SparsityError: If the positions are not ascending, distinct and in [0, N).

    Source:
        Golomb, "Run-length encodings", 1966; Gallager and van Voorhis, "Optimal source codes for
        geometrically distributed integer alphabets", 1975.

    Examples:
        >>> len(pack_positions(torch.arange(7, 10**6, 100), 10**6))  # 10,000 of them: 8 bits each
        10021
    """
    check_count("size", size, 0)
    numbers = _checked(positions, size)
    form, bits = _shortest(numbers, size)
    content = _HEADER.pack(0, form, len(numbers), size)[4:] + np.packbits(bits).tobytes()
    packed = np.frombuffer(struct.pack("<I", zlib.crc32(content)) + content, np.uint8)
    return torch.from_numpy(packed.copy())  # a buffer of bytes cannot be written to, as tensors can


def unpack_positions(packed: Tensor, size: int) -> Tensor:
    """Return the positions that `pack_positions` packed.

    Args:
        packed: uint8 vector.
        size: Their range N.

    Returns:
        Ascending int64 tensor on the CPU.

    Raises:
        SparsityError: If the bytes are not those that were packed, or are positions of another range.

    Examples:
        >>> unpack_positions(pack_positions(torch.tensor([2, 3, 5, 7]), 10), 10)
        tensor([2, 3, 5, 7])
    """
    check_count("size", size, 0)
    form, count, content = _opened(packed, size)
    bits = np.unpackbits(content).view(np.bool_)
    try:
        numbers, used = _read(form, bits, count, size)
    except _Misfit:
        numbers, used = np.empty(0, np.int64), 0
    padding = bits[used:]
    if len(numbers) != count or len(padding) >= 8 or padding.any() or not _ascend(numbers, size):
        raise SparsityError(f"`packed` must hold {count} positions below {size}, got other bits. {_WAY_OUT}")
    return torch.from_numpy(numbers)


def _checked(positions: Tensor, size: int) -> Positions:
    is_vector = isinstance(positions, Tensor) and positions.dim() == 1
    if not is_vector or positions.dtype not in (torch.uint8, torch.int16, torch.int32, torch.int64):
        raise SparsityError(
            f"`positions` must be a vector of integers, got {shown(positions)}. Flatten it, as int64."
        )
    numbers: Positions = positions.detach().cpu().numpy().astype(np.int64)
    if not _ascend(numbers, size):
        raise SparsityError(
            f"`positions` must be distinct, ascending and from 0 to {size - 1}, got {len(numbers)} from "
            f"{numbers.min()} to {numbers.max()}. Sort them: `positions.unique()`."
        )
    return numbers


def _ascend(numbers: Positions, size: int) -> bool:
    """Tell whether numbers are distinct, ascending and in [0, size)."""
    if not len(numbers):
        return True
    return bool(numbers[0] >= 0 and numbers[-1] < size and (numbers[1:] > numbers[:-1]).all())


def _opened(packed: Tensor, size: int) -> tuple[int, int, npt.NDArray[np.uint8]]:
    """Return form, k and the bytes behind the header, once the checksum is right."""
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8 or packed.dim() != 1:
        raise SparsityError(f"`packed` must be a vector of uint8, got {shown(packed)}. {_WAY_OUT}")
    data = packed.detach().cpu().contiguous().numpy()
    header = data[: _HEADER.size].tobytes()
    if len(header) < _HEADER.size or zlib.crc32(data[4:].tobytes()) != struct.unpack_from("<I", header)[0]:
        raise SparsityError(f"`packed` is corrupt ({len(data)} bytes, wrong checksum). {_WAY_OUT}")
    _, form, count, range_ = _HEADER.unpack(header)
    if range_ != size:
        raise SparsityError(
            f"`packed` must hold positions below {size}, got some below {range_}. Do they belong to a layer "
            "of another shape?"
        )
    return form, count, data[_HEADER.size :]


def _shortest(numbers: Positions, size: int) -> tuple[int, Bits]:
    """Return the form that needs the fewest bits, and these bits."""
    form, coded = (_HOLES, _others(numbers, size)) if 2 * len(numbers) > size else (_GAPS, numbers)
    bits, listed = _golomb(coded, size), len(numbers) * _width(size)
    if len(bits) <= min(size, listed):
        return form, bits
    return (_MAP, _mask(numbers, size)) if size <= listed else (_LIST, _planes(numbers, _width(size)))


def _read(form: int, bits: Bits, count: int, size: int) -> tuple[Positions, int]:
    """Return positions, and how many bits they were written in; raise `_Misfit` where bits are missing."""
    if count > size or form > _LIST:
        raise _Misfit
    if form == _GAPS:
        return _read_golomb(bits, count, size)
    if form == _HOLES:
        holes, used = _read_golomb(bits, size - count, size)
        if not _ascend(holes, size):
            raise _Misfit
        return _others(holes, size), used
    if form == _MAP:
        return np.flatnonzero(_first(bits, size)), size
    return _read_planes(bits, count, _width(size)), count * _width(size)


def _first(bits: Bits, count: int) -> Bits:
    """Return the first bits, before any memory is asked for that so many of them would fill."""
    if len(bits) < count:
        raise _Misfit
    return bits[:count]


def _mask(numbers: Positions, size: int) -> Bits:
    mask = np.zeros(size, np.bool_)
    mask[numbers] = True
    return mask


def _others(numbers: Positions, size: int) -> Positions:
    return np.flatnonzero(~_mask(numbers, size))


def _golomb(numbers: Positions, size: int) -> Bits:
    """Write the gaps before positions as quotients and remainders."""
    divisor, width, short = _divisor(len(numbers), size)
    quotients, remainders = np.divmod(np.diff(numbers, prepend=-1) - 1, divisor)
    longer = remainders >= short
    remainders[longer] += short
    last_bits = (remainders[longer] & 1).astype(np.bool_)
    remainders[longer] >>= 1
    ends = np.cumsum(quotients + 1) - 1
    unary = _mask(ends, int(ends[-1]) + 1 if len(ends) else 0)
    return np.concatenate([_planes(remainders, width), last_bits, unary])


def _read_golomb(bits: Bits, count: int, size: int) -> tuple[Positions, int]:
    """Return positions, and how many bits they were written in; raise `_Misfit` where bits are missing."""
    divisor, width, short = _divisor(count, size)
    _first(bits, count * (width + 1))  # of each position, the remainder and the end of the quotient
    remainders = _read_planes(bits, count, width)
    longer = np.flatnonzero(remainders >= short)
    last_bits, unary = np.split(bits[count * width :], [len(longer)])
    ends = np.flatnonzero(unary)
    if len(ends) != count or len(last_bits) != len(longer):
        raise _Misfit
    remainders[longer] = 2 * remainders[longer] + last_bits - short
    gaps = (np.diff(ends, prepend=-1) - 1) * divisor + remainders
    quotient_bits = int(ends[-1]) + 1 if count else 0
    return np.cumsum(gaps + 1) - 1, count * width + len(longer) + quotient_bits


def _divisor(count: int, size: int) -> tuple[int, int, int]:
    """Return m, the number of bits that all remainders have, and the first remainder that has one more.

    With p = k / N, the best m is ``log(2 - p) / -log(1 - p)`` rounded up. That is, but for terms of the order
    of p, ``ln 2 / p - (1 + ln 2) / 2``.
    """
    tenths_of_millionth = 6_931_472 * size - 8_465_736 * count
    divisor = max(1, -(-tenths_of_millionth // (10_000_000 * max(count, 1))))
    width = divisor.bit_length() - 1
    return divisor, width, (2 << width) - divisor


def _width(size: int) -> int:
    """Return in how many bits each number below ``size`` can be written."""
    return max(size - 1, 0).bit_length()


def _planes(numbers: Positions, width: int) -> Bits:
    """Write numbers in so many bits each: the highest bits of all, then the next ones, and so on."""
    planes = np.empty((width, len(numbers)), np.bool_)
    for place, plane in enumerate(reversed(planes)):
        plane[:] = (numbers >> place) & 1
    return planes.reshape(-1)


def _read_planes(bits: Bits, count: int, width: int) -> Positions:
    """Return numbers that `_planes` wrote; raise `_Misfit` where bits are missing."""
    planes = _first(bits, count * width).reshape(width, count)
    numbers = np.zeros(count, np.int64)
    for plane in planes:
        numbers = 2 * numbers + plane
    return numbers
