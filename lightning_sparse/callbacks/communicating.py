"""What processes exchange of gradients, and beside whom that may be less than everything."""

from collections.abc import Sequence

from lightning_sparse.callbacks.company import Member
from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.communication import send_only_kept
from lightning_sparse.trainer.packages import LightningModule, Trainer

__all__ = ["exchange_only_kept"]


def exchange_only_kept(trainer: Trainer, module: LightningModule, callbacks: Sequence[Member]) -> None:
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
