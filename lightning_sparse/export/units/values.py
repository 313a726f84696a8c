"""Units, and the tensors of a net that carry them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Units", "Value"]


@dataclass(eq=False)
class Value:
    """A tensor between two layers, of which one axis runs over units: neurons or channels.

    Places along that axis are called slots. Several slots may carry one unit: after a flatten, every pixel of
    a channel is a slot.

    Args:
        shape: Of the tensor.
        axis: The one along which units lie.
        ids: The unit in each slot, ``(slots,)``.
        known: Whether a slot has the same value whatever the input is, at every position, ``(slots,)``.
        constant: That value; 0 where there is none.
    """

    shape: torch.Size
    axis: int
    ids: Tensor
    known: Tensor
    constant: Tensor
    needed: Tensor = field(init=False)
    """Whether anything that reaches an output depends on the slot; found from behind."""

    def __post_init__(self) -> None:
        self.needed = torch.zeros_like(self.known)

    def along_axis(self, row: Tensor) -> Tensor:
        """Return numbers per slot as a tensor of this shape, a view."""
        return row.view([-1 if d == self.axis else 1 for d in range(len(self.shape))]).expand(self.shape)


class Units:
    """The units of a net: which are cut together only, and which stay whatever they do.

    Examples:
        >>> units = Units()
        >>> first, second = units.new("first", 2), units.new("second", 2)
        >>> units.tie(first, second)
        >>> units.hold(first[:1], "it is an output")
        >>> units.kept([], units.roots()).tolist()
        [True, False, True, False]
    """

    def __init__(self) -> None:
        self.layers: list[tuple[str, int]] = []
        self.ties: list[tuple[Tensor, Tensor]] = []
        self.held: dict[int, str] = {}
        self.count = 0

    def new(self, layer: str, count: int) -> Tensor:
        """Return ids for as many units that a layer makes."""
        self.layers.append((layer, self.count))
        self.count += count
        return torch.arange(self.count - count, self.count)

    def tie(self, some: Tensor, others: Tensor) -> None:
        """Let units be cut only together, pair by pair."""
        if not torch.equal(some, others):
            self.ties.append((some, others))

    def hold(self, ids: Tensor, reason: str) -> None:
        """Keep units; of several reasons the first counts."""
        for unit in torch.unique(ids).tolist():
            self.held.setdefault(unit, reason)

    def roots(self) -> Tensor:
        """Return, per unit, the first of those that it is tied to."""
        parent = list(range(self.count))

        def root(unit: int) -> int:
            while parent[unit] != unit:
                parent[unit] = unit = parent[parent[unit]]
            return unit

        for a, b in self._pairs():
            low, high = sorted((root(a), root(b)))
            parent[high] = low
        return torch.tensor([root(unit) for unit in range(self.count)], dtype=torch.long)

    def kept(self, values: list[Value], roots: Tensor) -> Tensor:
        """Return which units stay: those held, or needed in any of these values, with all tied to them.

        Args:
            values: All tensors of the net, once it is known what is needed of them.
            roots: As `roots` returns them.
        """
        kept = torch.zeros(self.count, dtype=torch.bool)
        kept[roots[torch.tensor(list(self.held), dtype=torch.long)]] = True
        for value in values:
            kept[roots[value.ids[value.needed]]] = True
        return kept[roots]

    def layer_of(self, unit: int) -> str:
        """Return the name of the layer that makes a unit."""
        return next(layer for layer, first in reversed(self.layers) if first <= unit)

    def _pairs(self) -> Iterator[tuple[int, int]]:
        for some, others in self.ties:
            yield from zip(some.tolist(), others.tolist(), strict=True)
