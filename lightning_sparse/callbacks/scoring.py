"""Scores of a method taken within a Trainer, and the masks that come of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.functional.saliency import PruningMethod, PruningProblem
from lightning_sparse.functional.shards.pruning import prune_anywhere
from lightning_sparse.layers import lsuv_
from lightning_sparse.selection import parameters_by_name
from lightning_sparse.trainer.early import prepare_losses
from lightning_sparse.trainer.losses import LossFunction, TrainingLosses, refuse_without_loss
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.parts import callable_net, trainer_of, unlogged
from lightning_sparse.trainer.processes import mean_over_processes
from lightning_sparse.trainer.progress import with_progress
from lightning_sparse.trainer.randomness import left_undisturbed
from lightning_sparse.types import Masks
from lightning_sparse.weights.shards import as_shards, shards_of

__all__ = ["refuse_without_score", "scale_by_data_", "scored_masks"]


def refuse_without_score(
    method: PruningMethod,
    module: LightningModule,
    weights: Mapping[str, nn.Parameter],
    loss_fn: LossFunction | None,
) -> None:
    """Refuse a module whose loss or output the method cannot have.

    Raises:
        SparsityError: It says what is missing.
    """
    if method.needs_loss and loss_fn is None:
        refuse_without_loss(type(method).__name__, module)
    if method.needs_forward and callable_net(module, weights.values()) is None:
        raise SparsityError(
            f"{type(method).__name__} calls the net, and {type(module).__name__} has no `forward`, nor one "
            "child that holds all selected weights. Define it, or choose another method (`snip`, `erk`)."
        )


def scale_by_data_(
    trainer: Trainer, module: LightningModule, layers: Sequence[str], last_layer_factor: float
) -> None:
    """Set the alphas of converted layers from one batch of the training data, the same on all ranks.

    Args:
        trainer: In setup, after the module's own.
        module: Holds the layers.
        layers: Their names.
        last_layer_factor: By what the alpha of the layer that is called last is multiplied.

    Raises:
        SparsityError: If the module gives no loss, or no layer is called.
    """
    refuse_without_loss("`alpha` 'lsuv'", module, "Give a number, or convert by hand and call `lsuv_`.")
    prepare_losses(trainer, module)
    losses = TrainingLosses(trainer, module, None)
    with left_undisturbed(trainer), unlogged(trainer, module):
        (loss,) = losses.next(1)
        scaled = lsuv_(module, loss, last_layer_factor, only=layers)
    parameters = parameters_by_name(module)
    for alpha in (parameters[f"{layer}.alpha"] for layer in scaled if trainer.world_size > 1):
        alpha.data.fill_(trainer.strategy.broadcast(alpha.item()))


def scored_masks(
    method: PruningMethod,
    module: LightningModule,
    weights: Mapping[str, nn.Parameter],
    density: float,
    generator: torch.Generator,
    *,
    fixed: Mapping[str, float],
    min_weights: int,
    loss_fn: LossFunction | None,
    keep_lowest: bool = False,
    prunes: bool = True,
    pattern: Pattern = UNSTRUCTURED,
) -> Masks:
    """Score weights on the training data of the module's Trainer, and keep the best.

    Module, random state and data are left as found. Masks of split weights are split as they are.

    Args:
        method: Gives the scores.
        module: The module that is trained.
        weights: The weights to score, by name.
        density: Share of them to keep, a fraction in (0, 1].
        generator: For random draws.
        fixed: Densities of single layers; the total stays.
        min_weights: Every layer keeps at least this many (all, if it is smaller).
        loss_fn: Takes the place of the module's ``training_step``.
        keep_lowest: Keep what scores lowest instead.
        prunes: Whether the other weights will be zero.
        pattern: Which sets of weights may be kept.
    """
    trainer = trainer_of(module)
    losses = TrainingLosses(trainer, module, loss_fn)
    problem = PruningProblem(
        module,
        weights,
        generator,
        losses=losses.next,
        net=callable_net(module, weights.values()),
        inputs=losses.inputs,
        average=mean_over_processes(trainer),
        cools=loss_fn is None,
        shards=shards_of(weights),
    )
    iterations = prune_anywhere(
        method,
        problem,
        density,
        fixed=fixed,
        min_weights=min_weights,
        keep_lowest=keep_lowest,
        prunes=prunes,
        pattern=pattern,
    )
    total, name = len(method.path(density)), type(method).__name__
    runs_code = method.needs_loss or method.needs_forward  # the user's: it may change parameters
    as_found = left_as_found(module, module.training, parameters=runs_code)
    masks: Masks = {}
    with left_undisturbed(trainer), as_found, unlogged(trainer, module):
        for masks in with_progress(trainer, iterations, total, name):  # noqa: B007 - the last one counts
            pass
    return as_shards(masks, weights)
