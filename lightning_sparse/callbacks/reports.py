"""The one writer of sparsity figures."""

from torch import nn

from lightning_sparse._lightning import LightningModule, Trainer
from lightning_sparse.reporting.layers import LayerCount, count_layers, sparsity_metrics, sparsity_table
from lightning_sparse.selection import select_weights
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
    return (state.weights, state.masks) if state.enforced and state.weights else (select_weights(module), {})


def log_sparsity(module: LightningModule) -> None:
    """Log ``sparsity/<layer>`` and ``sparsity/total``, for ``ModelCheckpoint`` to monitor too."""
    # Every rank has the same values; the reduction only tells Lightning so.
    module.log_dict(sparsity_metrics(layers_of(module)), sync_dist=True)


def print_table(trainer: Trainer, module: LightningModule) -> None:
    """Print the table of layers on rank 0."""
    if trainer.is_global_zero:
        print(f"\nWeights kept:\n{sparsity_table(layers_of(module))}\n", flush=True)
