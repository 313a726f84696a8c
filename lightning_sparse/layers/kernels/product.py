"""Products of compact layers with S multiplied by kernels, and C by its fast transform."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.kernels.blocks import Blocks, blocks_to_sum
from lightning_sparse.layers.kernels.language import runs_on
from lightning_sparse.layers.kernels.sparse import Support, as_table, sample, sums
from lightning_sparse.layers.offsets.base import LinearMap
from lightning_sparse.layers.products import DenseGradient, Gradients, Product

__all__ = ["ByKernels", "LinearByKernels", "PointwiseByKernels"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class ByKernels(Product):
    """Multiply by C with its fast transform and by S with kernels, which add both up.

    What kernels do not take, which is float64 and devices without Triton, goes another way.

    Args:
        shape: Shape of the weight.
        geometry: Of the convolution; ``None`` for a linear layer.
        indices: Flat positions of the values, ascending.
        transform: The fast way to multiply by C; ``None`` if it is zero.
        plain: The other way.
    """

    def __init__(
        self,
        shape: torch.Size,
        geometry: Convolution | None,
        indices: Tensor,
        transform: LinearMap | None,
        plain: Product,
    ) -> None:
        super().__init__(shape, geometry)
        self.indices, self.transform, self.plain = indices, transform, plain

    def forward(self, x: Tensor, values: Tensor, alpha: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return ``alpha (C x) + S x + b``."""
        if not _take(x, values):
            return self.plain.forward(x, values, alpha, bias)
        offset = None
        if self.transform is not None and alpha is not None:
            offset = self.transform(_readable(x, self.transform))
        y, blocks = self._empty_output(x), self._blocks(x)
        sums(
            self._table(x, blocks.turn),
            self._support.by_output,
            values,
            self._view(y),
            offset=None if offset is None else self._view(offset),
            alpha=alpha,
            bias=bias,
            blocks=blocks,
        )
        return y

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        values: Tensor,
        alpha: Tensor | None,
        needs: Sequence[bool],
        dense: DenseGradient,
    ) -> Gradients:
        """Apply the adjoints; one transpose of ``grad`` serves both the input's gradient and the values'."""
        if not _take(x, values):
            return self.plain.backward(grad, x, values, alpha, needs, dense)
        if dense.wanted:
            dense.add(self.weight_gradient(grad, x))
        blocks = self._blocks(x)
        table = self._table(grad, blocks.turn) if needs[0] or needs[1] else grad
        d_values = None
        if needs[1]:
            d_values = sample(table, self._table(x, blocks.turn), self._support, values.dtype)
        d_offset = None
        if self.transform is not None and alpha is not None and (needs[0] or needs[2]):
            d_offset = self.transform.adjoint(_readable(grad, self.transform), x.shape)
        if not needs[0]:
            d_alpha = (x * d_offset).sum() if d_offset is not None else None
            return None, d_values, None if d_alpha is None or alpha is None else d_alpha.to(alpha.dtype)
        d_x = x.new_empty(x.shape)
        d_alpha = sums(
            table,
            self._support.by_input,
            values,
            self._view(d_x),
            offset=None if d_offset is None else self._view(d_offset),
            alpha=alpha,
            against=self._view(x) if d_offset is not None and needs[2] else None,
            blocks=blocks,
        )
        return d_x, d_values, None if d_alpha is None or alpha is None else d_alpha.to(alpha.dtype)

    @cached_property
    @abstractmethod
    def _support(self) -> Support:
        """The positions by outputs and by inputs."""

    @abstractmethod
    def _blocks(self, x: Tensor) -> Blocks:
        """Return how much one program makes of the product with x."""

    @abstractmethod
    def _empty_output(self, x: Tensor) -> Tensor:
        """Return memory for the product with x."""

    @abstractmethod
    def _view(self, tensor: Tensor) -> Tensor:
        """Return an input or output, or something shaped so, as ``(items, rows, features)``."""

    @abstractmethod
    def _table(self, tensor: Tensor, turn: bool) -> Tensor:
        """Return the same as kernels gather it."""


class LinearByKernels(ByKernels):
    """Products for ``(rows, in)``."""

    @cached_property
    def _support(self) -> Support:
        flat, (outputs, inputs) = self.indices.long(), self.shape
        return Support(flat // inputs, flat % inputs, (outputs, inputs))

    def _blocks(self, x: Tensor) -> Blocks:
        return blocks_to_sum(len(x), x.dtype)

    def _empty_output(self, x: Tensor) -> Tensor:
        return x.new_empty(len(x), self.shape[0])

    def _view(self, tensor: Tensor) -> Tensor:
        return tensor[None]

    def _table(self, tensor: Tensor, turn: bool) -> Tensor:
        return as_table(tensor, turn)


class PointwiseByKernels(ByKernels):
    """Products for kernels of one place, without stride and padding: each image is a table as it is."""

    @cached_property
    def _support(self) -> Support:
        assert self.geometry is not None
        (outputs, inputs), groups = self.shape[:2], self.geometry.groups
        flat = self.indices.long()
        output, first = flat // inputs, flat // inputs // (outputs // groups) * inputs
        return Support(output, flat % inputs + first, (outputs, inputs * groups))

    def _blocks(self, x: Tensor) -> Blocks:
        return Blocks(128 if math.prod(x.shape[2:]) > 64 else 64, 32)

    def _empty_output(self, x: Tensor) -> Tensor:
        return x.new_empty(len(x), self.shape[0], *x.shape[2:])

    def _view(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(2).transpose(1, 2)

    def _table(self, tensor: Tensor, turn: bool) -> Tensor:  # noqa: ARG002 (they are as kernels want them)
        return self._view(tensor.contiguous())


def _readable(x: Tensor, transform: LinearMap) -> Tensor:
    return x if transform.takes_half else x.float()


def _take(x: Tensor, values: Tensor) -> bool:
    return x.dtype in _DTYPES and values.dtype in _DTYPES and runs_on(x.device)
