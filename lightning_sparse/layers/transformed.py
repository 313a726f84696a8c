"""Dense-plus-Sparse products that never build the weight: fast transforms for C, entry by entry for S."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_sparse.functional.dct import accumulation_dtype
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets.base import LinearMap
from lightning_sparse.layers.products import DenseGradient, Gradients, Product

__all__ = ["Transformed", "plus_scaled", "scaled"]

# How large the larger of input and output of a part are on a GPU, so that all that is made of it on the way
# takes a few times 64 MiB.
GPU_FLOATS = 2**24


class Transformed(Product):
    """Multiply by C with its fast transform and by S entry by entry; the weight is never built.

    A large batch is gone through in parts, so that what is made on the way stays in the cache, or, on a GPU,
    takes little of its memory.

    Args:
        shape: Shape of the weight.
        geometry: Of the convolution; ``None`` for a linear layer.
        indices: Flat positions of the values, ascending.
        transform: The fast way to multiply by C; ``None`` if it is zero.
    """

    floats_at_a_time: ClassVar[int]
    """About how large the larger of input and output of a part are; found by timing on one machine."""

    def __init__(
        self,
        shape: torch.Size,
        geometry: Convolution | None,
        indices: Tensor,
        transform: LinearMap | None,
    ) -> None:
        super().__init__(shape, geometry)
        self.indices, self.transform = indices, transform

    def forward(self, x: Tensor, values: Tensor, alpha: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return ``alpha (C x) + S x + b``, computed in float32 or float64."""
        dtype = accumulation_dtype(x.dtype)
        values, alpha, bias = _cast(dtype, values, alpha, bias)
        ready, (parts,) = self._ready(values), self._parts(x)
        y, done = None, 0
        for part in parts:
            product = self._multiply(part.to(dtype), ready, alpha, bias).to(x.dtype)
            y, done = _placed(y, product, done, len(x)), done + len(part)
        assert y is not None
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
        """Apply the adjoints."""
        if dense.wanted:
            dense.add(self.weight_gradient(grad, x))
        dtype = accumulation_dtype(x.dtype)
        exact_values, exact_alpha = _cast(dtype, values, alpha)
        ready = self._ready_adjoint(exact_values) if needs[0] else None
        pairs = zip(*self._parts(x, grad), strict=True)
        parts = (self._gradients(needs, g.to(dtype), i.to(dtype), ready, exact_alpha) for i, g in pairs)
        d_x, d_values, d_alpha = _gathered(parts, x)
        return (
            d_x,
            None if d_values is None else d_values.to(values.dtype),
            None if d_alpha is None or alpha is None else d_alpha.to(alpha.dtype),
        )

    def _multiply(self, x: Tensor, ready: Any, alpha: Tensor | None, bias: Tensor | None) -> Tensor:
        offset = self.transform(x) if self.transform is not None else None
        y = self._plus_sparse(offset, alpha, ready, x)
        if bias is not None:
            y += bias.view(-1, *[1] * (y.dim() - 2))
        return y

    def _gradients(
        self, needs: Sequence[bool], grad: Tensor, x: Tensor, ready: Any, alpha: Tensor | None
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
            d_x = self._plus_sparse_adjoint(d_offset, alpha, ready, laid_out, x.shape)
        return d_x, d_values, d_alpha

    def _parts(self, x: Tensor, *others: Tensor) -> list[Sequence[Tensor]]:
        """Split a batch, and others along with it."""
        on_cpu = x.device.type == "cpu"
        items = max(1, (self.floats_at_a_time if on_cpu else GPU_FLOATS) // self._floats_per_item(x))
        # Whole registers: otherwise it takes a third longer.
        items -= items % next(width for width in (32, 8, 1) if width <= items)
        if len(x) <= items:
            return [(tensor,) for tensor in (x, *others)]
        return [torch.split(tensor, items) for tensor in (x, *others)]

    @abstractmethod
    def _floats_per_item(self, x: Tensor) -> int:
        """Return the length of the longer of input and output of one vector or image."""

    @abstractmethod
    def _ready(self, values: Tensor) -> Any:
        """Return S as `_plus_sparse` takes it, once for all parts of a batch."""

    @abstractmethod
    def _ready_adjoint(self, values: Tensor) -> Any:
        """Return S as `_plus_sparse_adjoint` takes it."""

    @abstractmethod
    def _plus_sparse(self, offset: Tensor | None, alpha: Tensor | None, ready: Any, x: Tensor) -> Tensor:
        """Return ``alpha offset + S x``; ``offset`` may be overwritten, and is zero if ``None``."""

    @abstractmethod
    def _lay_out(self, grad: Tensor) -> Tensor:
        """Return the output's gradient in the layout that the next two methods take."""

    @abstractmethod
    def _plus_sparse_adjoint(
        self,
        offset: Tensor | None,
        alpha: Tensor | None,
        ready: Any,
        laid_out: Tensor,
        input_size: torch.Size,
    ) -> Tensor:
        """Return ``alpha offset + S' grad``; ``offset`` may be overwritten, and is zero if ``None``."""

    @abstractmethod
    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        """Return the entries of the weight's gradient on the support."""


def plus_scaled(sums: Tensor, offset: Tensor | None, alpha: Tensor | None) -> Tensor:
    """Return ``sums + alpha offset``, made in place."""
    return sums if offset is None or alpha is None else sums.addcmul_(offset, alpha)


def scaled(offset: Tensor | None, alpha: Tensor | None, size: Sequence[int], like: Tensor) -> Tensor:
    """Return ``alpha offset``, or zeros."""
    return like.new_zeros(size) if offset is None or alpha is None else offset * alpha


def _cast(dtype: torch.dtype, *tensors: Tensor | None) -> list[Any]:
    return [t if t is None or t.dtype == dtype else t.to(dtype) for t in tensors]


def _placed(whole: Tensor | None, part: Tensor, start: int, length: int) -> Tensor:
    """Put a part into its place in the whole, which is made with the first one."""
    if len(part) == length:
        return part
    if whole is None:
        whole = part.new_empty(length, *part.shape[1:])
    whole[start : start + len(part)] = part
    return whole


def _gathered(parts: Iterable[Gradients], x: Tensor) -> Gradients:
    """Join the gradients of x in its dtype; add up the others as they come, as k may exceed a part."""
    d_x = d_values = d_alpha = None
    done = 0
    for of_x, of_values, of_alpha in parts:
        if of_x is not None:
            d_x, done = _placed(d_x, of_x.to(x.dtype), done, len(x)), done + len(of_x)
        d_values, d_alpha = _added(d_values, of_values), _added(d_alpha, of_alpha)
    return d_x, d_values, d_alpha


def _added(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Return the sum, made in place; ``None`` is zero."""
    return more if total is None or more is None else total.add_(more)
