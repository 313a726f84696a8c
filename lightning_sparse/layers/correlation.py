"""Sparse convolutions row by row: what a kernel meets is laid out once, and one sum of bags makes a row."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_sparse.layers.bags import Bags, WeightedBags

__all__ = ["Correlation"]

_PICK_BELOW = 0.5  # share of lines below which only those that are met are laid out


class Correlation:
    """Sums over neighbourhoods: ``out[o, p]`` is the sum of ``v_e in[c_e, steps p + at_e]`` over entries e.

    Inputs are ``(channels, *sides, batch)``, with zeros outside. For each row of pixels, in the first
    dimension of images, channels lie one below the other, once for each shift in the other dimensions. Rows
    that follow each other are then one table, and an entry names a row of it, wherever in the image it is.
    Sequences, and images of which few channels are met, are laid out as one row.

    Args:
        outputs: Output channel o of each entry, int64.
        channels: Input channel c of each entry.
        at: Its place, ``(entries, dimensions)``: may be negative.
        sizes: Number of output channels, and of input channels.
        steps: How far a step in the output goes in the input, for each dimension.
    """

    def __init__(
        self, outputs: Tensor, channels: Tensor, at: Tensor, sizes: tuple[int, int], steps: Sequence[int]
    ) -> None:
        if not len(at):
            at = at.new_zeros(1, len(steps))
        shifts, shift = _distinct(at[:, 1:])
        self.in_one_row = len(steps) == 1 or len(channels) < _PICK_BELOW * sizes[1] * len(shifts)
        if self.in_one_row:
            at, steps = torch.cat([torch.zeros_like(at[:, :1]), at], 1), (1, *steps)
            shifts, shift = _distinct(at[:, 1:])
        self.steps = steps
        self.first, last = int(at[:, 0].min()), int(at[:, 0].max())
        self.height = last - self.first + 1
        lines = (shift * sizes[1])[: len(channels)] + channels
        used, line = torch.unique(lines, return_inverse=True)
        self.shifts: list[list[int]] = shifts.tolist()
        self.picked: list[Tensor] | None = None
        if len(used) < _PICK_BELOW * len(shifts) * sizes[1]:
            counts = (used // sizes[1]).bincount(minlength=len(shifts))
            self.picked, lines = list((used % sizes[1]).int().split(counts.tolist())), line
        self.lines = len(used) if self.picked is not None else len(shifts) * sizes[1]
        ids = (at[: len(channels), 0] - self.first) * self.lines + lines
        self.bags = Bags(outputs, ids, (sizes[0], self.height * self.lines))

    def apply(self, weighted: WeightedBags, inputs: Tensor, sides: Sequence[int]) -> Tensor:
        """Return ``(outputs, *sides, batch)``."""
        rows = [weighted.sum(table) for table in self.tables(inputs, sides)]
        whole = rows[0] if len(rows) == 1 else torch.stack(rows, 1)
        return whole.view(self.bags.shape[0], *sides, inputs.shape[-1])

    def sample(self, grad: Tensor, inputs: Tensor) -> Tensor:
        """Return for each entry the gradient of its value, for that of the output."""
        rows = grad.unsqueeze(1) if self.in_one_row else grad
        total = None
        for number, table in enumerate(self.tables(inputs, grad.shape[1:-1])):
            total = self.bags.sample(rows[:, number].flatten(1), table, total)
        assert total is not None
        return total

    def tables(self, inputs: Tensor, sides: Sequence[int]) -> Iterator[Tensor]:
        """Yield what the neighbourhoods of each row of outputs meet: ``(height * lines, pixels * batch)``."""
        if self.in_one_row:
            inputs, sides = inputs.unsqueeze(1), (1, *sides)
        (count, *inner), step = sides, self.steps[0]
        rows = (count - 1) * step + self.height
        laid_out = inputs.new_empty(rows, self.lines, *inner, inputs.shape[-1])
        line = 0
        for number, shift in enumerate(self.shifts):
            source = inputs if self.picked is None else inputs.index_select(0, self.picked[number])
            block = laid_out[:, line : line + len(source)]
            _copy_shifted(block.movedim(1, 0), source, (self.first, *shift), (1, *self.steps[1:]))
            line += len(source)
        flat = laid_out.view(rows, self.lines, math.prod(inner) * inputs.shape[-1])
        for number in range(count):
            yield flat[number * step : number * step + self.height].flatten(0, 1)


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different rows in ascending order, and for each row which of them it is.

    As ``torch.unique`` does along a dimension, which takes ten times as long: rows are numbered first.

    >>> _distinct(torch.tensor([[0, 2], [-1, 5], [0, 2]]))
    (tensor([[-1,  5],
            [ 0,  2]]), tensor([1, 0, 1]))
    """
    least = rows.amin(0)
    sizes = rows.amax(0) - least + 1
    worth = sizes.flip(0).cumprod(0).flip(0) // sizes
    numbers, which = torch.unique(((rows - least) * worth).sum(1), return_inverse=True)
    return numbers[:, None] // worth % sizes + least, which


def _copy_shifted(target: Tensor, source: Tensor, shift: Sequence[int], steps: Sequence[int]) -> None:
    """Fill ``target[:, p]`` with ``source[:, steps p + shift]``, and with zeros where there is none."""
    for dim, (by, step) in enumerate(zip(shift, steps, strict=True), 1):
        size, count = source.shape[dim], target.shape[dim]
        begin = min(max(0, -(by // step)), count)
        end = max(begin, min(count, (size - 1 - by) // step + 1))
        target.narrow(dim, 0, begin).zero_()
        target.narrow(dim, end, count - end).zero_()
        target = target.narrow(dim, begin, end - begin)
        met = slice(begin * step + by, max(0, (end - 1) * step + by + 1), step) if end > begin else slice(0)
        source = source[(slice(None),) * dim + (met,)]
    target.copy_(source)
