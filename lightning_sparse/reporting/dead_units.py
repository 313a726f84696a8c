"""Units that sparsity has cut off: nothing goes into them, or nothing comes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

__all__ = ["DeadUnits", "count_dead_units"]


@dataclass(frozen=True)
class DeadUnits:
    """Units at both ends of one weight.

    Attributes:
        outputs: Units that the weight computes: its rows, filters.
        without_inputs: How many of them have no connection left: they give their bias and nothing else.
        inputs: Units that the weight reads: its columns, channels.
        unread: How many of these have no connection left here: this layer does not look at them.
    """

    outputs: int
    without_inputs: int
    inputs: int
    unread: int


def count_dead_units(shape: Sequence[int], positions: Tensor) -> DeadUnits:
    """Count the units that have no connection left in a weight.

    Args:
        shape: Of the weight, ``(out, in, *kernel)``. In grouped convolutions the second axis is one group's.
        positions: Flat positions of the connections that are left.

    Examples:
        A 3 x 2 weight of which the first row's last entry is left, and the last row's last:

        >>> count_dead_units((3, 2), torch.tensor([1, 5]))
        DeadUnits(outputs=3, without_inputs=1, inputs=2, unread=1)
    """
    outputs, inputs, kernel = shape[0], shape[1], prod(shape[2:])
    rows = torch.div(positions, inputs * kernel, rounding_mode="floor")
    columns = torch.div(positions, kernel, rounding_mode="floor") % inputs
    return DeadUnits(outputs, outputs - _different(rows), inputs, inputs - _different(columns))


def _different(numbers: Tensor) -> int:
    return len(torch.unique(numbers))
