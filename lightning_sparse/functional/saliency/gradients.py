"""Scores from gradients of the loss: SNIP, GraSP, and FORCE's.

A loss is a function without arguments that runs one batch through the module as it is now and returns the
mean loss of the batch. Gradients are taken by ``autograd.grad``: no ``.grad`` is touched. With several
processes each has batches of its own, and ``average`` takes the mean over processes.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.isolation import sparsified
from lightning_sparse.functional.saliency.base import Average, one_process
from lightning_sparse.types import Loss, Masks, Scores

__all__ = ["cooled", "force", "grasp", "iterative_snip", "mean_gradients", "snip"]


def mean_gradients(
    weights: Mapping[str, Tensor], losses: Iterable[Loss], average: Average = one_process
) -> dict[str, Tensor]:
    """Return the gradient of the mean loss over batches, zero for weights that a loss does not reach.

    Half-precision gradients are summed in float32.

    Raises:
        ValueError: If there is no batch, or a loss depends on none of the weights.
    """
    total, count = {name: _zeros_like(weight) for name, weight in weights.items()}, 0
    for loss in losses:
        count += 1
        for name, gradient in zip(weights, _gradients(loss(), list(weights.values())), strict=True):
            if gradient is not None:
                total[name] += gradient
    if count == 0:
        raise SparsityError("`losses` must hold at least one batch, got none. Check the training data.")
    return {name: average(gradient.div_(count)) for name, gradient in total.items()}


def snip(weights: Mapping[str, Tensor], losses: Iterable[Loss], average: Average = one_process) -> Scores:
    """Return ``|g * w|``, the change of the loss to first order when a weight is removed.

    Source:
        Lee et al., "SNIP", ICLR 2019 (arXiv:1810.02340), equation 5; its normalisation changes no rank.
    """
    gradients = mean_gradients(weights, losses, average)
    return {name: gradients[name].mul_(weight.detach()).abs_() for name, weight in weights.items()}


def grasp(weights: Mapping[str, Tensor], losses: Sequence[Loss], average: Average = one_process) -> Scores:
    """Return ``w * Hg``, signed: what is highest is kept, since removing it would hurt the gradient flow.

    Args:
        weights: The weights scored.
        losses: Every batch is used twice, for the gradient g and for the product of the Hessian H with it.
        average: Takes the mean over processes.

    Raises:
        ValueError: If an operation of the net has no second derivative.

    Source:
        Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020
        (arXiv:2002.07376), equation 8; the sign is that of the weight's benefit.
    """
    gradients = mean_gradients(weights, losses, average)

    def gradient_flow(loss: Loss) -> Tensor:
        """Return <g, dL/dw> with g held fixed; its gradient is H g."""
        loss_value = loss()
        inner = _gradients(loss_value, list(weights.values()), create_graph=True)
        pairs = zip(gradients.values(), inner, strict=True)
        flow = torch.stack(
            [loss_value.new_zeros(()), *((g * d).sum() for g, d in pairs if d is not None)]
        ).sum()
        _refuse_once_differentiable(loss_value, flow)
        return flow

    flows = [partial(gradient_flow, loss) for loss in losses]
    with sdpa_kernel(SDPBackend.MATH), _second_derivatives():
        hessian_gradient = mean_gradients(weights, flows, average)
    return {name: hessian_gradient[name].mul_(weight.detach()) for name, weight in weights.items()}


def iterative_snip(
    weights: Mapping[str, Tensor],
    losses: Iterable[Loss],
    masks: Masks | None,
    average: Average = one_process,
) -> Scores:
    """Return SNIP's scores of the net that ``masks`` leave; what is pruned scores 0.

    Source:
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081), section 4.
    """
    scores = force(weights, losses, masks, average)  # what differs between the two is pruned anyway
    return scores if masks is None else {name: s.mul_(masks[name]) for name, s in scores.items()}


def force(
    weights: Mapping[str, Tensor],
    losses: Iterable[Loss],
    masks: Masks | None,
    average: Average = one_process,
) -> Scores:
    """Return ``|g * w|`` of original weights, with gradients of the net that ``masks`` leave: any may return.

    Source:
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081), equation 7.
    """
    with sparsified(weights, masks):
        gradients = mean_gradients(weights, losses, average)
    return {name: gradients[name].mul_(weight.detach()).abs_() for name, weight in weights.items()}


@contextmanager
def cooled(layer: nn.Module, temperature: float) -> Iterator[None]:
    """Divide the output of a layer, the net's last, by ``temperature`` for a while.

    Warns:
        UserWarning: If the layer is not called meanwhile, so that nothing was divided.
    """
    called = []

    def divide(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        called.append(True)
        return output / temperature

    handle = layer.register_forward_hook(divide)
    try:
        yield
    finally:
        handle.remove()
    if not called:
        warnings.warn(
            f"`temperature` {temperature} divided nothing: the last trained layer of the module is not "
            "called by its loss. Set it to None, or register the layer that makes the logits last.",
            stacklevel=4,
        )


def _gradients(
    loss: Tensor, weights: Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad:
        raise SparsityError(
            "The loss depends on no selected weight (to second order, for GraSP). Look for `detach` or "
            "`no_grad` in the step, or give a `loss_fn` of your own."
        )
    found = torch.autograd.grad(loss, list(weights), create_graph=create_graph, allow_unused=True)
    if any(gradient is None for gradient in found) and "CheckpointFunctionBackward" in _names(loss):
        raise SparsityError(
            "Gradient checkpointing with `use_reentrant=True` hides weights from `autograd.grad`. Checkpoint "
            "with `use_reentrant=False`, or not while scores are taken."
        )
    return found


def _names(tensor: Tensor) -> set[str]:
    return {node.name() for node in _graph(tensor)}


def _zeros_like(weight: Tensor) -> Tensor:
    half = weight.dtype in (torch.float16, torch.bfloat16)
    return torch.zeros_like(weight, dtype=torch.float32 if half else weight.dtype, requires_grad=False)


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """Explain torch's errors about what cannot be differentiated twice; they name the operation."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if "derivative" not in str(error):
            raise
        raise _no_second_derivative(str(error).splitlines()[0].rstrip(".")) from error


def _refuse_once_differentiable(loss: Tensor, flow: Tensor) -> None:
    """Raise ValueError where ``autograd.grad`` is silent: it leaves out what was marked so."""
    if "torch::autograd::Error" in _names(flow):
        own = {node.name() for node in _graph(loss) if isinstance(node, BackwardCFunction)}
        raise _no_second_derivative(f"{', '.join(sorted(own))} (marked once_differentiable)")


def _no_second_derivative(reason: str) -> ValueError:
    return ValueError(
        f"GraSP needs second derivatives, and an operation of the net has none: {reason}. Use another "
        "implementation of it, or another method (`snip`, `synflow`)."
    )


def _graph(tensor: Tensor) -> set[Node]:
    """Return the operations that a tensor was computed by."""
    found, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return found
