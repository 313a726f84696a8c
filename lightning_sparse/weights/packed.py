"""Which entries of gradients are sent to other processes: those kept, and all where there is no mask.

What lies end to end in one buffer, as gradients do in a bucket of DDP, is sent by a list of its entries.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.weights.enforcement import mask_of, versions_of
from lightning_sparse.weights.state import SparseState

__all__ = ["Packed", "Packing"]

_WHOLE = 10 / 11  # of a buffer: with so much kept it is sent whole, which is 1.1 times what is needed at most


class Packed(NamedTuple):
    """Which entries of a buffer are sent, and what becomes of the others."""

    places: Tensor
    """Positions in the buffer, ascending."""
    counts: list[int]
    """How many of them belong to each of the gradients."""
    pruned: list[slice]
    """Where gradients lie of which some entries are not sent."""


class Packing:
    """Knows what is to be sent of gradients, for the masks that are in force and until others are.

    Whole are sent the gradients of weights without masks, and of those whose gradient somebody has asked for
    before this step. The positions take 8 bytes for each entry that is sent.

    Args:
        state: The masks.
        parameters: What is trained, in the memory layout that its gradients have in buffers.
    """

    def __init__(self, state: SparseState, parameters: Iterable[Tensor]) -> None:
        self._state = state
        self._strides = {id(parameter): parameter.stride() for parameter in parameters}
        self._known: dict[int, tuple[list[object], list[Tensor], Packed | None]] = {}

    def of(self, number: int, parameters: Sequence[Tensor], buffer: Tensor) -> Packed | None:
        """Return what is sent of a buffer, None if that is all of it.

        Args:
            number: Of the buffer, among all.
            parameters: Those whose gradients lie in it, end to end.
            buffer: The gradients.
        """
        masked = self._masked(parameters)
        keeps = list(masked.values())
        seen: list[object] = [*map(id, parameters), *masked, *versions_of(keeps)]
        if number not in self._known or self._known[number][0] != seen:
            # Masks are held: others in their memory would have the same numbers.
            self._known[number] = (seen, keeps, self._find(parameters, masked, buffer))
        return self._known[number][2]

    def _masked(self, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what masks those of the parameters of which not everything is sent, by name."""
        state = self._state
        if not state.enforced:
            return {}
        present = {id(parameter) for parameter in parameters}
        keeps = {name: state.keep(name) for name, weight in state.weights.items() if id(weight) in present}
        return {
            name: keep for name, keep in keeps.items() if name not in state.asked and self._fits(name, keep)
        }

    def _fits(self, name: str, keep: Tensor) -> bool:
        """Tell whether a mask lies in memory as the gradient of its weight does in a buffer."""
        weight = self._state.weights[name]
        return self._strides.get(id(weight)) == weight.stride() == keep.stride()

    def _find(self, parameters: Sequence[Tensor], masked: dict[str, Tensor], buffer: Tensor) -> Packed | None:
        names = {id(self._state.weights[name]): name for name in masked}
        sizes = [parameter.numel() for parameter in parameters]
        counts = [
            self._state.counts[names[id(parameter)]] if id(parameter) in names else size
            for parameter, size in zip(parameters, sizes, strict=True)
        ]
        if sum(counts) >= _WHOLE * len(buffer):
            return None
        places, pruned = [], []
        for parameter, size, count, end in zip(parameters, sizes, counts, accumulate(sizes), strict=True):
            start = end - size
            if count == size:
                places.append(torch.arange(start, end, device=buffer.device))
                continue
            name = names[id(parameter)]
            found = positions_of(mask_of(masked[name]).as_strided((size,), (1,)), count)
            if len(found) != count:  # other processes would wait for entries that never come
                raise RuntimeError(
                    f"The mask of {name!r} was made to keep {count} weights, and keeps {len(found)} now. "
                    "Look for code that writes to masks, or to memory that is not its own."
                )
            places.append(found + start)
            pruned.append(slice(start, end))
        return Packed(torch.cat(places), counts, pruned)
