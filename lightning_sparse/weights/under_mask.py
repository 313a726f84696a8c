"""What weights under a mask share, whether a process holds all of them or some rows."""

from abc import ABC
from collections.abc import Callable

from torch import Tensor

from lightning_sparse.functional.packing import count_bits
from lightning_sparse.weights.base import SPARSE, SparseWeight
from lightning_sparse.weights.state import SparseState

__all__ = ["UnderMask"]


class UnderMask(SparseWeight, ABC):
    """An ordinary parameter whose pruned entries are zeros; the mask is its `SparseState`'s.

    Args:
        name: Name of the weight.
        state: Holds the parameter, and owns its mask.
        make_mask: Makes the mask of what this process holds when it is asked for.
    """

    takes_masks = True
    support_noun = "masks"
    shown = SPARSE

    def __init__(self, name: str, state: SparseState, make_mask: Callable[[], Tensor]) -> None:
        super().__init__(name, state.weights[name].shape, state.weights[name])
        self._state, self._make_mask = state, make_mask

    @property
    def stored_as(self) -> str:
        """The name of the storage."""
        return self.storage_name

    @property
    def in_force(self) -> bool:
        """Whether optimizers have the hooks that keep pruned entries at zero."""
        return self._state.enforced

    def ask_for_gradient(self) -> None:
        """See to it that nobody masks this gradient before the step: backward makes it anyway."""
        self._state.asked.add(self.name)

    def forget_gradient(self) -> None:
        """Let it be masked whenever that is best."""
        self._state.asked.discard(self.name)

    def count_shared(self, snapshot: Tensor) -> int:
        """Count the bits that are set now as they were then."""
        return count_bits(snapshot & self.snapshot())
