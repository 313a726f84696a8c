"""What a backend is: a way for layers to multiply. Each is a file here, which puts it into the table.

Estimates of time are microseconds of forward and backward in float32, on one thread of an AMD EPYC (Zen 4,
torch 2.14), fitted by ``python -m benchmarks.speed.backend_rule``. Only their ratios count.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets import Offset, OffsetName, offset_from_name
from lightning_sparse.layers.products import Product
from lightning_sparse.registry import add_row

__all__ = ["BACKEND_ROWS", "BackendRow", "LayerParts", "Work", "choose_backend", "register_backend"]


@dataclass(frozen=True)
class Work:
    """What there is to multiply.

    Args:
        shape: Shape of the weight, ``(out, in)`` or ``(out, in / groups, *kernel)``.
        nnz: Number of values k.
        rows: Vectors multiplied at a time; for convolutions output pixels of all images.
        device: Of the inputs.
        threads: Threads that PyTorch uses. Only matrix products are counted as shared among them.
        groups: Groups of a convolution.
        offset: The fixed matrix C.
    """

    shape: torch.Size
    nnz: int
    rows: int
    device: torch.device
    threads: int
    groups: int
    offset: Offset


@dataclass(frozen=True)
class LayerParts:
    """What a product is built of.

    Args:
        shape: Shape of the weight.
        geometry: Of the convolution; ``None`` for a linear layer.
        indices: Flat positions of the values in the weight, ascending, on the device of the layer.
        offset: The fixed matrix C.
        base: C itself, if it is one that the layer stores.
        dtype: Of constants: float32 or float64.
    """

    shape: torch.Size
    geometry: Convolution | None
    indices: Tensor
    offset: Offset
    base: Tensor | None
    dtype: torch.dtype

    def matrix(self) -> Tensor | None:
        """Return C in the shape of the weight, not to be written to; ``None`` if zero."""
        if self.base is not None:
            return self.base.detach()
        return self.offset.matrix(self.shape, self.dtype, self.indices.device)


class BackendRow(ABC):
    """A way to multiply by ``alpha C + S``: when it may be chosen, how long it takes, what does it."""

    name: ClassVar[str]
    """By which it is asked for."""

    @abstractmethod
    def available(self, work: Work) -> bool:
        """Return whether ``"auto"`` may take it: it can do this work, and its time was measured for such."""

    @abstractmethod
    def time(self, work: Work) -> float:
        """Return about how long a forward and backward pass takes, in the unit of all estimates."""

    @abstractmethod
    def build(self, parts: LayerParts) -> Product | None:
        """Return the product of a layer; ``None`` where this way has none: its weight is built then."""


BACKEND_ROWS: dict[str, type[BackendRow]] = {}
"""All backends by name."""

_Kind = TypeVar("_Kind", bound=type[BackendRow])


def register_backend(kind: _Kind) -> _Kind:
    """Put a class of backends into the table, under its ``name``.

    Raises:
        SparsityError: If another class has that name.
    """
    if kind.name == "auto":
        raise SparsityError("`name` must not be 'auto', which takes the fastest backend. Take another.")
    add_row(BACKEND_ROWS, kind.name, kind)
    choose_backend.cache_clear()
    return kind


@lru_cache(maxsize=1024)  # layers ask in every step, and the answer should take no longer than the question
def choose_backend(
    shape: torch.Size,
    nnz: int,
    rows: int,
    device: torch.device,
    threads: int,
    groups: int = 1,
    offset: Offset | OffsetName = "dct",
) -> str:
    """Return the backend that ``"auto"`` takes: of those available the one with the shortest estimated time.

    On a GPU that is always ``"materialize"``: no times have been fitted there. The arguments are those of
    `Work`.

    >>> choose_backend(torch.Size((4096, 4096)), nnz=1000, rows=128, device=torch.device("cpu"), threads=1)
    'transform'
    """
    offset = offset if isinstance(offset, Offset) else offset_from_name(offset)
    work = Work(shape, nnz, rows, device, threads, groups, offset)
    times = {name: kind().time(work) for name, kind in BACKEND_ROWS.items() if kind().available(work)}
    return min(times, key=times.__getitem__)
