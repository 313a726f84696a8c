"""The one writer of sparsity figures."""

from torch import nn

from lightning_sparse._lightning import LightningModule, Trainer
from lightning_sparse.reporting.layers import LayerCount, count_layers, sparsity_metrics, sparsity_table
from lightning_sparse.selection import countable_weights, dense_weights, layer_name
from lightning_sparse.state import state_of
from lightning_sparse.types import Masks

__all__ = ["layers_of", "log_sparsity", "print_table", "weights_and_masks"]


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
    """Log ``sparsity/<layer>`` and ``sparsity/total``, for ``ModelCheckpoint`` to monitor too."""
    if layers := layers_of(module):
        # Every rank has the same values; the reduction only tells Lightning so.
        module.log_dict(sparsity_metrics(layers), sync_dist=True)


def print_table(trainer: Trainer, module: LightningModule) -> None:
    """Print the table of layers on rank 0, and what else is large and stays dense."""
    layers = layers_of(module)
    if trainer.is_global_zero and layers:
        print(f"\nWeights kept:\n{sparsity_table(layers)}{_not_counted(module)}\n", flush=True)


def _not_counted(module: LightningModule) -> str:
    others = dense_weights(module, weights_and_masks(module)[0])
    if not others:
        return ""
    names = ", ".join(layer_name(name) for name in list(others)[:3]) + (", ..." if len(others) > 3 else "")
    total = sum(weight.numel() for weight in others.values())
    return f"\nDense and not counted: {total:,} weights in {names}. `include` can take them in."
