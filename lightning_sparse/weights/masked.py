"""An ordinary weight under a mask."""

from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from zlib import crc32

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.functional.packing import bits_of, pack_bits
from lightning_sparse.functional.ranking import mask_at, positions_of
from lightning_sparse.selection import countable_weights, parameters_by_name
from lightning_sparse.types import Average
from lightning_sparse.weights.base import SparseWeight, storage
from lightning_sparse.weights.sharded import ShardedWeight
from lightning_sparse.weights.shards import here, shards_of, total_of
from lightning_sparse.weights.state import SparseState, state_of
from lightning_sparse.weights.under_mask import UnderMask

__all__ = ["MaskedWeight", "weights_by_zeros"]


@storage
class MaskedWeight(UnderMask):
    """An ordinary dense parameter whose pruned entries are zeros; the mask is its `SparseState`'s.

    Args:
        name: Name of the weight.
        state: Holds the parameter, and owns its mask.
        make_mask: Makes the mask when it is asked for.
    """

    storage_name = "masked"

    @classmethod
    def found_in(cls, module: nn.Module) -> Sequence[SparseWeight]:
        """Return the weights that have a mask, but for those that have been replaced since."""
        state = state_of(module)
        if state.shards is not None:  # of those this process holds a part only
            return []
        there = parameters_by_name(module)
        names = [name for name, weight in state.weights.items() if there.get(name) is weight]
        return [cls(name, state, partial(state.mask, name)) for name in names]

    @property
    def nnz(self) -> int:
        """Number of kept entries."""
        return int(self._make_mask().count_nonzero())

    @cached_property
    def positions(self) -> Tensor:
        """Flat positions of the kept entries, ascending, ``(nnz,)``."""
        return positions_of(self._make_mask(), self._state.counts.get(self.name))

    @property
    def active(self) -> Tensor:
        """Values of the kept entries, ``(nnz,)``."""
        return self.parameter.detach().reshape(-1).index_select(0, self.positions)

    @property
    def stored(self) -> int:
        """Bytes of the whole parameter, which masks leave dense, and of what is kept of its mask."""
        return self.parameter.numel() * self.parameter.element_size() + self._state.mask_bytes(self.name)

    def digest(self) -> int:
        """Return the checksum of the mask's bits."""
        return crc32(self.snapshot().cpu().numpy().tobytes())

    def gradient(self, average: Average, scale: float) -> Tensor | None:
        """Return the parameter's own: Lightning has unscaled it, and processes have averaged it."""
        return self.parameter.grad

    def move_(self, positions: Tensor, optimizers: Iterable[Optimizer]) -> int | Tensor:
        """Change the mask."""
        mask = mask_at(positions, self.shape)
        stay = mask.reshape(-1).index_select(0, self.positions)
        self._state.move_({self.name: mask}, optimizers)
        self.positions = positions
        return len(positions) - stay.sum()

    def snapshot(self) -> Tensor:
        """Return the mask in bits."""
        return pack_bits(self._make_mask())

    def explored(self, before: Tensor | None) -> Tensor | None:
        """Return the bits set now or before, on the device of the mask."""
        bits = bits_of(self._make_mask())
        return bits if before is None else before.to(bits.device) | bits


def weights_by_zeros(module: nn.Module) -> list[SparseWeight]:
    """Return linear and convolutional weights as if masks, none in force, kept just what is not zero."""
    state = SparseState()
    state.weights = countable_weights(module)
    if (shards := shards_of(state.weights)) is not None:
        state.counts |= zip(state.weights, total_of(state.weights.values(), shards), strict=True)
        parts = {name: partial(_nonzero, here(weight)) for name, weight in state.weights.items()}
        return [ShardedWeight(name, state, shards, part) for name, part in parts.items()]
    return [MaskedWeight(name, state, partial(_nonzero, weight)) for name, weight in state.weights.items()]


def _nonzero(weight: Tensor) -> Tensor:
    return weight.detach() != 0
