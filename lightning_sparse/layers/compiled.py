"""The product as one opaque operator, so that ``torch.compile`` neither breaks the graph nor looks inside.

Inside are FFTs, sparse tensors and shared constants that tracing would get wrong or slow. The operator gets
the layer as a number, since operators take no objects.
"""

from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lightning_sparse.layers.autograd import product_gradients, without_autocast
from lightning_sparse.layers.products import DenseGradient, Product

__all__ = ["Multiplier", "multiply", "register"]


class Multiplier(Protocol):
    """What the operators ask of a layer."""

    shape: torch.Size
    dense_gradient: DenseGradient

    def product_for(self, x: Tensor) -> Product:
        """Return what multiplies such an input."""

    def output_size(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of the product with such an input."""


_LAYERS: "WeakValueDictionary[int, Multiplier]" = WeakValueDictionary()
_HANDLES = count()
_INPUTS = "Tensor x, Tensor values, Tensor? alpha"
# Not into a CUDA graph: a replay would not see that supports move, nor that a dense gradient is asked for.
_TAGS: Any = {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


def register(layer: Multiplier) -> int:
    """Return the number by which the operator finds this layer, while it lives in this process."""
    handle = next(_HANDLES)
    _LAYERS[handle] = layer
    return handle


@torch.library.custom_op(
    "lightning_sparse::multiply",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor? bias, int handle) -> Tensor",
    **_TAGS,
)
def multiply(x: Tensor, values: Tensor, alpha: Tensor | None, bias: Tensor | None, handle: int) -> Tensor:
    """Return ``(alpha C + S) x + b`` for the layer of that number."""
    with without_autocast(x.device):
        return _LAYERS[handle].product_for(x).forward(x, values, alpha, bias).contiguous()


@multiply.register_fake
def _(x: Tensor, values: Tensor, alpha: Tensor | None, bias: Tensor | None, handle: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(_LAYERS[handle].output_size(x))


@torch.library.custom_op(
    "lightning_sparse::multiply_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_INPUTS}, int handle, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)",
    **_TAGS,
)
def _multiply_backward(
    grad: Tensor, x: Tensor, values: Tensor, alpha: Tensor | None, handle: int, needs: list[bool]
) -> tuple[Tensor, ...]:
    """Return four gradients; those not needed are empty, since an operator cannot return None."""
    layer = _LAYERS[handle]
    product = layer.product_for(x)
    gradients = product_gradients(grad, x, values, alpha, tuple(needs), product, layer.dense_gradient)
    return tuple(
        g.contiguous() if need and g is not None else x.new_empty(0)
        for g, need in zip(gradients, needs, strict=True)
    )


@_multiply_backward.register_fake
def _(
    grad: Tensor,  # noqa: ARG001
    x: Tensor,
    values: Tensor,
    alpha: Tensor | None,
    handle: int,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    bias = values.new_empty(_LAYERS[handle].shape[0])
    like = (x, values, values if alpha is None else alpha, bias)
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) if need else x.new_empty(0)
        for t, need in zip(like, needs, strict=True)
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x, values, alpha, _, ctx.handle = inputs
    ctx.save_for_backward(x, values, alpha)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:4])
    gradients = _multiply_backward(grad, *ctx.saved_tensors, ctx.handle, needs)
    return *(g if need else None for g, need in zip(gradients, needs, strict=True)), None


multiply.register_autograd(_backward, setup_context=_keep)
