"""Moves of all weights, steps they take the place of, and what optimizers keep that cannot move along."""

import weakref
from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from lightning_sparse.functional.groups import on_host
from lightning_sparse.functional.growth import ActiveWeights, GrowthRule, move_together
from lightning_sparse.functional.patterns import Pattern
from lightning_sparse.selection import matches_any
from lightning_sparse.trainer.clipping import once_clipped
from lightning_sparse.trainer.packages import Trainer, rank_zero_warn
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.optimizers import kept_elsewhere, parameters_of, state_apart
from lightning_sparse.weights.state import SparseState
from lightning_sparse.weights.stepping import leave_out_step_, skip_step_, tolerates_no_gradients

__all__ = ["leave_out_", "move_all_", "warn_of_state_apart", "weights_to_move"]


def weights_to_move(
    module: nn.Module,
    include: Sequence[str] | None,
    exclude: Sequence[str],
    optimizer: Optimizer | None = None,
) -> list[SparseWeight]:
    """Return the sparse weights of a module whose connections move: those of one optimizer, or of all.

    Args:
        module: A sparse one.
        include: Patterns on parameter names. ``None``: all that are sparse.
        exclude: Patterns of weights whose connections stay.
        optimizer: ``None``: whoever trains them.
    """
    held = None if optimizer is None else {id(parameter) for parameter in parameters_of(optimizer)}
    return [
        weight
        for name, weight in sparse_weights(module).items()
        if (include is None or matches_any(name, include))
        and not matches_any(name, exclude)
        and (held is None or id(weight.parameter) in held)
    ]


def move_all_(
    rule: GrowthRule,
    weights: Sequence[SparseWeight],
    active: Sequence[ActiveWeights],
    fraction: float,
    state: SparseState,
    optimizers: Sequence[Optimizer],
    pattern: Pattern,
) -> list[int]:
    """Move the connections of weights as a rule says, all or none; return how many of each have moved.

    A GPU is waited for a few times in all, not in every layer.
    """
    shards = weights[0].shards if weights else None
    found = move_together(rule, active, fraction, [weight.name for weight in weights], pattern, shards)
    with state.together(optimizers):
        moved = [weight.move_(at, optimizers) for weight, at in zip(weights, found, strict=True)]
    return on_host(moved)


def leave_out_(trainer: Trainer, optimizer: Optimizer) -> None:
    """Leave out the step that an optimizer is about to make: weights, and what it keeps, stay as they are.

    PyTorch's own optimizers pass over parameters without gradients, which are taken away once nobody else
    looks at them: clipping and logs of norms would stumble. Others count such steps, or stumble themselves:
    theirs is made, and taken back by `take_back_step_`.
    """
    if tolerates_no_gradients(optimizer):
        once_clipped(trainer, optimizer, skip_step_)
    else:
        leave_out_step_(optimizer)


def warn_of_state_apart(callback: str, optimizer: Optimizer, weights: Sequence[SparseWeight]) -> None:
    """Warn once of what an optimizer keeps for connections that move, and that cannot be set to zero."""
    if optimizer in _warned:
        return
    if (place := kept_elsewhere(optimizer, [weight.parameter for weight in weights])) is not None:
        _warned.add(optimizer)
        rank_zero_warn(
            f"{type(optimizer).__name__} keeps tensors shaped like weights in {place}, not by weight: they "
            f"stay as they are when {callback} moves connections. For new ones to start from nothing, use "
            "an optimizer that keeps all in its `state`."
        )
    for weight in weights:
        if keys := state_apart(weight.parameter, [optimizer]):
            _warned.add(optimizer)
            rank_zero_warn(
                f"{type(optimizer).__name__} keeps {_named(keys)} of {weight.name!r} in codes, or not weight "
                f"by weight: when {callback} moves connections, it stays as it is, or is rounded anew. For "
                "new ones to start from nothing, use SGD, AdamW or the like, with states of 32 or 16 bits."
            )
            return


def _named(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys))


_warned: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()
