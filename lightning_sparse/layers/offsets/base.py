"""What an offset is: the dense part of a layer's weight. Each is a file here, which puts it into the table.

An offset is plain data without tensors, so layers share it, copy it and print it. It hands out its matrix,
and, where there is one, a `LinearMap` that multiplies by it faster than the matrix could.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor

from lightning_sparse.checks import check_choice
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.registry import add_row

__all__ = ["OFFSETS", "LinearMap", "Offset", "OffsetOptions", "offset_from_name", "register_offset"]

OffsetOptions: TypeAlias = Mapping[str, str | int | float | bool]
"""Arguments of an offset, as plain values by name."""


class LinearMap(ABC):
    """A fixed matrix or convolution as two functions; inputs are float32 or float64."""

    takes_half: bool = False
    """Whether inputs may be bfloat16 and float16 as well; results have the dtype of inputs then."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to ``(rows, in)``, or to ``(batch, channels, *sides)``."""

    @abstractmethod
    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        """Apply the transposed map, to a tensor shaped like the output; the result has ``input_size``."""


class Offset(ABC):
    """The dense part C of a layer ``alpha C + S``: a frozen dataclass, whose fields are plain values."""

    name: ClassVar[str]
    """By which it is asked for, and known in checkpoints."""
    is_zero: ClassVar[bool] = False
    """Whether there is no dense part."""
    is_stored: ClassVar[bool] = False
    """Whether C is the weight that the layer had, which the layer then holds as ``base``, frozen.

    What depends on C's entries is asked of the layer then: `matrix` and `transform` return None.
    """

    @property
    def layer_storage(self) -> str:
        """What tables call a weight that is stored beside it: ``"compact"``, or ``"dct + compact"``."""
        return "compact" if self.is_zero else f"{self.name} + compact"

    @property
    def has_alpha(self) -> bool:
        """Whether C is scaled."""
        return not (self.is_zero or self.is_stored)

    @abstractmethod
    def options(self, shape: torch.Size) -> OffsetOptions:
        """Return the arguments that make a difference to C for a weight of that shape.

        Checkpoints hold them beside the name: values of one offset mean nothing with another.
        """

    @abstractmethod
    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """Return C in the shape of the weight, shared and only to be read; ``None`` if zero or stored."""

    @abstractmethod
    def transform(
        self, shape: torch.Size, geometry: Convolution | None, dtype: torch.dtype, device: torch.device
    ) -> LinearMap | None:
        """Return the fast way to multiply by C, or ``None`` where there is none, or nothing to multiply.

        Args:
            shape: Shape of the layer's weight, ``(out, in)`` or ``(out, in / groups, *kernel)``.
            geometry: Of the convolution; ``None`` for a linear layer.
            dtype: float32 or float64.
            device: Where inputs will lie.
        """

    @abstractmethod
    def transform_time(self, shape: torch.Size, rows: int, threads: int) -> float:
        """Return about how long `transform` takes, forward and backward; infinity where there is none.

        In the unit of the estimates in ``lightning_sparse/layers/backends``, microseconds on one machine:
        ``backend="auto"`` compares them.

        Args:
            shape: Shape of the weight of a linear layer, or of a convolution in one group.
            rows: Vectors multiplied at a time; for convolutions output pixels of all images.
            threads: Threads that PyTorch uses.
        """

    @abstractmethod
    def norm(self, shape: torch.Size) -> float:
        """Return the Frobenius norm of C for a weight of that shape."""


OFFSETS: dict[str, type[Offset]] = {}
"""All offsets by name."""

_Kind = TypeVar("_Kind", bound=type[Offset])


def register_offset(kind: _Kind) -> _Kind:
    """Put a class of offsets into the table, under its ``name``; all its arguments need defaults.

    Raises:
        SparsityError: If another class has that name.
    """
    add_row(OFFSETS, kind.name, kind)
    return kind


def offset_from_name(name: str) -> Offset:
    """Return the offset of that name, with its default arguments.

    Raises:
        SparsityError: If there is none.

    >>> offset_from_name("dct")
    DCTOffset(patch_order='hwc')
    """
    check_choice("offset", name, OFFSETS)
    return OFFSETS[name]()
