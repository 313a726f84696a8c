"""Which Trainer fits with which callback: a Trainer may run inside a hook of another one's fit."""

import weakref
from collections.abc import MutableMapping
from typing import Any, TypeAlias

from lightning_sparse.callbacks.company import OurCallback
from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.packages import LightningModule, Trainer

__all__ = ["begin", "ends"]

_Fits: TypeAlias = MutableMapping[Any, "weakref.ReferenceType[Trainer]"]

_by_callback: _Fits = weakref.WeakKeyDictionary()
"""Which Trainer is fitting with a callback right now."""

_by_module: _Fits = weakref.WeakKeyDictionary()
"""Which Trainer is fitting a module right now, with callbacks that keep it sparse."""


def begin(callback: OurCallback, trainer: Trainer, module: LightningModule, fitting: bool) -> None:
    """Note that a stage of a Trainer begins.

    Raises:
        SparsityError: If another Trainer is fitting with the same callback, or with the same module.
    """
    name = type(callback).__name__
    if _running(_by_callback, callback) not in (None, trainer):
        raise SparsityError(
            f"{name} is in a fit that another Trainer has not ended. Give the Trainer inside that fit "
            "callbacks of its own, or none: weights are sparse by themselves."
        )
    if _running(_by_module, module) not in (None, trainer):
        raise SparsityError(
            f"{name} cannot take a module that another Trainer is fitting. Leave it out: weights are sparse "
            "by themselves. To train on inside that fit, give the inner Trainer a copy of the module."
        )
    if fitting:
        _by_callback[callback] = _by_module[module] = weakref.ref(trainer)


def ends(callback: OurCallback, trainer: Trainer, module: LightningModule) -> bool:
    """Note that a stage of a Trainer ends; tell whether what is on module and optimizers may go."""
    mine = _by_callback.get(callback)
    if mine is not None and mine() is trainer:
        del _by_callback[callback]
        _by_module.pop(module, None)
        return True
    return mine is None and _running(_by_module, module) in (None, trainer)


def _running(fits: _Fits, key: object) -> Trainer | None:
    """Return the Trainer that is fitting; one that was interrupted, and could not say so, is not."""
    held = fits.get(key)
    trainer = None if held is None else held()
    return None if trainer is None or trainer.interrupted else trainer
