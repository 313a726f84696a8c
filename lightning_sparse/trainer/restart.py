"""Training started once more: optimizers and schedulers as they were at first."""

import copy
from typing import Any

import torch
from torch.optim import Optimizer

from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import schedulers_of
from lightning_sparse.weights.optimizers import optimizers_within, parameters_of, state_like

__all__ = ["StartStates", "first_states", "start_once_more_"]

StartStates = dict[str, list[Any]]
"""State dicts of optimizers and of schedulers, and what state dicts leave out, in the Trainer's order."""


def first_states(trainer: Trainer) -> StartStates:
    """Return copies of the states that optimizers and schedulers have now, before the first step."""
    return {
        "optimizers": [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers],
        "schedulers": [copy.deepcopy(scheduler.state_dict()) for scheduler in schedulers_of(trainer)],
        "groups": [len(optimizer.param_groups) for optimizer in trainer.optimizers],
        "empty": [_keeps_nothing(optimizer) for optimizer in trainer.optimizers],
        "copies": [_copies_of_weights(optimizer) for optimizer in trainer.optimizers],
    }


def start_once_more_(trainer: Trainer, states: StartStates) -> None:
    """Give optimizers and schedulers their first states back, and let gradients go.

    Raises:
        SparsityError: If one kind has no states, or if there are other optimizers, parameter groups or
            schedulers than there were.
    """
    if missing := [kind for kind in ("optimizers", "schedulers") if kind not in states]:
        raise SparsityError(
            f"The first states of {missing[0]} are not in what the checkpoint has kept for a new start. Use "
            "another checkpoint, or load only the weights (`load_state_dict`) and start a new run."
        )
    schedulers, unknown = schedulers_of(trainer), [None] * len(states["optimizers"])
    _refuse_other_number("optimizers", len(trainer.optimizers), len(states["optimizers"]))
    _refuse_other_number("schedulers", len(schedulers), len(states["schedulers"]))
    groups = states.get("groups", unknown)  # checkpoints of earlier versions have state dicts only
    empty, copies = states.get("empty", unknown), states.get("copies", unknown)
    for optimizer, saved, *more in zip(
        trainer.optimizers, states["optimizers"], groups, empty, copies, strict=True
    ):
        _restart_(optimizer, saved, *more)
    for scheduler, saved in zip(schedulers, states["schedulers"], strict=True):
        scheduler.load_state_dict(copy.deepcopy(saved))


@torch.no_grad()
def _restart_(
    optimizer: Optimizer, saved: Any, groups: int | None, empty: list[bool] | None, copies: list[str] | None
) -> None:
    """Give one optimizer, and those that it holds, their first states back."""
    if groups is not None:
        _refuse_other_number("parameter groups", len(optimizer.param_groups), groups)
    optimizer.load_state_dict(copy.deepcopy(saved))
    for inner, was_empty in zip(optimizers_within(optimizer), empty or [], strict=False):
        if was_empty:  # what the state dict leaves out is still there
            inner.state.clear()
    for weight in parameters_of(optimizer) if copies else ():
        for key, value in state_like(weight, [optimizer]):
            if key in (copies or ()):
                value.copy_(weight)
    optimizer.zero_grad()  # of the net that was: manual loops may have left some


def _keeps_nothing(optimizer: Optimizer) -> list[bool]:
    """Tell of an optimizer, and of each that it holds, whether its state is still empty."""
    return [not getattr(inner, "state", True) for inner in optimizers_within(optimizer)]


def _copies_of_weights(optimizer: Optimizer) -> list[str]:
    """Return the names of what an optimizer keeps that starts as the weights: Lookahead's slow ones."""
    same: set[str] = set()
    different: set[str] = set()
    for weight in parameters_of(optimizer):
        for key, value in state_like(weight, [optimizer]):
            (same if torch.equal(value, weight) else different).add(key)
    return sorted(same - different)


def _refuse_other_number(kind: str, there_are: int, there_were: int) -> None:
    if there_are != there_were:
        raise SparsityError(
            f"`configure_optimizers` must return {there_were} {kind}, as when training began, got "
            f"{there_are}: they start once more now. Return the same, or start a new run."
        )
