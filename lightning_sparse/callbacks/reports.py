"""The one writer of sparsity figures."""

from collections.abc import Mapping

from torch import nn

from lightning_sparse._lightning import Callback, LightningModule, Trainer, callbacks_of, is_lightning
from lightning_sparse.layers import compact_layers
from lightning_sparse.reporting.layers import LayerCount, count_layers, sparsity_metrics, sparsity_table
from lightning_sparse.selection import countable_weights, dense_weights, layer_name
from lightning_sparse.state import state_of
from lightning_sparse.types import Masks

__all__ = [
    "has_summary",
    "layers_of",
    "log_sparsity",
    "log_trainable_sparsity",
    "one_line",
    "print_table",
    "print_table_after_summary",
    "print_trainable_table",
    "weights_and_masks",
]

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
