"""One interface to everything that holds a sparse weight.

A storage is one file of this package: a child of `SparseWeight`, registered by `@storage`. Reports, monitors,
ranks that are compared, connections that move, plans and exports all go through `sparse_weights(module)`, and
ask no weight how it is stored.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.functional.ranking import mask_at
from lightning_sparse.functional.shards.layout import Shards
from lightning_sparse.registry import add_row
from lightning_sparse.types import Average
from lightning_sparse.weights.shards import as_shards, here, whole

__all__ = ["SPARSE", "STORAGES", "Shown", "SparseWeight", "storage"]


@dataclass(frozen=True)
class Shown:
    """How reports and logs speak of a weight.

    Args:
        metric: Group under which one minus the density is logged.
        title: Title of its table.
        columns: Headings of that table for all entries, the active ones, and their share.
        histogram: Group of the histograms of its active entries.
    """

    metric: str
    title: str
    columns: tuple[str, str, str]
    histogram: str


SPARSE = Shown("sparsity", "Weights kept", ("weights", "kept", "density"), "weights")
"""Of weights whose other entries are zero."""


class SparseWeight(ABC):
    """A weight of which some entries are active and the others zero, however it is stored.

    Attributes:
        name: Parameter name of the weight: ``<layer>.weight``, also where no such parameter is.
        shape: Shape of the whole weight.
        parameter: What optimizers hold of it.
        base: The fixed dense part, where it is stored beside; ``None`` where there is none or it is computed.
        offset_work: Multiply-adds of the fixed dense part on one vector, in theory.
        shards: Which rows this process holds, ``None`` if all. ``positions``, ``active``, ``gradient`` and
            ``move_`` are about these rows, all else about the whole weight.
    """

    storage_name: ClassVar[str]
    """By which the way to store it is known."""
    takes_masks: ClassVar[bool]
    """Whether masks can be put on the parameter itself, and changed to any count."""
    support_noun: ClassVar[str]
    """What the positions of the active entries are called in messages, in the plural."""
    shown: Shown
    """How reports and logs speak of it."""

    def __init__(self, name: str, shape: torch.Size, parameter: nn.Parameter) -> None:
        self.name, self.shape, self.parameter = name, shape, parameter
        self.base: Tensor | None = None
        self.offset_work = 0.0
        self.shards: Shards | None = None

    @property
    def prunes(self) -> bool:
        """Whether the entries that are not active are zero, rather than those of a dense matrix."""
        return self.shown.metric == SPARSE.metric

    @property
    @abstractmethod
    def stored_as(self) -> str:
        """Where its entries are: words for tables."""

    @classmethod
    @abstractmethod
    def found_in(cls, module: nn.Module) -> Sequence["SparseWeight"]:
        """Return the weights of a module that are stored in this way, each once."""

    @property
    @abstractmethod
    def in_force(self) -> bool:
        """Whether the other entries are kept at zero now; after a fit masks are only known."""

    @property
    @abstractmethod
    def nnz(self) -> int:
        """Number of active entries."""

    @property
    @abstractmethod
    def positions(self) -> Tensor:
        """Flat positions of the active entries, ascending, ``(nnz,)``."""

    @property
    @abstractmethod
    def active(self) -> Tensor:
        """Values of the active entries, ``(nnz,)``; not to be written to."""

    @property
    @abstractmethod
    def stored(self) -> int:
        """Bytes of the values, of the positions (or of the mask) and of ``base``, as they are in memory."""

    @property
    def mask(self) -> Tensor:
        """Boolean mask in the shape of the weight, True where an entry is active; made anew, or gathered."""
        if self.shards is None:
            return mask_at(self.positions, self.shape)
        part = mask_at(self.positions, here(self.parameter).shape)
        return whole(as_shards({self.name: part}, {self.name: self.parameter})[self.name])

    @abstractmethod
    def digest(self) -> int:
        """Return a checksum of the positions, to compare between processes."""

    @abstractmethod
    def ask_for_gradient(self) -> None:
        """See to it that backward makes the gradient of the whole weight, from the next pass on."""

    @abstractmethod
    def gradient(self, average: Average, scale: float) -> Tensor | None:
        """Return the gradient of the whole weight, unscaled and averaged over processes; None without one.

        Args:
            average: Mean over processes of a tensor.
            scale: Factor that the loss was multiplied with.
        """

    @abstractmethod
    def forget_gradient(self) -> None:
        """Let backward make no more than it would anyway."""

    @abstractmethod
    def move_(self, positions: Tensor, optimizers: Iterable[Optimizer]) -> int | Tensor:
        """Make the entries at ``positions`` active instead, as many; return how many were not before.

        The number may be left on its device, for whoever needs it to wait for it.
        Dropped ones become zero, new ones start there, and what optimizers keep for either does as well.
        """

    @abstractmethod
    def snapshot(self) -> Tensor:
        """Return what is active now, to be kept: as small as the storage promises."""

    @abstractmethod
    def count_shared(self, snapshot: Tensor) -> int:
        """Count the active entries that were active at a ``snapshot``."""

    @abstractmethod
    def explored(self, before: Tensor | None) -> Tensor | None:
        """Return bits of all that was ever active, given those of before; None if they cost too much."""


_Storage = TypeVar("_Storage", bound=type[SparseWeight])

STORAGES: dict[str, type[SparseWeight]] = {}
"""Every way to store a sparse weight, by its name."""


def storage(kind: _Storage) -> _Storage:
    """Register a storage: from now on `sparse_weights` finds what is stored so.

    Raises:
        SparsityError: If another storage has that name.
    """
    add_row(STORAGES, kind.storage_name, kind)
    return kind
