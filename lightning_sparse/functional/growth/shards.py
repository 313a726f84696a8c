"""Moves of layers whose rows lie on several processes: the same connections go and grow as in one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.growth.base import ActiveWeights, GrowthRule
from lightning_sparse.functional.growth.moves import count_dropped
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.functional.shards.layout import Shards
from lightning_sparse.functional.shards.ranking import layerwise_in_shards

__all__ = ["check_finite_in_shards", "move_in_shards", "needs_whole_layers"]


def needs_whole_layers(rule: GrowthRule) -> str:
    """Say why a rule cannot be had where each process holds some rows, and the way out; "" if it can."""
    if rule.takes_shards:
        return ""
    return f"the rule {rule!r} looks at whole layers. Use RigLCallback, or fixed masks (`PruneAtInit`)"


def move_in_shards(
    rule: GrowthRule, layers: Sequence[ActiveWeights], fraction: float, names: Sequence[str], shards: Shards
) -> list[Tensor]:
    """Do as `move` for every layer, on the rows of this process; return their new positions.

    Two rankings of all layers, of what may go and of what may grow, each a few hundred counts that processes
    add up: neither weights nor gradients leave them.

    Args:
        rule: Scores what may go, and what may grow, entry by entry.
        layers: The active weights of this process's rows, and the gradient of these.
        fraction: Share of a layer's active weights, on all processes together, to drop.
        names: What errors call the layers.
        shards: Which rows these are.

    Raises:
        SparsityError: On every process, if active weights or scores are not finite.
    """
    if reason := needs_whole_layers(rule):
        raise SparsityError(f"`rule` cannot move sharded weights: {reason}.")
    check_finite_in_shards({name: layer.values for name, layer in zip(names, layers, strict=True)}, shards)
    totals = shards.total([len(layer.positions) for layer in layers])
    dropped = {name: count_dropped(total, fraction) for name, total in zip(names, totals, strict=True)}
    kept = {name: total - dropped[name] for name, total in zip(names, totals, strict=True)}
    scores = {name: rule.drop_scores(layer).detach() for name, layer in zip(names, layers, strict=True)}
    stay = layerwise_in_shards(scores, kept, shards)
    survivors = {
        name: layer.positions.index_select(0, positions_of(stay[name])).long()
        for name, layer in zip(names, layers, strict=True)
    }
    grow = {name: _grow_scores(rule, layer) for name, layer in zip(names, layers, strict=True)}
    check_finite_in_shards(grow, shards)
    free = {name: score.index_fill(0, survivors[name], -torch.inf) for name, score in grow.items()}
    grown = layerwise_in_shards(free, dropped, shards)
    return [
        positions_of(grown[name].index_fill_(0, survivors[name], True)).to(layer.positions.dtype)
        for name, layer in zip(names, layers, strict=True)
    ]


def _grow_scores(rule: GrowthRule, layer: ActiveWeights) -> Tensor:
    scores = rule.grow_scores(layer)
    assert scores is not None, "a rule for shards says where to grow"
    return scores.detach().reshape(-1)


def check_finite_in_shards(tensors: dict[str, Tensor], shards: Shards) -> None:
    """Refuse tensors of which entries are NaN or infinite on any process.

    Raises:
        SparsityError: On every process: those that went on would wait for the others.
    """
    found = shards.total([int(t.isfinite().logical_not().sum()) for t in tensors.values()])
    for name, bad in zip(tensors, found, strict=True):
        if bad:
            raise SparsityError(
                f"Weights and scores of {name!r} must be finite, got {bad} that are not. Look for an "
                "overflow in training; a checkpoint from before it may be whole."
            )
