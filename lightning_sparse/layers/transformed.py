"""Dense-plus-Sparse products that never build the weight: fast transforms for C, entry by entry for S."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_sparse.functional.dct import accumulation_dtype
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets import LinearMap
from lightning_sparse.layers.products import DenseGradient, Gradients, Product
from lightning_sparse.layers.support import SparsePattern

__all__ = ["Transformed", "TransformedConvolution", "TransformedLinear"]


class Transformed(Product):
    """Multiply by C with its fast transform and by S entry by entry; the weight is never built.

    Args:
        shape: Shape of the weight.
        geometry: Of the convolution; ``None`` for a linear layer.
        pattern: Positions of the values in the matrix that maps input columns to outputs.
        transform: The fast way to multiply by C; ``None`` if it is zero.
    """

    def __init__(
        self,
        shape: torch.Size,
        geometry: Convolution | None,
        pattern: SparsePattern,
        transform: LinearMap | None,
    ) -> None:
        super().__init__(shape, geometry)
        self.pattern, self.transform = pattern, transform

    def forward(self, x: Tensor, values: Tensor, alpha: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return ``alpha (C x) + S x + b``, computed in float32 or float64."""
        exact, values = x.to(accumulation_dtype(x.dtype)), values.to(accumulation_dtype(x.dtype))
        offset = None
        if self.transform is not None and alpha is not None:
            offset = self.transform(exact) * alpha.to(exact.dtype)
        y = self._plus_sparse(offset, values, exact)
        if bias is not None:
            y += bias.to(y.dtype).view(-1, *[1] * (y.dim() - 2))
        return y.to(x.dtype)

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        values: Tensor,
        alpha: Tensor | None,
        needs: Sequence[bool],
        dense: DenseGradient,
    ) -> Gradients:
        """Apply the adjoints; the one of C serves x and alpha alike: ``<C x, g> = <x, C' g>``."""
        if dense.wanted:
            dense.add(self.weight_gradient(grad, x))
        dtype = accumulation_dtype(x.dtype)
        exact, g, v = x.to(dtype), grad.to(dtype), values.to(dtype)
        laid_out = self._lay_out(g)
        d_values = self._sample(laid_out, exact).to(values.dtype) if needs[1] else None
        d_offset = d_alpha = None
        if self.transform is not None and alpha is not None and (needs[0] or needs[2]):
            d_offset = self.transform.adjoint(g, exact.shape)
            d_alpha = (exact * d_offset).sum().to(alpha.dtype)
            d_offset *= alpha.to(dtype)
        d_x = self._plus_sparse_adjoint(d_offset, v, laid_out, exact.shape).to(x.dtype) if needs[0] else None
        return d_x, d_values, d_alpha

    @abstractmethod
    def _plus_sparse(self, y: Tensor | None, values: Tensor, x: Tensor) -> Tensor:
        """Return ``y + S x``; may write to ``y``, which is zero if ``None``."""

    @abstractmethod
    def _lay_out(self, grad: Tensor) -> Tensor:
        """Return the output's gradient in the layout that the next two methods take."""

    @abstractmethod
    def _plus_sparse_adjoint(
        self, d_x: Tensor | None, values: Tensor, laid_out: Tensor, input_size: torch.Size
    ) -> Tensor:
        """Return ``d_x + S' grad``; may write to ``d_x``, which is zero if ``None``."""

    @abstractmethod
    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        """Return the entries of the weight's gradient on the support."""


