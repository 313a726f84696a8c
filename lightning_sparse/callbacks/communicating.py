"""What processes exchange of gradients, and beside whom that may be less than everything."""

from collections.abc import Sequence
from typing import Protocol

from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.communication import send_only_kept
from lightning_sparse.trainer.packages import LightningModule, Trainer

__all__ = ["exchange_only_kept"]


class Mover(Protocol):
    """One of the callbacks of a Trainer, which may move masks."""

    @property
    def role(self) -> str:
        """What it does: "starts" (makes masks), "moves" (changes them) or "converts" (replaces layers)."""

    @property
    def asks_for_gradients(self) -> bool:
        """Whether it asks for gradients of pruned weights before it looks at them, or never does."""


def exchange_only_kept(trainer: Trainer, module: LightningModule, callbacks: Sequence[Mover]) -> None:
    """Let processes exchange what is kept of gradients, unless somebody needs all of them at any time.

    Raises:
        SparsityError: If somebody does, or nothing else than everything can be exchanged.
    """
    for callback in callbacks:
        if callback.role == "moves" and not callback.asks_for_gradients:
            raise SparsityError(
                f"`communication` must be 'all' beside {type(callback).__name__}, which may look at any "
                "gradient in any step, got 'kept'. If it asks for those of pruned weights, or needs none, "
                "set its `asks_for_gradients`."
            )
    send_only_kept(trainer, module)
