"""How ``y = (alpha C + S) x + b`` and its gradients are computed: the interface, and the plain way.

Between forward and backward only ``x`` is kept. Backward hands out gradients of k values, not of the weight;
that one goes to a `DenseGradient` when it asks for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_sparse.functional.dct import accumulation_dtype
from lightning_sparse.layers.geometry import Convolution

__all__ = ["DenseGradient", "Gradients", "Materialized", "Product"]

Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]
"""With respect to x, the values and alpha."""


@dataclass
class DenseGradient:
    """Takes the gradient of a whole weight from backward while somebody asks for it.

    Args:
        wanted: Whether backward shall make it.
        consumer: Gets it in each backward pass; without one the passes are summed up in ``total``.
    """

    wanted: bool = False
    consumer: Callable[[Tensor], None] | None = None
    total: Tensor | None = None

    def reset(self, wanted: bool = False, consumer: Callable[[Tensor], None] | None = None) -> None:
        """Start anew; in place, since passes under way hold on to this object."""
        self.wanted, self.consumer, self.total = wanted, consumer, None

    def add(self, grad: Tensor) -> None:
        """Take the gradient of one backward pass, shaped like the weight."""
        if self.consumer is not None:
            self.consumer(grad)
        else:
            self.total = grad if self.total is None else self.total.add_(grad)


class Product(ABC):
    """One layer's product by one backend; its inputs are ``(rows, in)`` or ``(batch, channels, *sides)``.

    Args:
        shape: Shape of the weight.
        geometry: Of the convolution; ``None`` for a linear layer.
    """

    def __init__(self, shape: torch.Size, geometry: Convolution | None) -> None:
        self.shape, self.geometry = shape, geometry

    @abstractmethod
    def forward(self, x: Tensor, values: Tensor, alpha: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return y in the dtype of ``x``."""

    @abstractmethod
    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        values: Tensor,
        alpha: Tensor | None,
        needs: Sequence[bool],
        dense: DenseGradient,
    ) -> Gradients:
        """Return gradients with respect to x, values and alpha, as far as ``needs`` says."""

    def multiply_by(self, weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by a whole weight in the dtype of ``x``, as the ordinary layer does."""
        bias = None if bias is None else bias.to(x.dtype)
        if self.geometry is None:
            return F.linear(x, weight, bias)
        return self.geometry.convolve(x, weight, bias)

    def gradients_by(
        self, weight: Tensor, grad: Tensor, x: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x and of a whole weight, as far as ``needs`` says."""
        if self.geometry is not None:
            return self.geometry.gradients(grad, x, weight, needs)
        return grad @ weight if needs[0] else None, self.weight_gradient(grad, x) if needs[1] else None

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of the whole weight."""
        if self.geometry is None:
            return grad.t() @ x
        return self.geometry.weight_gradient(grad, x, self.shape)


class Materialized(Product):
    """Build the weight, multiply, forget it; in backward build it again.

    Args:
        shape: Shape of the weight.
        geometry: Of the convolution; ``None`` for a linear layer.
        indices: Flat positions of the values.
        matrix: C in the shape of the weight; ``None`` if it is zero. Without an alpha it counts as it is.
    """

    def __init__(
        self, shape: torch.Size, geometry: Convolution | None, indices: Tensor, matrix: Tensor | None
    ) -> None:
        super().__init__(shape, geometry)
        self.indices, self.matrix = indices, matrix

    def forward(self, x: Tensor, values: Tensor, alpha: Tensor | None, bias: Tensor | None) -> Tensor:
        """Multiply by the weight."""
        return self.multiply_by(self.weight(values, alpha).to(x.dtype), x, bias)

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        values: Tensor,
        alpha: Tensor | None,
        needs: Sequence[bool],
        dense: DenseGradient,
    ) -> Gradients:
        """Make the weight's gradient for a moment, and keep the entries of the support."""
        of_weight = needs[1] or needs[2] or dense.wanted
        d_x, d_weight = self._gradients(grad, x, values, alpha, (needs[0], of_weight))
        if d_weight is None:
            return d_x, None, None
        if dense.wanted:
            dense.add(d_weight)
        return d_x, *self.weight_adjoint(d_weight, values, alpha)

    def weight(self, values: Tensor, alpha: Tensor | None) -> Tensor:
        """Return ``alpha C + S``, in float64 for float64, else float32."""
        dtype = accumulation_dtype(values.dtype)
        if self.matrix is None:
            weight = values.new_zeros(self.shape, dtype=dtype)
        elif alpha is None:
            weight = self.matrix.to(dtype, copy=True, memory_format=torch.contiguous_format)
        else:
            weight = self.matrix * alpha.to(dtype)
        weight.view(-1).index_add_(0, self.indices, values.to(dtype))
        return weight

    def weight_adjoint(
        self, grad: Tensor, values: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of the values and of alpha for that of the weight."""
        flat = grad.reshape(-1)
        d_values = flat.index_select(0, self.indices).to(values.dtype)
        if self.matrix is None or alpha is None:
            return d_values, None
        return d_values, torch.dot(flat.to(self.matrix.dtype), self.matrix.view(-1)).to(alpha.dtype)

    def _gradients(
        self, grad: Tensor, x: Tensor, values: Tensor, alpha: Tensor | None, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x and of the weight."""
        if not needs[0]:
            return None, self.weight_gradient(grad, x) if needs[1] else None
        return self.gradients_by(self.weight(values, alpha).to(grad.dtype), grad, x, needs)
