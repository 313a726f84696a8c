"""Magnitude pruning of what is left, and the way back to earlier weights."""

from collections.abc import Collection, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.budgets import check_kept, total_budget
from lightning_sparse.functional.filters import Filters, equal_mask
from lightning_sparse.functional.finite import check_finite, check_no_nan
from lightning_sparse.functional.masks import global_masks
from lightning_sparse.functional.schedules import exponential
from lightning_sparse.selection import parameters_by_name, plain_name
from lightning_sparse.types import Budgets, Masks

__all__ = [
    "Snapshot",
    "budgets_on_the_way",
    "prune_by_magnitude",
    "refuse_partial",
    "rewind_",
    "round_budgets",
    "snapshot",
]

Snapshot: TypeAlias = dict[str, Tensor | None]
"""Parameters and buffers by name, as they were; ``None`` for buffers that were not there yet."""


def round_budgets(alive: int, kept: int, rounds: int) -> list[int]:
    """Return how many weights are alive after each lottery-ticket round: the same share is lost each time.

    Args:
        alive: Number of weights at the start.
        kept: Number of weights after the last round, in 1 ... ``alive``.
        rounds: Number of rounds R, 1 or more.

    Returns:
        ``floor(alive * (kept / alive) ** (r / R) + 0.5)`` for r = 1 ... R; the last is ``kept``.

    Raises:
        SparsityError: If so many are not there to keep.

    Source:
        Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, section 2 (arXiv:1803.03635).

    Examples:
        >>> round_budgets(1000, 125, 3)
        [500, 250, 125]
    """
    check_kept(alive, kept)
    shares = [exponential(r, rounds, kept / alive) for r in range(1, rounds)]
    return [total_budget(alive, share) for share in shares] + [kept]


def budgets_on_the_way(alive: Budgets, final: Budgets, removed: int, planned: int) -> Budgets:
    """Return what layers with a budget of their own keep when so many of all removals are done.

    Their counts fall in a straight line with those of all weights together: so budgets that can be met at
    the end can be met on the way there. Each layer takes its share, rounded down, of what the layers before
    it have left over: so neither its count nor that of all the others ever rises, and if every layer has a
    budget, they sum to what all keep.

    Args:
        alive: Number of weights by layer at the start.
        final: Number of weights at the end, by layer; only these layers are in the result.
        removed: Number of weights removed so far, over all layers.
        planned: Number of weights removed at the end.

    Examples:
        >>> budgets_on_the_way({"a": 90}, {"a": 50}, removed=20, planned=80)
        {'a': 80}
    """
    budgets = {}
    for name, budget in final.items():
        most = max(alive[name] - budget, 0)
        share = removed * most // max(planned, 1)
        budgets[name] = alive[name] - share
        removed, planned = removed - share, planned - most
    return budgets


def prune_by_magnitude(
    weights: Mapping[str, Tensor],
    masks: Masks,
    kept: int,
    *,
    min_weights: int = 0,
    fixed: Mapping[str, int] | None = None,
    filters: Mapping[str, Filters] | None = None,
) -> Masks:
    """Keep the largest weights of those that ``masks`` keep, over all layers together.

    Args:
        weights: Weight by layer.
        masks: Boolean mask by layer; what it prunes stays pruned, whatever the weight is.
        kept: Number of weights to keep in all, at most as many as ``masks`` keep.
        min_weights: No layer keeps fewer than this (or all that it has left, if these are fewer).
        fixed: Exact budgets of single layers, ranked by themselves.
        filters: Where the outputs of layers with a budget are that keep as many weights of each output.

    Returns:
        Boolean masks with exactly ``kept`` True, on the weights' device; of equal weights the first stay.

    Raises:
        SparsityError: If so many cannot be kept, a weight that is left is NaN or infinite, or ``masks`` keep
            more weights of one output than of another where as many of each are to be kept.

    Source:
        Damadi et al., 2021, algorithm 1, lines 6 and 7; Frankle and Carbin, 2019, section 2.
    """
    left = {name: weights[name].detach()[mask.to(weights[name].device)] for name, mask in masks.items()}
    check_finite(left)
    scores = {name: values.abs() for name, values in left.items()}
    best = global_masks(scores, kept, min_weights=min_weights, fixed=fixed)
    pruned = {name: _inside(mask.to(weights[name].device), best[name]) for name, mask in masks.items()}
    for name, where in (filters or {}).items():
        budget, mask = (fixed or {})[name], masks[name].to(weights[name].device)
        pruned[name] = _equal_inside(name, weights[name].detach(), mask, budget, where)
    return pruned


