"""A weight of which this process holds some rows, under a mask that is split as it is."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from zlib import crc32

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.functional.packing import bits_of, pack_bits
from lightning_sparse.functional.ranking import mask_at, positions_of
from lightning_sparse.functional.shards.layout import Shards
from lightning_sparse.selection import parameters_by_name
from lightning_sparse.types import Average
from lightning_sparse.weights.base import SparseWeight, storage
from lightning_sparse.weights.shards import as_shards, here, is_sharded, reshard_
from lightning_sparse.weights.state import SparseState, state_of
from lightning_sparse.weights.under_mask import UnderMask

__all__ = ["ShardedWeight"]


@storage
class ShardedWeight(UnderMask):
    """A ``DTensor`` whose pruned entries are zeros; the mask of its rows is in the `SparseState`.

    ``mask``, ``snapshot`` and what is counted against one are of the whole weight, and gathered: every
    process has to ask for them.

    Args:
        name: Name of the weight.
        state: Holds the parameter, and owns its mask.
        shards: Which rows this process holds.
        make_part: Makes the mask of these rows when it is asked for.
    """

    storage_name = "sharded"

    shards: Shards

    def __init__(
        self, name: str, state: SparseState, shards: Shards, make_part: Callable[[], Tensor]
    ) -> None:
        super().__init__(name, state, make_part)
        self.shards = shards

    @classmethod
    def found_in(cls, module: nn.Module) -> Sequence[SparseWeight]:
        """Return the split weights that have a mask, but for those that have been replaced since."""
        state = state_of(module)
        if state.shards is None:
            return []
        there = {name: p for name, p in parameters_by_name(module).items() if is_sharded(p)}
        if any(name not in there for name in state.weights):
            reshard_(module)  # whole weights may be in their places
            there = parameters_by_name(module)
        names = [name for name, weight in state.weights.items() if there.get(name) is weight]
        return [cls(name, state, state.shards, partial(state.part, name)) for name in names]

    @property
    def nnz(self) -> int:
        """Number of kept entries, on all processes."""
        return self._state.counts[self.name]

    @cached_property
    def positions(self) -> Tensor:
        """Flat positions of the kept entries among the rows of this process, ascending."""
        return positions_of(self._make_mask())

    @property
    def active(self) -> Tensor:
        """Values of these entries."""
        return here(self.parameter.detach()).reshape(-1).index_select(0, self.positions)

    @property
    def stored(self) -> int:
        """Bytes of what this process holds of the parameter, and of what is kept of its mask."""
        return here(self.parameter).nbytes + self._state.mask_bytes(self.name)

    def digest(self) -> int:
        """Return a checksum over those of all parts, once their counts add up.

        Processes that hold the same part, where a net is replicated too, get another one if they differ.

        Raises:
            RuntimeError: On every process, if all parts together do not keep what they were given.
        """
        part = self._make_mask()
        held, kept = crc32(pack_bits(part).numpy().tobytes()), int(part.count_nonzero())
        sums, counts = self.shards.table([held, kept]).tolist()
        if sum(counts) != self.nnz:
            raise RuntimeError(
                f"The processes keep {sum(counts)} weights of {self.name!r} in all, instead of {self.nnz}. "
                "Look for code that changes masks on one of them."
            )
        return crc32(repr(sums).encode())

    def gradient(self, average: Average, scale: float) -> Tensor | None:
        """Return what this process holds of the parameter's own, which FSDP has averaged."""
        gradient = self.parameter.grad
        return None if gradient is None else here(gradient)

    def move_(self, positions: Tensor, optimizers: Iterable[Optimizer]) -> int:
        """Change the mask of the rows of this process; return how many have moved on all of them."""
        mask = mask_at(positions, here(self.parameter).shape)
        stay = int(mask.reshape(-1).index_select(0, self.positions).sum())
        self._state.move_(as_shards({self.name: mask}, {self.name: self.parameter}), optimizers)
        self.positions = positions
        (moved,) = self.shards.total([len(positions) - stay])
        return moved

    def snapshot(self) -> Tensor:
        """Return the whole mask in bits: a run may be resumed by other processes than have made it."""
        return pack_bits(self.mask)

    def explored(self, before: Tensor | None) -> Tensor | None:
        """Return the bits set now or before, of the whole weight, on the CPU."""
        bits = bits_of(self.mask).cpu()
        return bits if before is None else before.cpu() | bits
