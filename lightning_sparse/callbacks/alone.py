"""Callbacks beside which nothing can make the net sparse."""

from abc import ABC, abstractmethod
from typing import ClassVar

from lightning_sparse.callbacks.company import OurCallback
from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.parts import callbacks_of

__all__ = ["Alone", "alone_in", "refuse_beside", "refuse_both"]


class Alone(OurCallback, ABC):
    """Trains all weights in a way of its own, so that none of them can be pruned or converted."""

    reason: ClassVar[str]
    """Why, as the end of a sentence."""

    @abstractmethod
    def planned(self, module: LightningModule) -> str:
        """Say what it would train of a module, from shapes alone.

        Raises:
            SparsityError: If its arguments cannot be met.
        """


def refuse_both(one: Alone, other: object) -> None:
    """Refuse two callbacks of which one must be alone."""
    raise SparsityError(
        f"{type(one).__name__} and {type(other).__name__} cannot run together: {one.reason}. Use one of them."
    )


def refuse_beside(callback: object, trainer: Trainer) -> None:
    """Refuse a callback that makes the net sparse beside one that must be alone."""
    for other in alone_in(trainer):
        refuse_both(other, callback)


def alone_in(trainer: Trainer) -> list[Alone]:
    """Return the callbacks of a Trainer beside which nothing can make the net sparse."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, Alone)]