def snapshot(module: nn.Module, leave_out: Collection[str] = ()) -> Snapshot:
    """Return copies of the parameters and of the buffers that its state dict holds, by name.

    Args:
        module: A module.
        leave_out: Names not to copy.

    Raises:
        SparsityError: If a parameter that is trained holds NaN: nobody should go back to it.
    """
    parameters = parameters_by_name(module)
    check_no_nan({name: p for name, p in parameters.items() if p.requires_grad and name not in leave_out})
    buffers = {name: layer._buffers[key] for name, (layer, key) in _buffers_by_name(module).items()}
    values = {**parameters, **buffers}
    return {
        name: None if value is None else value.detach().clone()
        for name, value in values.items()
        if name not in leave_out
    }


def refuse_partial(saved: Collection[str], module: nn.Module, leave_out: Collection[str] = ()) -> None:
    """Refuse a snapshot that lacks a parameter of a module, which would stay as it is.

    Args:
        saved: Names in the snapshot.
        module: The module to give values back to.
        leave_out: Names that were not copied.

    Raises:
        SparsityError: It names what is missing.
    """
    names = parameters_by_name(module)
    if missing := [name for name in names if name not in saved and name not in leave_out]:
        raise SparsityError(
            f"The earlier weights to go back to lack {missing[0]!r} ({len(missing)} in all). Use another "
            "checkpoint, or load only the weights (`load_state_dict`) and start a new run."
        )


@torch.no_grad()
def rewind_(module: nn.Module, saved: Mapping[str, Tensor | None], masks: Masks) -> None:
    """Give a module the values of a snapshot back; pruned weights are zero.

    Buffers get the shape back that they had, and are ``None`` again if they were.

    Args:
        module: The module that the snapshot was taken of, or one like it.
        saved: Values by name; others stay as they are.
        masks: Boolean mask by parameter name.
    """
    parameters, buffers = parameters_by_name(module), _buffers_by_name(module)
    device = next((parameter.device for parameter in parameters.values()), None)
    for name, value in saved.items():
        if name in buffers:
            _rewind_buffer_(*buffers[name], None if value is None else value.to(device))
        elif value is not None:
            parameters[name].copy_(value)
        if name in masks:
            parameters[name].masked_fill_(~masks[name].to(parameters[name].device), 0)


def _rewind_buffer_(layer: nn.Module, key: str, value: Tensor | None) -> None:
    """Write into the buffer if it can hold the value, else put another in its place."""
    there = layer._buffers[key]
    if there is None or value is None or there.is_inference():  # assigned since, perhaps in validation
        layer._buffers[key] = None if value is None else value.clone()
    elif there.is_floating_point() != value.is_floating_point():
        there.data = value.clone()
    elif there.shape == value.shape:
        there.copy_(value)
    else:  # it has grown since
        there.data = value.to(there, copy=True)


def _buffers_by_name(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return the places of all buffers that a state dict would hold, also of those that are None."""
    return {
        plain_name(f"{path}.{key}" if path else key): (layer, key)
        for path, layer in module.named_modules()
        for key, _ in layer._buffers.items()
        if key not in layer._non_persistent_buffers_set
    }


def _inside(mask: Tensor, chosen: Tensor) -> Tensor:
    """Return ``mask`` less the True entries, in flat order, that ``chosen`` does not have."""
    return torch.zeros_like(mask).masked_scatter_(mask, chosen)


def _equal_inside(name: str, weight: Tensor, mask: Tensor, k: int, filters: Filters) -> Tensor:
    """Keep k weights of those that ``mask`` keeps, as many of each output."""
    chosen = equal_mask(weight.abs().masked_fill(~mask, -1), k, filters)  # what is pruned ranks last
    if (chosen & ~mask).any():
        raise SparsityError(
            f"`allocation` 'epf' keeps as many weights of each output, but those of {name!r} do not have as "
            "many left. Start from a dense net, or from masks of 'epf'."
        )
    return chosen
