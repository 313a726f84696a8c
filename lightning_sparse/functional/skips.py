"""Sorted positions in few bits, in a code that is read back in four lines of NumPy.

k random positions out of N take ``H(k / N) / (k / N)`` bits each: 4.69, 8.08 or 11.41 at a density of 0.1,
0.01 or 0.001. `functional.positions` comes as close to that as can be, and takes a page of code to read back.
This code takes 5.04, 8.67 and 12.20, and is for files that are read without this package.

It is a list of steps of w bits each. A step s > 0 goes s places on, where there is a position; a step of 0
goes 2^w - 1 places on, as far as the largest of these, and there is none. With w = 1 that is a mask in packed
bits; the best w is taken. Eight steps are a row of w bytes, lowest bits first, so that the shape of the array
says what w is.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_count, shown

__all__ = ["WIDEST", "pack_skips", "unpack_skips"]

WIDEST = 24
"""Bits of a step at most."""

_WAY_OUT = "Use another file."


def pack_skips(positions: Tensor, size: int) -> Tensor:
    """Pack ascending positions into steps of as many bits as make the code shortest.

    Args:
        positions: k distinct integers in [0, N), ascending; on any device.
        size: Their range N.

    Returns:
        uint8 tensor of shape ``(rows, w)`` on the CPU: eight steps a row.

    Raises:
        SparsityError: If the positions are not ascending, distinct and in [0, N).

    Examples:
        >>> pack_skips(torch.tensor([0, 2, 3]), 8)  # a mask in bits: the lowest bit is the first place
        tensor([[13]], dtype=torch.uint8)
        >>> pack_skips(torch.arange(7, 10**6, 100), 10**6).shape  # steps of 100 places: 7 bits each
        torch.Size([1250, 7])
    """
    check_count("size", size, 0)
    numbers: npt.NDArray[np.int64] = positions.detach().cpu().numpy().astype(np.int64)
    if len(numbers) and (numbers[0] < 0 or numbers[-1] >= size or not (np.diff(numbers) > 0).all()):
        raise SparsityError(
            f"`positions` must be distinct, ascending and from 0 to {size - 1}, got {shown(positions)}. Sort "
            "them: `positions.unique()`."
        )
    gaps = np.diff(numbers, prepend=-1) - 1
    width = min(range(1, WIDEST + 1), key=lambda w: w * -(-(len(gaps) + (gaps // _far(w)).sum()) // 8))
    skipped, rest = np.divmod(gaps, _far(width))
    places = np.cumsum(skipped + 1) - 1
    count = int(places[-1]) + 1 if len(places) else 0
    steps = np.zeros(-(-count // 8) * 8, np.int64)
    steps[places] = rest + 1
    bits = (steps[:, None] >> np.arange(width)) & 1
    return torch.from_numpy(np.packbits(bits.astype(np.uint8), bitorder="little").reshape(-1, width))


def unpack_skips(packed: Tensor, size: int) -> Tensor:
    """Return the positions that `pack_skips` packed.

    Args:
        packed: uint8 tensor of shape ``(rows, w)``.
        size: Their range N.

    Returns:
        Ascending int64 tensor on the CPU.

    Raises:
        SparsityError: If it is none of this code, or reaches beyond N.

    Examples:
        >>> unpack_skips(pack_skips(torch.tensor([2, 3, 5, 70]), 100), 100)
        tensor([ 2,  3,  5, 70])
    """
    check_count("size", size, 0)
    is_code = isinstance(packed, Tensor) and packed.dtype == torch.uint8 and packed.dim() == 2
    if not is_code or not 1 <= packed.shape[1] <= WIDEST:
        raise SparsityError(
            f"`packed` must be uint8 with rows of 1 to {WIDEST} bytes, got {shown(packed)}. {_WAY_OUT}"
        )
    width = packed.shape[1]
    bits = np.unpackbits(packed.detach().cpu().numpy(), bitorder="little").reshape(-1, width)
    steps = np.zeros(len(bits), np.int64)
    for place in range(width):
        steps |= bits[:, place].astype(np.int64) << place
    ends = np.where(steps > 0, steps, _far(width)).cumsum()
    positions = torch.from_numpy(ends[steps > 0] - 1)
    if len(positions) and int(positions[-1]) >= size:
        raise SparsityError(
            f"`packed` must hold positions below {size}, got {int(positions[-1])}. {_WAY_OUT}"
        )
    return positions


def _far(width: int) -> int:
    """Return how far a step of so many bits goes at most."""
    return int(2**width - 1)
