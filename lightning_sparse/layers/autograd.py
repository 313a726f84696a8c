"""Products as differentiable functions, in eager mode and under ``torch.compile``."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from lightning_sparse.layers.products import DenseGradient, Materialized, Product

__all__ = ["build_weight", "multiply", "product_gradients", "without_autocast"]

_Context: TypeAlias = Any  # of an autograd function: PyTorch has no type for it
_AllGradients: TypeAlias = tuple[Tensor | None, ...]


def multiply(
    x: Tensor,
    values: Tensor,
    alpha: Tensor | None,
    bias: Tensor | None,
    product: Product,
    dense: DenseGradient,
) -> Tensor:
    """Return ``(alpha C + S) x + b``, differentiable once with respect to all four tensors."""
    result: Tensor = _Multiply.apply(x, values, alpha, bias, product, dense)
    return result


def build_weight(values: Tensor, alpha: Tensor | None, product: Materialized, dense: DenseGradient) -> Tensor:
    """Return ``alpha C + S`` in the dtype of the values, differentiable once."""
    result: Tensor = _BuildWeight.apply(values, alpha, product, dense)
    return result


def product_gradients(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    alpha: Tensor | None,
    needs: tuple[bool, ...],
    product: Product,
    dense: DenseGradient,
) -> _AllGradients:
    """Return the gradients of x, the values, alpha and the bias, as far as ``needs`` says."""
    with without_autocast(grad.device):
        gradients = product.backward(grad, x, values, alpha, needs, dense)
    d_bias = grad.sum([d for d in range(grad.dim()) if d != 1], dtype=values.dtype) if needs[3] else None
    return *gradients, d_bias


class _Multiply(Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        values: Tensor,
        alpha: Tensor | None,
        bias: Tensor | None,
        product: Product,
        dense: DenseGradient,
    ) -> Tensor:
        ctx.save_for_backward(x, values, alpha)
        ctx.product, ctx.dense = product, dense
        with without_autocast(x.device):
            return product.forward(x, values, alpha, bias)

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> _AllGradients:
        _refuse_second_derivatives()
        x, values, alpha = ctx.saved_tensors
        needs = ctx.needs_input_grad
        gradients = product_gradients(grads[0], x, values, alpha, needs, ctx.product, ctx.dense)
        return *gradients, None, None


class _BuildWeight(Function):
    @staticmethod
    def forward(
        ctx: _Context, values: Tensor, alpha: Tensor | None, product: Materialized, dense: DenseGradient
    ) -> Tensor:
        ctx.save_for_backward(values, alpha)
        ctx.product, ctx.dense = product, dense
        return product.weight(values, alpha).to(values.dtype)

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> _AllGradients:
        _refuse_second_derivatives()
        if ctx.dense.wanted:
            ctx.dense.add(grads[0].clone())
        with without_autocast(grads[0].device):
            return *ctx.product.weight_adjoint(grads[0], *ctx.saved_tensors), None, None


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep autocast from casting behind our back; the layer has cast its input already."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _refuse_second_derivatives() -> None:
    """Gradients are enabled in a backward pass only if it is to be differentiated again."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "`create_graph` must be False with Dense-plus-Sparse layers, which have no second derivatives, "
            "got True. Turn them into ordinary layers first: `to_dense_(module)`."
        )
