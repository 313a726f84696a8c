"""Gradients that are masked before the step, as they are to be clipped."""

from torch import nn
from torch.optim import Optimizer

from lightning_sparse.checks import SparsityError, check_kind
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.state import state_of

__all__ = ["mask_gradients_"]


def mask_gradients_(module: nn.Module, *optimizers: Optimizer) -> None:
    """Set gradients of pruned weights to zero before the step, so that clipping sees those of the sparse net.

    In a loop of your own: after backward, before gradients are clipped. A `ConnectionMover` makes its update
    here if one is due, as it needs the gradients of all weights, unclipped.

    Args:
        module: One that `keep_sparse_` or a `ConnectionMover` holds.
        *optimizers: Those that are about to step, as they were given there; none: all of these.

    Raises:
        SparsityError: If nobody holds the module.

    Examples:
        >>> import torch
        >>> from lightning_sparse import keep_sparse_, sparsify_
        >>> net = nn.Sequential(nn.Linear(20, 10))
        >>> masks = sparsify_(net, "magnitude", density=0.1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> keep_sparse_(net, optimizer)
        >>> net(torch.randn(4, 20)).square().mean().backward()
        >>> mask_gradients_(net)
        >>> int(net[0].weight.grad.count_nonzero())
        20
    """
    check_kind("module", module, nn.Module)
    state = state_of(module)
    if state.before_step is None:
        if sparse_weights(module) and not state.weights:
            return  # compact layers have no other gradients
        raise SparsityError(
            "`module` must be held by `keep_sparse_` or a ConnectionMover, got one that is not. Make that "
            "call first."
        )
    for optimizer in optimizers or state.attached:
        state.before_step(optimizer)
