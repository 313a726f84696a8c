"""Which Trainer fits with which callback: a Trainer may run inside a hook of another one's fit."""

import weakref

from lightning_sparse.callbacks.company import OurCallback
from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.weights.state import state_of

__all__ = ["begin", "ends"]

_trainers: "weakref.WeakKeyDictionary[OurCallback, weakref.ReferenceType[Trainer]]" = (
    weakref.WeakKeyDictionary()
)
"""By whom callbacks are used to fit right now."""


def begin(callback: OurCallback, trainer: Trainer, module: LightningModule, fitting: bool) -> None:
    """Note that a stage of a Trainer begins.

    Raises:
        SparsityError: If another Trainer is fitting with the same callback, or with the same module.
    """
    name, mine = type(callback).__name__, _trainer_of(callback)
    if mine is not None and mine is not trainer:
        raise SparsityError(
            f"{name} is in a fit that another Trainer has not ended. Give the Trainer inside that fit "
            "callbacks of its own, or none: weights are sparse by themselves."
        )
    if mine is None and state_of(module).in_fit:
        raise SparsityError(
            f"{name} cannot take a module that another Trainer is fitting. Leave it out: weights are sparse "
            "by themselves. To train on inside that fit, give the inner Trainer a copy of the module."
        )
    if fitting:
        _trainers[callback] = weakref.ref(trainer)


def ends(callback: OurCallback, trainer: Trainer, module: LightningModule) -> bool:
    """Note that a stage of a Trainer ends; tell whether what is on module and optimizers may go."""
    mine = _trainer_of(callback)
    if mine is trainer:
        del _trainers[callback]
    return mine is trainer or (mine is None and not state_of(module).in_fit)


def _trainer_of(callback: OurCallback) -> Trainer | None:
    trainer = _trainers.get(callback)
    return None if trainer is None else trainer()
