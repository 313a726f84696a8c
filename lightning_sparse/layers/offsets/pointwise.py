"""A kernel of one place as a linear map on the channels of every pixel that the stride meets."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets.base import LinearMap

__all__ = ["Pointwise"]


@dataclass(frozen=True)
class Pointwise(LinearMap):
    """Apply a map of rows to pixels, of inputs with any number of spatial dimensions.

    Args:
        rows: A map of ``(rows, in)``.
        geometry: Of the convolution: in one group.
    """

    rows: LinearMap
    geometry: Convolution

    @property
    def takes_half(self) -> bool:  # type: ignore[override]
        """Whether the map of rows does."""
        return self.rows.takes_half

    def __call__(self, x: Tensor) -> Tensor:
        """Map the channels of every pixel."""
        pixels = self.geometry.met_pixels(F.pad(x, self.geometry.padding_from_last)).movedim(1, -1)
        mapped = self.rows(pixels.reshape(-1, pixels.shape[-1]))
        return mapped.view(*pixels.shape[:-1], mapped.shape[1]).movedim(-1, 1)

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        """Map back; pixels that no output has met get zeros."""
        last = grad.movedim(1, -1)
        rows = last.reshape(-1, last.shape[-1])
        mapped = self.rows.adjoint(rows, torch.Size((len(rows), input_size[1])))
        sides = list(zip(input_size[2:], self.geometry.padding, strict=True))
        padded = grad.new_zeros(*input_size[:2], *(side + 2 * pad for side, pad in sides))
        self.geometry.met_pixels(padded).copy_(mapped.view(*last.shape[:-1], mapped.shape[1]).movedim(-1, 1))
        inner = (slice(None), slice(None), *(slice(pad, pad + side) for side, pad in sides))
        return padded[inner]
