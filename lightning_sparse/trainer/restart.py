"""Training started once more: optimizers and schedulers as they were at first."""

from typing import Any

from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import schedulers_of

__all__ = ["refuse_other_number", "started_once_more"]


def refuse_other_number(kind: str, there_are: int, there_were: int) -> None:
    """Raise ValueError if a fit that goes on has other optimizers or schedulers than the one that began."""
    if there_are != there_were:
        raise SparsityError(
            f"`configure_optimizers` must return {there_were} {kind}, as when training began, got "
            f"{there_are}: they start once more now. Return the same, or start a new run."
        )


def started_once_more(trainer: Trainer) -> dict[str, list[Any]]:
    """Return what has a state that a new start of training gives back, by kind."""
    return {"optimizers": list(trainer.optimizers), "schedulers": schedulers_of(trainer)}
