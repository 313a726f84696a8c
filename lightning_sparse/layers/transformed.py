"""Dense-plus-Sparse products that never build the weight: fast transforms for C, entry by entry for S."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import product
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_sparse.functional.dct import accumulation_dtype
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets.base import LinearMap
from lightning_sparse.layers.products import DenseGradient, Gradients, Product
from lightning_sparse.layers.support import SparsePattern

__all__ = ["Transformed", "TransformedConvolution", "TransformedLinear"]


class Transformed(Product):
    """Multiply by C with its fast transform and by S entry by entry; the weight is never built.

    A large batch is gone through in parts, so that what is made on the way stays in the cache.

    Args:
        shape: Shape of the weight.
        geometry: Of the convolution; ``None`` for a linear layer.
        pattern: Positions of the values in the matrix that maps input columns to outputs.
        transform: The fast way to multiply by C; ``None`` if it is zero.
    """

    floats_at_a_time: ClassVar[int]
    """About how large the larger of input and output of a part are; found by timing on one machine."""

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
        parts = torch.split(x, self._items_at_a_time(x))
        return _joined([self._multiply(*_exact(part, values, alpha, bias)).to(x.dtype) for part in parts])

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        values: Tensor,
        alpha: Tensor | None,
        needs: Sequence[bool],
        dense: DenseGradient,
    ) -> Gradients:
        """Apply the adjoints."""
        if dense.wanted:
            dense.add(self.weight_gradient(grad, x))
        items = self._items_at_a_time(x)
        pairs = zip(torch.split(grad, items), torch.split(x, items), strict=True)
        parts = (self._gradients(needs, *_exact(g, inputs, values, alpha)) for g, inputs in pairs)
        d_x, d_values, d_alpha = _gathered(parts, x.dtype)
        return (
            d_x,
            None if d_values is None else d_values.to(values.dtype),
            None if d_alpha is None or alpha is None else d_alpha.to(alpha.dtype),
        )

    def _multiply(self, x: Tensor, values: Tensor, alpha: Tensor | None, bias: Tensor | None) -> Tensor:
        offset = self.transform(x) if self.transform is not None else None
        y = self._plus_sparse(offset, alpha, values, x)
        if bias is not None:
            y += bias.view(-1, *[1] * (y.dim() - 2))
        return y

    def _gradients(
        self, needs: Sequence[bool], grad: Tensor, x: Tensor, values: Tensor, alpha: Tensor | None
    ) -> Gradients:
        """The adjoint of C serves x and alpha alike: ``<C x, g> = <x, C' g>``."""
        laid_out = self._lay_out(grad)
        d_values = self._sample(laid_out, x) if needs[1] else None
        d_offset = d_alpha = d_x = None
        if self.transform is not None and (needs[0] or needs[2]):
            d_offset = self.transform.adjoint(grad, x.shape)
        if d_offset is not None and needs[2]:
            d_alpha = torch.dot(x.reshape(-1), d_offset.reshape(-1))
        if needs[0]:
            d_x = self._plus_sparse_adjoint(d_offset, alpha, values, laid_out, x.shape)
        return d_x, d_values, d_alpha

    def _items_at_a_time(self, x: Tensor) -> int:
        """Return how many vectors or images make a part: all of them where there is no cache to stay in."""
        if x.device.type != "cpu":
            return max(1, len(x))
        return max(1, self.floats_at_a_time // self._floats_per_item(x))

    @abstractmethod
    def _floats_per_item(self, x: Tensor) -> int:
        """Return the length of the longer of input and output of one vector or image."""

    @abstractmethod
    def _plus_sparse(self, offset: Tensor | None, alpha: Tensor | None, values: Tensor, x: Tensor) -> Tensor:
        """Return ``alpha offset + S x``; ``offset`` may be overwritten, and is zero if ``None``."""

    @abstractmethod
    def _lay_out(self, grad: Tensor) -> Tensor:
        """Return the output's gradient in the layout that the next two methods take."""

    @abstractmethod
    def _plus_sparse_adjoint(
        self,
        offset: Tensor | None,
        alpha: Tensor | None,
        values: Tensor,
        laid_out: Tensor,
        input_size: torch.Size,
    ) -> Tensor:
        """Return ``alpha offset + S' grad``; ``offset`` may be overwritten, and is zero if ``None``."""

    @abstractmethod
    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        """Return the entries of the weight's gradient on the support."""


class TransformedLinear(Transformed):
    """Transforms for ``(rows, in)``."""

    floats_at_a_time = 2**18

    def _floats_per_item(self, x: Tensor) -> int:  # noqa: ARG002
        return max(self.shape)

    def _plus_sparse(self, offset: Tensor | None, alpha: Tensor | None, values: Tensor, x: Tensor) -> Tensor:
        if self.pattern.is_tiny:
            y = _scaled(offset, alpha, (len(x), self.shape[0]), x)
            return self.pattern.add_rows_(y, values, x)
        return _plus_scaled(self.pattern.multiply(values, x.t().contiguous()).t(), offset, alpha)

    def _lay_out(self, grad: Tensor) -> Tensor:
        return grad if self.pattern.is_tiny else grad.t().contiguous()

    def _plus_sparse_adjoint(
        self,
        offset: Tensor | None,
        alpha: Tensor | None,
        values: Tensor,
        laid_out: Tensor,
        input_size: torch.Size,
    ) -> Tensor:
        if self.pattern.is_tiny:
            d_x = _scaled(offset, alpha, input_size, laid_out)
            return self.pattern.add_rows_adjoint_(d_x, values, laid_out)
        return _plus_scaled(self.pattern.multiply_adjoint(values, laid_out).t(), offset, alpha)

    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        if self.pattern.is_tiny:
            return self.pattern.sample_rows(laid_out, x)
        return self.pattern.sample(laid_out, x.t())


class TransformedConvolution(Transformed):
    """Transforms for convolutions: S acts on channels, place by place in the kernel, the batch innermost.

    So no patches are laid out, and what is at work at a time is one plane per channel: the pixels of images,
    and what corresponds to them in sequences and volumes.
    """

    floats_at_a_time = 2**19

    def _floats_per_item(self, x: Tensor) -> int:
        pixels = math.prod(self._geometry.output_size(x.shape, self.shape))
        return max(1, x[0].numel() if len(x) else 0, self.shape[0] * pixels)

    def _plus_sparse(self, offset: Tensor | None, alpha: Tensor | None, values: Tensor, x: Tensor) -> Tensor:
        size = self._geometry.output_size(x.shape, self.shape)
        sums = x.new_zeros(self.shape[0], *size, len(x))
        for pattern, v, window in zip(self._patterns, self._split(values), self._windows(x), strict=True):
            pattern.add_(sums, v, window)
        return _plus_scaled(sums.movedim(-1, 0), offset, alpha)

    def _lay_out(self, grad: Tensor) -> Tensor:
        return grad.movedim(0, -1).contiguous()  # long runs for sums of planes

    def _plus_sparse_adjoint(
        self,
        offset: Tensor | None,
        alpha: Tensor | None,
        values: Tensor,
        laid_out: Tensor,
        input_size: torch.Size,
    ) -> Tensor:
        (batch, channels, *sides), pads = input_size, self._geometry.padding
        wide = [side + 2 * pad for side, pad in zip(sides, pads, strict=True)]
        padded = laid_out.new_zeros(channels, *wide, batch)
        windows = self._windows_of(padded, laid_out.shape[1:-1])
        for pattern, v, window in zip(self._patterns, self._split(values), windows, strict=True):
            pattern.add_adjoint_(window, v, laid_out)
        inner = (slice(None), *(slice(pad, pad + side) for side, pad in zip(sides, pads, strict=True)))
        return _plus_scaled(padded[inner].movedim(-1, 0), offset, alpha)

    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        windows = self._windows(x)
        parts = [p.sample_planes(laid_out, window) for p, window in zip(self._patterns, windows, strict=True)]
        return torch.cat(parts).index_select(0, self._by_place[1])

    @property
    def _geometry(self) -> Convolution:
        assert self.geometry is not None
        return self.geometry

    @cached_property
    def _by_place(self) -> tuple[Tensor, Tensor, list[int]]:
        """The values in the order of their places in the kernel, the way back, how many each place has."""
        places = math.prod(self.shape[2:])
        place = self.pattern.cols % places
        order = place.argsort(stable=True)
        return order.int(), order.argsort().int(), place.bincount(minlength=places).tolist()

    @cached_property
    def _patterns(self) -> list[SparsePattern]:
        """For each place the matrix that maps channels to outputs."""
        order, _, counts = self._by_place
        places, (out, columns) = len(counts), self.pattern.shape
        rows, cols = self.pattern.rows[order], self.pattern.cols[order] // places
        pairs = zip(torch.split(rows, counts), torch.split(cols, counts), strict=True)
        return [SparsePattern(r, c, (out, columns // places)) for r, c in pairs]

    def _split(self, values: Tensor) -> Sequence[Tensor]:
        order, _, counts = self._by_place
        return torch.split(values.index_select(0, order), counts)

    def _windows(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the pixels of images that each place meets."""
        padded = F.pad(x.movedim(0, -1), (0, 0, *self._geometry.padding_from_last))
        return self._windows_of(padded.contiguous(), self._geometry.output_size(x.shape, self.shape))

    def _windows_of(self, padded: Tensor, output_size: Sequence[int]) -> Iterator[Tensor]:
        """Yield the pixels that each place in the kernel meets: ``(channels, *output sides, batch)``."""
        g = self._geometry
        for place in product(*map(range, self.shape[2:])):
            sides = zip(place, g.dilation, g.stride, output_size, strict=True)
            met = (slice(i * gap, i * gap + (side - 1) * step + 1, step) for i, gap, step, side in sides)
            every_met = (slice(None), *met)
            yield padded[every_met]


def _exact(first: Tensor, *others: Tensor | None) -> list[Any]:
    """Cast to the precision to compute in; that of the first tensor, but at least float32."""
    dtype = accumulation_dtype(first.dtype)
    return [t if t is None or t.dtype == dtype else t.to(dtype) for t in (first, *others)]


def _plus_scaled(sums: Tensor, offset: Tensor | None, alpha: Tensor | None) -> Tensor:
    """Return ``sums + alpha offset``; transposing first and adding in place is the fast order."""
    ordered = sums.contiguous()
    return ordered if offset is None or alpha is None else ordered.addcmul_(offset, alpha)


def _scaled(offset: Tensor | None, alpha: Tensor | None, size: Sequence[int], like: Tensor) -> Tensor:
    """Return ``alpha offset``, or zeros."""
    return like.new_zeros(size) if offset is None or alpha is None else offset * alpha


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _gathered(parts: Iterable[Gradients], dtype: torch.dtype) -> Gradients:
    """Join the gradients of x in their dtype; add up the others as they come, as k may exceed a part."""
    of_x: list[Tensor] = []
    d_values = d_alpha = None
    for d_x, of_values, of_alpha in parts:
        of_x += [] if d_x is None else [d_x.to(dtype)]
        d_values, d_alpha = _added(d_values, of_values), _added(d_alpha, of_alpha)
    return _joined(of_x) if of_x else None, d_values, d_alpha


def _added(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Return the sum, made in place; ``None`` is zero."""
    return more if total is None or more is None else total.add_(more)
