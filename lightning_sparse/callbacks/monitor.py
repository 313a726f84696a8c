"""Watches sparsity, with or without a callback that makes it."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import compact_layers
from lightning_sparse.reporting.layers import LayerCount, count_layers, sparsity_metrics, sparsity_table
from lightning_sparse.selection import countable_weights, dense_weights, layer_name
from lightning_sparse.trainer.packages import Callback, LightningModule, Trainer, is_lightning, rank_zero_warn
from lightning_sparse.trainer.parts import callbacks_of
from lightning_sparse.types import Masks
from lightning_sparse.weights.state import state_of

__all__ = [
    "SparsityMonitor",
    "has_summary",
    "layers_of",
    "log_sparsity",
    "log_trainable_sparsity",
    "monitored",
    "one_line",
    "print_table",
    "print_table_after_summary",
    "print_trainable_table",
    "weights_and_masks",
]


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
            raise SparsityError(f"`every_n_epochs` must be at least 1, got {every_n_epochs}.")
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


_DCTPS = ("entries", "trained", "share")


_TITLE = "Trained values of Dense-plus-Sparse layers (their weights are dense)"


def layers_of(module: LightningModule) -> list[LayerCount]:
    """Count the layers that are masked, or those that could be if none is."""
    weights, masks = weights_and_masks(module)
    return count_layers(weights, masks)


def weights_and_masks(module: LightningModule) -> tuple[dict[str, nn.Parameter], Masks]:
    """Return the masked weights and their masks, or those that could be masked and none."""
    state = state_of(module)
    return (
        (state.weights, state.masks) if state.enforced and state.weights else (countable_weights(module), {})
    )


def log_sparsity(module: LightningModule) -> None:
    """Log ``sparsity/<layer>`` and ``sparsity/total``, for ``ModelCheckpoint`` to monitor too.

    Dense-plus-Sparse layers are logged under ``trainable_sparsity/``.
    """
    if layers := layers_of(module):
        # Every rank has the same values; the reduction only tells Lightning so.
        module.log_dict(sparsity_metrics(layers), sync_dist=True)
    log_trainable_sparsity(module)


def log_trainable_sparsity(module: LightningModule) -> None:
    """Log ``trainable_sparsity/<layer>`` and ``/total`` of Dense-plus-Sparse layers: 1 - k / N."""
    if layers := _trainable(module):
        module.log_dict(sparsity_metrics(layers, "trainable_sparsity"), sync_dist=True)


def print_table(trainer: Trainer, module: LightningModule) -> None:
    """Print the table of layers on rank 0, and what else is large and stays dense."""
    layers, weights = layers_of(module), weights_and_masks(module)[0]
    if trainer.is_global_zero and layers:
        print(f"\nWeights kept:\n{sparsity_table(layers)}{_not_counted(module, weights)}\n", flush=True)
    if trainer.is_global_zero and (trainable := _trainable(module)):
        print(f"\n{_TITLE}:\n{sparsity_table(trainable, _DCTPS)}\n", flush=True)


def print_table_after_summary(trainer: Trainer, module: LightningModule) -> None:
    """Print the table of layers if Lightning has printed its own."""
    if has_summary(trainer):
        print_table(trainer, module)


def print_trainable_table(trainer: Trainer, module: LightningModule) -> None:
    """Print the table of Dense-plus-Sparse layers on rank 0, and what else is large."""
    layers = _trainable(module)
    if trainer.is_global_zero and layers:
        others = _not_counted(module, {})
        print(f"\n{_TITLE}:\n{sparsity_table(layers, _DCTPS)}{others}\n", flush=True)


def has_summary(trainer: Trainer) -> bool:
    """Tell whether the Trainer prints a summary of the module; our tables follow it."""
    return any(is_lightning(callback, "callbacks.ModelSummary") for callback in callbacks_of(trainer))


def one_line(callback: Callback, config: Mapping[str, object]) -> str:
    """Return a callback's name and arguments on one line."""
    arguments = ", ".join(f"{name}={value}" for name, value in config.items() if value is not None)
    return f"{type(callback).__name__}: {arguments}"


def _trainable(module: LightningModule) -> list[LayerCount]:
    """Count the trained values of Dense-plus-Sparse layers; their weights have no zeros to count."""
    return [
        LayerCount(name, tuple(layer.shape), layer.shape.numel(), layer.nnz)
        for name, layer in compact_layers(module).items()
    ]


def _not_counted(module: LightningModule, counted: Mapping[str, nn.Parameter]) -> str:
    others = dense_weights(module, counted)
    if not others:
        return ""
    names = ", ".join(layer_name(name) for name in list(others)[:3]) + (", ..." if len(others) > 3 else "")
    total = sum(weight.numel() for weight in others.values())
    return f"\nDense and not counted: {total:,} weights in {names}. `include` can take them in."
