"""Watches sparsity, with or without a callback that makes it."""

from typing import Any

from lightning_sparse._lightning import (
    Callback,
    LightningModule,
    Trainer,
    callbacks_of,
    is_lightning,
    rank_zero_warn,
)
from lightning_sparse.callbacks.reports import log_sparsity, print_table, weights_and_masks
from lightning_sparse.layers import compact_layers
from lightning_sparse.selection import layer_name

__all__ = ["SparsityMonitor", "monitored"]


class SparsityMonitor(Callback):
    """Log ``sparsity/<layer>`` and ``sparsity/total``, and print the table of layers when training starts.

    The other callbacks log by themselves; beside them the monitor takes the logging over, so nothing is
    logged twice. Without them it counts the zeros of linear and convolutional weights. Dense-plus-Sparse
    layers, whose weight is dense, count by their trained values: ``trainable_sparsity/<layer>`` and
    ``trainable_sparsity/total``.

    Args:
        every_n_epochs: Log at the end of every n-th epoch.
        log_histograms: Also write a histogram of each layer's kept weights or trained values, to TensorBoard.
    """

    def __init__(self, every_n_epochs: int = 1, log_histograms: bool = False) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"`every_n_epochs` must be at least 1, got {every_n_epochs}.")
        self.every_n_epochs = every_n_epochs
        self.log_histograms = log_histograms

        self._shown = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the first epoch show the table: only then all masks are made."""
        self._shown = False
        if not weights_and_masks(pl_module)[0] and not compact_layers(pl_module):
            rank_zero_warn("SparsityMonitor found no linear or convolutional weights: it logs nothing.")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, and log, before the first batch."""
        if not self._shown:
            self._shown = True
            print_table(trainer, pl_module)
            log_sparsity(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        log_sparsity(pl_module)
        if self.log_histograms:
            self._write_histograms(trainer, pl_module)

    def _write_histograms(self, trainer: Trainer, module: LightningModule) -> None:
        weights, masks = weights_and_masks(module)
        for logger in trainer.loggers:
            if is_lightning(logger, "loggers.TensorBoardLogger"):
                writer: Any = logger.experiment  # type: ignore[attr-defined]
                for name, weight in weights.items():
                    mask = masks.get(name, weight != 0)
                    writer.add_histogram(
                        f"weights/{layer_name(name)}", weight.detach()[mask], trainer.global_step
                    )
                for path, layer in compact_layers(module).items():
                    writer.add_histogram(f"values/{path}", layer.values.detach(), trainer.global_step)


def monitored(trainer: Trainer) -> bool:
    """Tell whether a ``SparsityMonitor`` does the logging."""
    return any(isinstance(callback, SparsityMonitor) for callback in callbacks_of(trainer))
