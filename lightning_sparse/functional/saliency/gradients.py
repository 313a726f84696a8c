"""Gradients of the loss, as scores are made of them.

A loss is a function without arguments that runs one batch through the module as it is now and returns the
mean loss of the batch. Gradients are taken by ``autograd.grad``: no ``.grad`` is touched. With several
processes each has batches of its own, and ``average`` takes the mean over processes.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.saliency.base import Average, one_process
from lightning_sparse.functional.shards.layout import is_sharded
from lightning_sparse.types import Loss

__all__ = ["gradients_of", "mean_gradients", "operations_of"]


def mean_gradients(
    weights: Mapping[str, Tensor], losses: Iterable[Loss], average: Average = one_process
) -> dict[str, Tensor]:
    """Return the gradient of the mean loss over batches, zero for weights that a loss does not reach.

    Half-precision gradients are summed in float32.

    Raises:
        SparsityError: If there is no batch, or a loss depends on none of the weights.
    """
    total, count = {name: _zeros_like(weight) for name, weight in weights.items()}, 0
    for loss in losses:
        count += 1
        for name, gradient in zip(weights, gradients_of(loss(), list(weights.values())), strict=True):
            if gradient is not None:
                total[name] += gradient
    if count == 0:
        raise SparsityError("`losses` must hold at least one batch, got none. Check the training data.")
    means = {name: gradient.div_(count) for name, gradient in total.items()}
    return {name: mean if is_sharded(mean) else average(mean) for name, mean in means.items()}


def gradients_of(
    loss: Tensor, weights: Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Return the gradient of a loss by each weight, None where it does not depend on the weight.

    Args:
        loss: A scalar.
        weights: The weights.
        create_graph: Whether gradients will be differentiated once more.

    Raises:
        SparsityError: If the loss depends on no weight, or gradient checkpointing hides weights.
    """
    if not loss.requires_grad:
        raise SparsityError(
            "The loss depends on no selected weight (to second order, for GraSP). Look for `detach` or "
            "`no_grad` in the step, or give a `loss_fn` of your own."
        )
    if any(map(is_sharded, weights)):
        return _reduced_gradients(loss, weights)
    found = torch.autograd.grad(loss, list(weights), create_graph=create_graph, allow_unused=True)
    if any(gradient is None for gradient in found) and _is_checkpointed(loss):
        raise SparsityError(
            "Gradient checkpointing with `use_reentrant=True` hides weights from `autograd.grad`. Checkpoint "
            "with `use_reentrant=False`, or not while scores are taken."
        )
    return found


def _reduced_gradients(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Return gradients of split weights, the mean over processes: only a backward pass reduces them.

    The shards are no part of the graph, the whole weights that FSDP gathers are. `scoring` sees to it that
    there was no ``grad`` before, and gives it back.
    """
    loss.backward()  # type: ignore[no-untyped-call]
    found = tuple(weight.grad for weight in weights)
    for weight in weights:
        weight.grad = None
    return found


def _is_checkpointed(loss: Tensor) -> bool:
    return any(node.name() == "CheckpointFunctionBackward" for node in operations_of(loss))


def _zeros_like(weight: Tensor) -> Tensor:
    half = weight.dtype in (torch.float16, torch.bfloat16)
    return torch.zeros_like(weight, dtype=torch.float32 if half else weight.dtype, requires_grad=False)


def operations_of(tensor: Tensor) -> set[Node]:
    """Return the operations that a tensor was computed by."""
    found, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return found
