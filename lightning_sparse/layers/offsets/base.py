"""What is added to the sparse matrix of a layer: a fixed dense matrix that costs no memory, or nothing.

An offset is plain data without tensors, so layers share it, copy it and print it. It hands out its matrix,
and, where there is one, a `LinearMap` that multiplies by it faster than the matrix could.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_sparse.layers.geometry import Convolution

__all__ = ["LinearMap", "NoOffset", "Offset"]


class LinearMap(ABC):
    """A fixed matrix or convolution as two functions; inputs are float32 or float64."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to ``(rows, in)``, or to images ``(batch, channels, H, W)``."""

    @abstractmethod
    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        """Apply the transposed map, to a tensor shaped like the output; the result has ``input_size``."""


class Offset(ABC):
    """The dense part C of a layer ``alpha C + S``."""

    @property
    def is_zero(self) -> bool:
        """Whether there is no dense part, and hence no alpha."""
        return False

    def marker(self, shape: torch.Size) -> str | None:  # noqa: ARG002
        """Return the key by which a state dict tells this offset from others, or ``None``."""
        return None

    @abstractmethod
    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """Return C in the shape of the layer's weight, shared and not to be written to; ``None`` if zero."""

    @abstractmethod
    def transform(
        self, shape: torch.Size, geometry: Convolution | None, dtype: torch.dtype, device: torch.device
    ) -> LinearMap | None:
        """Return the fast way to multiply by C, or ``None`` where there is none, or nothing to multiply.

        Args:
            shape: Shape of the layer's weight, ``(out, in)`` or ``(out, in / groups, height, width)``.
            geometry: Of the convolution; ``None`` for a linear layer.
            dtype: float32 or float64.
            device: Where inputs will lie.
        """

    @abstractmethod
    def norm(self, shape: torch.Size) -> float:
        """Return the Frobenius norm of C for a weight of that shape."""


@dataclass(frozen=True)
class NoOffset(Offset):
    """Nothing: a plain sparse layer, stored compactly. It has no alpha."""

    @property
    def is_zero(self) -> bool:
        """True."""
        return True

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        """Return ``None``."""

    def transform(
        self,
        shape: torch.Size,
        geometry: Convolution | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Return ``None``."""

    def norm(self, shape: torch.Size) -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0
