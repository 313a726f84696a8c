"""Which rows of every weight this process holds, and how processes count together."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Shards", "Sum", "here", "is_sharded", "reshard_"]

Sum = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor of integers over all processes that hold rows of the same weights."""

_ORDINARY = (nn.Parameter, Tensor)


@dataclass(frozen=True)
class Shards:
    """Which rows of every weight this process holds: one of so many parts.

    Parts are those of ``torch.chunk``: all of one size, but for the last ones, which may be smaller or empty.
    So their entries, part after part, are those of the whole weight in order of flat index.

    Args:
        number: Which part this process holds, from 0.
        count: How many parts there are.
        sum: Sums integers over the processes that hold them; all of them must call it, in the same order.
    """

    number: int
    count: int
    sum: Sum

    def rows(self, size: int) -> slice:
        """Return which of so many rows this process holds.

        >>> [Shards(number, 4, lambda x: x).rows(5) for number in range(4)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None), slice(5, 5, None)]
        """
        most = -(-size // self.count)
        start = min(self.number * most, size)
        return slice(start, min(start + most, size))

    def of(self, whole: Tensor) -> Tensor:
        """Return this process's rows of a tensor."""
        return whole[self.rows(len(whole))]

    def total(self, numbers: Sequence[int]) -> list[int]:
        """Return the sums of integers over all processes."""
        totals: list[int] = self.sum(torch.tensor(numbers, dtype=torch.int64)).tolist()
        return totals

    def all(self, holds: bool) -> bool:
        """Tell whether something holds on every process."""
        return self.total([int(not holds)]) == [0]

    def table(self, column: Sequence[int]) -> Tensor:
        """Return what all processes have counted, ``(len(column), count)``, one column for each part."""
        table = torch.zeros(len(column), self.count, dtype=torch.int64)
        table[:, self.number] = torch.tensor(column, dtype=torch.int64)
        return self.sum(table)


def is_sharded(tensor: object) -> bool:
    """Tell whether a tensor is a ``DTensor``, of which this process may hold a part only."""
    loaded = sys.modules.get("torch.distributed.tensor")  # without it there is none
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def here(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds; an ordinary tensor is its own.

    It shares memory and version with the ``DTensor``. What is asked of that itself, such as ``any()`` or
    ``count_nonzero()``, is answered by each process for its own part, without a word.
    """
    if type(tensor) in _ORDINARY or not is_sharded(tensor):  # at every step: the first tells of nearly all
        return tensor
    part: Tensor = tensor._local_tensor  # type: ignore[attr-defined]  # `to_local` makes a new view each time
    return part


def reshard_(module: nn.Module) -> None:
    """Let FSDP2 put away the whole weights that a forward without backward has left in the module.

    Validation does so. The next forward would use them as they are, whatever has been written to the shards
    since: masks that were made in between would do nothing.
    """
    kind: Any = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    for layer in module.modules() if kind is not None else ():
        if isinstance(layer, kind):
            layer.reshard()
