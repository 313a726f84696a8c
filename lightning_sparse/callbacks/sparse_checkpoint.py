"""Choosing a net by its metric, among those that are as sparse as they are meant to be."""

from typing import Any

from torch import Tensor

from lightning_sparse._lightning import EarlyStopping, LightningModule, ModelCheckpoint, Trainer
from lightning_sparse.callbacks.base import sparsity_callbacks

__all__ = ["SparseCheckpoint", "SparseEarlyStopping"]


class SparseCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` that saves no net which is still to be pruned.

    On its way a net scores best before it is sparse, and a best-metric checkpoint would keep that one. This
    one begins to compare by ``monitor`` once the last weights are pruned, and keeps none before: to resume a
    run, have a plain ``ModelCheckpoint(save_last=True)`` beside it, with a ``dirpath`` of its own.

    Args:
        **arguments: Those of Lightning's ``ModelCheckpoint``.
    """

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Tell whether a checkpoint is among the best so far."""
        return not still_pruning(trainer) and super().check_monitor_top_k(trainer, current)


class SparseEarlyStopping(EarlyStopping):
    """Lightning's ``EarlyStopping`` that begins to watch once the last weights are pruned.

    Args:
        **arguments: Those of Lightning's ``EarlyStopping``.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, unless the net is still to be pruned."""
        if not still_pruning(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, unless the net is still to be pruned."""
        if not still_pruning(trainer):
            super().on_validation_end(trainer, pl_module)


def still_pruning(trainer: Any) -> bool:
    """Tell whether a callback of a Trainer will prune weights after now."""
    return any(callback.pruning for callback in sparsity_callbacks(trainer))
