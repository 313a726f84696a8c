"""Looks at a net when a stage starts, and says so where it is not what one would take it for."""

import warnings
from collections.abc import Sequence

from torch import Tensor

from lightning_sparse.callbacks.company import Member
from lightning_sparse.checks import SparsityError
from lightning_sparse.selection import countable_weights, parameters_by_name, some_names
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn
from lightning_sparse.trainer.parts import unlogged
from lightning_sparse.trainer.randomness import left_undisturbed
from lightning_sparse.types import Masks
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.multiplied import news_of_dense_products
from lightning_sparse.weights.shards import here, part_for, shards_of, total_of
from lightning_sparse.weights.state import state_of

__all__ = ["has_zeros_of", "warn_of_dense_products", "warn_of_untrained"]

_BY_CHANCE = 1000
"""Of so many weights one may be zero without anybody having pruned it."""


def warn_of_dense_products(trainer: Trainer, module: LightningModule) -> None:
    """Warn of masked weights whose layers multiply with something that is not zero where masks prune.

    Every rank looks, on its own, so that all do the same.
    """
    with left_undisturbed(trainer), unlogged(trainer, module):
        news = news_of_dense_products(module)
    if news:
        rank_zero_warn(news)


def has_zeros_of(masks: Masks, module: LightningModule, callback: object) -> bool:
    """Tell whether a net outside fit is zero where masks of an earlier fit prune, and warn if it is not.

    Then other weights have been loaded since, without masks of their own, and these would prune them.
    """
    weights = parameters_by_name(module)
    fitting = {n: weights[n] for n, mask in masks.items() if n in weights and weights[n].shape == mask.shape}
    parts = {name: here(weight.detach()) for name, weight in fitting.items()}
    pruned = [
        parts[name].masked_fill(part_for(weight, masks[name]).to(parts[name].device), 0)
        for name, weight in fitting.items()
    ]
    stray = dict(zip(fitting, total_of(pruned, shards_of(fitting)), strict=True))
    if names := [name for name, count in stray.items() if count]:
        rank_zero_warn(
            f"{sum(stray.values()):,} weights are not zero here that {type(callback).__name__} had pruned at "
            f"the end of fit: {some_names(names)}. Other weights have been loaded since, without masks; they "
            "are taken as they are. A checkpoint made with `save_weights_only: false` has its masks."
        )
    return not names


def warn_of_untrained(trainer: Trainer, module: LightningModule, members: Sequence[Member]) -> None:
    """Warn that what is tested, validated or predicted with is not the sparse net that one would expect.

    That is a net that nobody has pruned, or converted layers of which nothing has been trained; not one with
    masks of an earlier fit, nor one whose weights are sparse, wherever they come from; nor layers whose
    weight is a pretrained one, with a change of it that is zero yet.
    """
    names = " and ".join(type(member).__name__ for member in members)
    compact = [weight for weight in sparse_weights(module).values() if not weight.takes_masks]
    if compact and not any(weight.active.any() or weight.base is not None for weight in compact):
        found = f"The layers of {names} have random supports, and values that are all zero"
    elif compact or state_of(module).weights or any(map(_is_partly_zero, _weights(module, members))):
        return
    else:
        found = f"There are no masks for {names}, and the weights are dense"
    source = "no `ckpt_path` is given"
    if trainer.ckpt_path is not None:
        source = f"`ckpt_path` {str(trainer.ckpt_path)!r} holds none that are sparse"
    rank_zero_warn(
        f"{found}: nothing here has been trained so, and {source}. Give a checkpoint of the sparse net, or "
        "fit the module first."
    )


def _weights(module: LightningModule, members: Sequence[Member]) -> list[Tensor]:
    """Return the weights that callbacks would prune; those of linear layers and the like if they say none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what stays dense: that belongs to fit
        try:
            selected = {name: weight for member in members for name, weight in member.select(module).items()}
        except SparsityError:  # for fit to say
            selected = {}
    return [*(selected or countable_weights(module)).values()]


def _is_partly_zero(weight: Tensor) -> bool:
    """Tell whether a weight is sparse: not zero throughout, as some are at first, nor zero by mere chance."""
    zeros = weight.numel() - total_of([weight], shards_of({"": weight}))[0]
    return weight.numel() > zeros >= max(1, weight.numel() // _BY_CHANCE)