class TransformedLinear(Transformed):
    """Transforms for ``(rows, in)``."""

    def _plus_sparse(self, y: Tensor | None, values: Tensor, x: Tensor) -> Tensor:
        if self.pattern.is_tiny:
            y = x.new_zeros(len(x), self.shape[0]) if y is None else y
            return self.pattern.add_rows_(y, values, x)
        return _transposed_plus(self.pattern.multiply(values, x.t().contiguous()), y)

    def _lay_out(self, grad: Tensor) -> Tensor:
        return grad if self.pattern.is_tiny else grad.t().contiguous()

    def _plus_sparse_adjoint(
        self, d_x: Tensor | None, values: Tensor, laid_out: Tensor, input_size: torch.Size
    ) -> Tensor:
        if self.pattern.is_tiny:
            d_x = laid_out.new_zeros(input_size) if d_x is None else d_x
            return self.pattern.add_rows_adjoint_(d_x, values, laid_out)
        return _transposed_plus(self.pattern.multiply_adjoint(values, laid_out), d_x)

    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        if self.pattern.is_tiny:
            return self.pattern.sample_rows(laid_out, x)
        return self.pattern.sample(laid_out, x.t())


class TransformedConvolution(Transformed):
    """Transforms for images: S acts on columns, one per output pixel, with the batch innermost."""

    def _plus_sparse(self, y: Tensor | None, values: Tensor, x: Tensor) -> Tensor:
        sums = self.pattern.multiply(values, self._columns(x))
        height, width = self._geometry.output_size(x.shape, self.shape)
        sums = sums.view(self.shape[0], height, width, len(x)).permute(3, 0, 1, 2)
        return sums.contiguous() if y is None else y.add_(sums)

    def _lay_out(self, grad: Tensor) -> Tensor:
        return _batch_innermost(grad).flatten(1)

    def _plus_sparse_adjoint(
        self, d_x: Tensor | None, values: Tensor, laid_out: Tensor, input_size: torch.Size
    ) -> Tensor:
        images = self._fold(self.pattern.multiply_adjoint(values, laid_out), input_size)
        return images.contiguous() if d_x is None else d_x.add_(images)

    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        return self.pattern.sample(laid_out, self._columns(x))

    @property
    def _geometry(self) -> Convolution:
        assert self.geometry is not None
        return self.geometry

    def _columns(self, x: Tensor) -> Tensor:
        """Return the patches: ``(channels * height * width, pixels * batch)``."""
        vertical, horizontal = self._geometry.padding
        padded = _batch_innermost(F.pad(x, (horizontal, horizontal, vertical, vertical)))
        patches = torch.stack(list(self._windows(padded, x.shape)), 1)
        return patches.flatten(0, 1).flatten(1)

    def _fold(self, columns: Tensor, input_size: torch.Size) -> Tensor:
        """Add patches up to images ``input_size``, the adjoint of ``_columns``."""
        batch, channels, height, width = input_size
        top, left = self._geometry.padding
        padded = columns.new_zeros(channels, height + 2 * top, width + 2 * left, batch)
        patches = columns.view(channels, math.prod(self.shape[2:]), -1).unbind(1)
        for patch, window in zip(patches, self._windows(padded, input_size), strict=True):
            window += patch.view(window.shape)
        return padded[:, top : top + height, left : left + width].permute(3, 0, 1, 2)

    def _windows(self, padded: Tensor, input_size: torch.Size) -> Iterator[Tensor]:
        """Yield the pixels that each place in the kernel meets: ``(channels, out H, out W, batch)``."""
        g, (height, width) = self._geometry, self._geometry.output_size(input_size, self.shape)
        for place in product(range(self.shape[2]), range(self.shape[3])):
            top, left = (i * step for i, step in zip(place, g.dilation, strict=True))
            rows = slice(top, top + (height - 1) * g.stride[0] + 1, g.stride[0])
            yield padded[:, rows, left : left + (width - 1) * g.stride[1] + 1 : g.stride[1]]


def _batch_innermost(images: Tensor) -> Tensor:
    """Copy ``(batch, channels, H, W)`` to ``(channels, H, W, batch)``: long runs for sums of rows."""
    return images.permute(1, 2, 3, 0).contiguous()


def _transposed_plus(columns: Tensor, rows: Tensor | None) -> Tensor:
    """Return ``columns.T + rows``; transposing first and adding in place is the fast order."""
    transposed = columns.t().contiguous()
    return transposed if rows is None else transposed.add_(rows)
