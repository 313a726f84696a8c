"""An ordinary weight under a mask."""

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_sparse.functional.growth.moves import positions_of
from lightning_sparse.functional.packing import count_bits, pack_bits
from lightning_sparse.functional.saliency.base import Average
from lightning_sparse.weights.base import Connections, GradientSum
from lightning_sparse.weights.state import SparseState

__all__ = ["MaskedWeight"]


class MaskedWeight(Connections):
    """An ordinary weight under a mask.

    Args:
        name: Name of the weight.
        mask: Its mask.
        state: Owns the mask.
    """

    def __init__(self, name: str, mask: Tensor, state: SparseState) -> None:
        super().__init__(name, mask.shape, state.weights[name])
        self._mask, self._state = mask, state

    @cached_property
    def positions(self) -> Tensor:
        """Flat positions of the active weights, ascending, ``(nnz,)``."""
        return positions_of(self._mask)

    @property
    def active(self) -> Tensor:
        """Values of the active weights, ``(nnz,)``."""
        return self.parameter.detach().reshape(-1).index_select(0, self.positions)

    def gradient(self, passes: GradientSum | None, average: Average, scale: float) -> Tensor | None:
        """Return the parameter's gradient: Lightning has unscaled it, and processes have averaged it."""
        return self.parameter.grad

    def forget(self) -> None:
        """Do nothing: backward makes this gradient anyway."""

    def move_(self, positions: Tensor, optimizers: Iterable[Optimizer]) -> int:
        """Change the mask; tell how many active weights were not before."""
        stay = self._mask.reshape(-1).index_select(0, positions)
        flat = torch.zeros(self.shape.numel(), dtype=torch.bool, device=positions.device)
        self._mask = flat.index_fill_(0, positions, True).view(self.shape)
        self.positions = positions
        self._state.move_({self.name: self._mask}, optimizers)
        return len(positions) - int(stay.sum())

    def snapshot(self) -> Tensor:
        """Return the mask in bits."""
        return pack_bits(self._mask)

    def count_shared(self, snapshot: Tensor) -> int:
        """Count the bits that are set now as they were then."""
        return count_bits(snapshot & self.snapshot())

    def explored(self, before: Tensor | None) -> Tensor | None:
        """Return the bits set now or before."""
        return self.snapshot() if before is None else before | self.snapshot()
