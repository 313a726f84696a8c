"""Gradients that stand between two backward passes, as batches are being accumulated."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.weights.compact import dense_sums, give_back_sums_
from lightning_sparse.weights.shards import as_shards, here

__all__ = ["accumulates", "give_back_gradients_", "standing_gradients"]


def accumulates(trainer: Trainer) -> bool:
    """Tell whether no step follows the present batch, as gradients of more batches are added up first."""
    waits: bool = trainer.fit_loop._should_accumulate()
    return waits


def standing_gradients(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Return copies of the gradients to which the next backward pass adds; none if it starts afresh.

    In manual optimization nobody but the module knows, so all are returned that are not None.

    Returns:
        ``gradients`` by name of the parameter; ``sums``, what Dense-plus-Sparse layers have summed up for
        an update of their supports, by name of the weight.
    """
    module = trainer.lightning_module
    progress = trainer.fit_loop.epoch_loop.batch_progress
    between = progress.current.ready > 0 and accumulates(trainer)
    if module.automatic_optimization and not between:
        return {}
    standing = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    gradients = {name: here(gradient).detach().clone() for name, gradient in standing.items()}
    return {"gradients": gradients, "sums": dense_sums(module)} if gradients else {}


def give_back_gradients_(trainer: Trainer, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Let the next backward pass add to these gradients."""
    module, gradients = trainer.lightning_module, saved.get("gradients", {})
    for name, parameter in module.named_parameters():
        if name in gradients:
            gradient = gradients[name].to(parameter.device, copy=True)
            parameter.grad = as_shards({name: gradient}, {name: parameter})[name]
    with torch.no_grad():
        give_back_sums_(module, saved.get("sums", {}))
