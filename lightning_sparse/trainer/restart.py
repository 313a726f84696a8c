"""Training started once more: optimizers and schedulers as they were at first."""

import copy
from typing import Any

from torch.optim import Optimizer

from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import schedulers_of

__all__ = ["StartStates", "first_states", "start_once_more_"]

StartStates = dict[str, list[Any]]
"""State dicts of optimizers and of schedulers, in the Trainer's order."""


def first_states(trainer: Trainer) -> StartStates:
    """Return copies of the states that optimizers and schedulers have now, before the first step."""
    return {
        kind: [copy.deepcopy(thing.state_dict()) for thing in things]
        for kind, things in _with_states(trainer).items()
    }


def start_once_more_(trainer: Trainer, states: StartStates) -> None:
    """Give optimizers and schedulers their first states back, and let gradients go.

    Raises:
        SparsityError: If one kind has no states, or if there are other optimizers, parameter groups or
            schedulers than there were.
    """
    for kind, things in _with_states(trainer).items():
        if kind not in states:
            raise SparsityError(
                f"The first states of {kind} are not in what the checkpoint has kept for a new start. Use "
                "another checkpoint, or load only the weights (`load_state_dict`) and start a new run."
            )
        _refuse_other_number(kind, len(things), len(states[kind]))
        for thing, saved in zip(things, states[kind], strict=True):
            if isinstance(thing, Optimizer):
                _refuse_other_number("parameter groups", len(thing.param_groups), len(saved["param_groups"]))
            thing.load_state_dict(copy.deepcopy(saved))
    for optimizer in trainer.optimizers:
        optimizer.zero_grad()  # of the net that was: manual loops may have left some


def _with_states(trainer: Trainer) -> dict[str, list[Any]]:
    return {"optimizers": list(trainer.optimizers), "schedulers": schedulers_of(trainer)}


def _refuse_other_number(kind: str, there_are: int, there_were: int) -> None:
    if there_are != there_were:
        raise SparsityError(
            f"`configure_optimizers` must return {there_were} {kind}, as when training began, got "
            f"{there_are}: they start once more now. Return the same, or start a new run."
        )
