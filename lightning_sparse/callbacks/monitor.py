"""Watches sparsity, with or without a callback that makes it, and is the one writer of its figures."""

from collections.abc import Mapping
from typing import Any

from lightning_sparse.callbacks.company import OurCallback, announce_to_ranks, check_what_is_loaded
from lightning_sparse.checks import check_count, check_flag
from lightning_sparse.reporting.layers import LayerCount, not_counted, sparsity_metrics, sparsity_table
from lightning_sparse.selection import dense_weights, layer_name
from lightning_sparse.trainer.packages import LightningModule, Trainer, is_lightning, rank_zero_warn
from lightning_sparse.trainer.parts import callbacks_of
from lightning_sparse.trainer.processes import compare_callbacks
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.masked import weights_by_zeros

__all__ = ["SparsityMonitor", "log_sparsity", "monitored", "print_table", "print_table_after_summary"]


class SparsityMonitor(OurCallback):
    """Log ``sparsity/<layer>`` and ``sparsity/total``, and print the table of layers when training starts.

    The other callbacks log by themselves; beside them the monitor takes the logging over, so nothing is
    logged twice. Without them it counts the zeros of linear and convolutional weights. Dense-plus-Sparse
    layers, whose weight is dense, count by their trained values: ``trainable_sparsity/<layer>`` and
    ``trainable_sparsity/total``.

    Args:
        every_n_epochs: Log at the end of every n-th epoch.
        log_histograms: Also write a histogram of each layer's kept weights or trained values, to TensorBoard.

    Raises:
        SparsityError: If an argument is out of range.
    """

    def __init__(self, every_n_epochs: int = 1, log_histograms: bool = False) -> None:
        check_count("every_n_epochs", every_n_epochs)
        check_flag("log_histograms", log_histograms)
        self.every_n_epochs = every_n_epochs
        self.log_histograms = log_histograms

        self._shown = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that all ranks must share."""
        return {"every_n_epochs": self.every_n_epochs}

    def before_loading(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Do nothing: it changes no module."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the other ranks of it, and let the checkpoint be checked."""
        announce_to_ranks(self, trainer)
        check_what_is_loaded(self, trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the other ranks."""
        compare_callbacks(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the first epoch show the table: only then all masks are made."""
        self._shown = False
        if not _seen(pl_module, zeros=True):
            rank_zero_warn("SparsityMonitor found no linear or convolutional weights: it logs nothing.")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, and log, before the first batch."""
        if not self._shown:
            self._shown = True
            print_table(trainer, pl_module, zeros=True)
            log_sparsity(pl_module, zeros=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        log_sparsity(pl_module, zeros=True)
        if self.log_histograms:
            self._write_histograms(trainer, pl_module)

    def _write_histograms(self, trainer: Trainer, module: LightningModule) -> None:
        for logger in trainer.loggers:
            if is_lightning(logger, "loggers.TensorBoardLogger"):
                writer: Any = logger.experiment  # type: ignore[attr-defined]
                for weight in _seen(module, zeros=True):
                    name = f"{weight.shown.histogram}/{layer_name(weight.name)}"
                    writer.add_histogram(name, weight.active, trainer.global_step)


def log_sparsity(module: LightningModule, zeros: bool = False) -> None:
    """Log one minus the density of every layer, and of all, for ``ModelCheckpoint`` to monitor too.

    Args:
        module: Logs.
        zeros: Whether to count the zeros of ordinary weights where no mask is in force.
    """
    for metric, weights in _by_metric(module, zeros).items():
        # Every rank has the same values; the reduction only tells Lightning so.
        module.log_dict(sparsity_metrics(list(map(_count, weights)), metric), sync_dist=True)


def print_table(trainer: Trainer, module: LightningModule, zeros: bool = False) -> None:
    """Print the table of layers on rank 0, and what else is large and stays dense."""
    if not trainer.is_global_zero:
        return
    groups = _by_metric(module, zeros)
    counted = {weight.name: weight.shape.numel() for weights in groups.values() for weight in weights}
    parts = {id(weight.base) for weights in groups.values() for weight in weights}
    others = {n: w.numel() for n, w in dense_weights(module, counted).items() if id(w) not in parts}
    rest = not_counted(others, sum(counted.values()))
    for weights in groups.values():
        shown = weights[0].shown
        table = sparsity_table(list(map(_count, weights)), shown.columns)
        print(f"\n{shown.title}:\n{table}{rest}\n", flush=True)
        rest = ""  # once is enough


def print_table_after_summary(trainer: Trainer, module: LightningModule, zeros: bool) -> None:
    """Print the table of layers if Lightning has printed its own summary of the module."""
    if any(is_lightning(callback, "callbacks.ModelSummary") for callback in callbacks_of(trainer)):
        print_table(trainer, module, zeros)


def monitored(trainer: Trainer) -> bool:
    """Tell whether a ``SparsityMonitor`` does the logging."""
    return any(isinstance(callback, SparsityMonitor) for callback in callbacks_of(trainer))


def _seen(module: LightningModule, zeros: bool) -> list[SparseWeight]:
    """Return the sparse weights in force; if asked to, ordinary ones by their zeros where none has a mask."""
    found = [weight for weight in sparse_weights(module).values() if weight.in_force]
    if zeros and not any(weight.prunes for weight in found):
        return [*weights_by_zeros(module), *found]
    return found


def _by_metric(module: LightningModule, zeros: bool) -> dict[str, list[SparseWeight]]:
    groups: dict[str, list[SparseWeight]] = {}
    for weight in _seen(module, zeros):
        groups.setdefault(weight.shown.metric, []).append(weight)
    return groups


def _count(weight: SparseWeight) -> LayerCount:
    return LayerCount(layer_name(weight.name), tuple(weight.shape), weight.shape.numel(), weight.nnz)
