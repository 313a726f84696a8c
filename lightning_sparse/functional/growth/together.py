"""Moves of many layers at once, so that a GPU is neither waited for nor given hundreds of small tasks.

What grows and what is dropped is decided layer by layer, as `move` does it, but in one sort over all of them:
first all scores, then, stably, by layer. How many each layer drops and grows is known beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from lightning_sparse.functional.finite import check_finite
from lightning_sparse.functional.groups import computes_later, groups_of
from lightning_sparse.functional.growth.base import ActiveWeights, GrowthRule, move
from lightning_sparse.functional.growth.moves import (
    check_scores,
    check_support,
    count_dropped,
    move_support,
    move_support_at_random,
)
from lightning_sparse.functional.growth.shards import move_in_shards
from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.functional.shards.layout import Shards

__all__ = ["move_together"]

_MOST_WEIGHTS = 2**24  # of a group: sorts need less than a hundred bytes for each
_MOST_LAYERS = 255  # their numbers are sorted in one pass then


def move_together(
    rule: GrowthRule,
    layers: Sequence[ActiveWeights],
    fraction: float,
    names: Sequence[str],
    pattern: Pattern = UNSTRUCTURED,
    shards: Shards | None = None,
) -> list[Tensor]:
    """Do as `move`, layer by layer, and return their new positions.

    On the CPU, for layers larger than a group, under a pattern, and where a rule grows at random, it is. On
    another device layers are ranked together, in groups, and a group is waited for once: to see that its
    numbers are finite.

    Args:
        rule: Scores what may go, and what may grow.
        layers: Their active weights.
        fraction: Share of them to drop, in [0, 1].
        names: What errors call the layers.
        pattern: Which sets of weights may be active, before and after.
        shards: Which rows of the layers this process holds, if not all; then `move_in_shards` moves them.

    Raises:
        SparsityError: As from `move`.
    """
    if shards is not None:
        return move_in_shards(rule, layers, fraction, names, shards)
    moved: dict[int, Tensor] = {}
    devices = [layer.values.device for layer in layers]
    sizes = [layer.shape.numel() for layer in layers]
    for group in groups_of(sizes, devices, _MOST_WEIGHTS, _MOST_LAYERS):
        some, called = [layers[i] for i in group], [names[i] for i in group]
        fits = sizes[group[0]] <= _MOST_WEIGHTS  # `move` takes a third of the memory for what does not
        together = rule.needs_gradient and fits and pattern == UNSTRUCTURED
        if together and computes_later(devices[group[0]]):
            found = ranked_together(rule, some, fraction, called)
        else:
            found = [
                move(rule, one, fraction, pattern=pattern, name=name)
                for one, name in zip(some, called, strict=True)
            ]
        moved |= zip(group, found, strict=True)
    return [moved[i] for i in range(len(layers))]


def ranked_together(
    rule: GrowthRule, layers: Sequence[ActiveWeights], fraction: float, names: Sequence[str]
) -> list[Tensor]:
    """Return the new positions of layers that are on one device, whose scores are made by a rule."""
    drop = [rule.drop_scores(layer).detach() for layer in layers]
    grow = [rule.grow_scores(layer) for layer in layers]
    scores = [one.detach().reshape(-1) for one in grow if one is not None and one.is_floating_point()]
    if len(scores) < len(layers):
        check_finite({name: layer.values for name, layer in zip(names, layers, strict=True)})
        return [_alone(*each, fraction) for each in zip(layers, drop, grow, strict=True)]
    if any(one.shape != layer.positions.shape for one, layer in zip(drop, layers, strict=True)):
        _explain(layers, drop, scores, names)
    drop_flat, grow_flat = torch.cat(drop), torch.cat(scores)
    active = [len(layer.positions) for layer in layers]
    dropped = [count_dropped(count, fraction) for count in active]
    kept = [count - gone for count, gone in zip(active, dropped, strict=True)]
    sizes = [one.numel() for one in scores]
    few, all_of_them = _Rows(active, drop_flat.device), _Rows(sizes, drop_flat.device)

    local = torch.cat([layer.positions.long() for layer in layers])
    places = local + all_of_them.starts.index_select(0, few.numbers)
    fits = [local >= 0, local < all_of_them.lengths.index_select(0, few.numbers), places.diff() > 0]
    finite = [torch.cat([layer.values for layer in layers]), drop_flat, grow_flat]
    if not torch.stack([*(one.all() for one in fits), *(one.isfinite().all() for one in finite)]).all():
        _explain(layers, drop, scores, names)

    del grow, scores  # large ones: there is a copy of them

    stays = few.first(drop_flat, kept)
    new = torch.zeros(sum(sizes), dtype=torch.bool, device=drop_flat.device).scatter_(0, places, stays)
    new |= all_of_them.first(grow_flat.masked_fill_(new, -torch.inf), dropped)
    found = positions_of(new, sum(active)) - all_of_them.starts.index_select(0, few.numbers)
    return [
        part.to(layer.positions.dtype) for part, layer in zip(torch.split(found, active), layers, strict=True)
    ]


@dataclass
class _Rows:
    """Rows of numbers laid end to end, each as long as it is."""

    counts: Sequence[int]
    device: torch.device

    def __post_init__(self) -> None:
        self.lengths = self._here(self.counts)
        self.starts = self._here([0, *accumulate(self.counts)][:-1])
        self.total = sum(self.counts)
        numbers = torch.arange(len(self.counts), device=self.device)
        self.numbers = numbers.repeat_interleave(self.lengths, output_size=self.total)
        """Of which row each number is."""

    def first(self, scores: Tensor, counts: Sequence[int]) -> Tensor:
        """Tell which scores are the highest of their rows, so many of each; of equal ones the first."""
        order = scores.sort(descending=True, stable=True).indices
        if len(self.counts) > 1:
            rows = self.numbers.to(torch.uint8).index_select(0, order)
            order = order.index_select(0, rows.sort(stable=True).indices)
        ends = (self.starts + self._here(counts)).index_select(0, self.numbers)
        chosen = torch.arange(self.total, device=self.device) < ends
        return torch.empty_like(chosen).scatter_(0, order, chosen)

    def _here(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64).to(self.device, non_blocking=True)


def _alone(layer: ActiveWeights, drop_scores: Tensor, grow_scores: Tensor | None, fraction: float) -> Tensor:
    """Move one layer by itself."""
    if grow_scores is None:
        return move_support_at_random(layer.positions, drop_scores, layer.shape, fraction, layer.draws)
    return move_support(layer.positions, drop_scores, grow_scores, fraction)


def _explain(
    layers: Sequence[ActiveWeights], drop: Sequence[Tensor], grow: Sequence[Tensor], names: Sequence[str]
) -> None:
    """Raise the error of the first layer that has one."""
    for layer, drop_scores, grow_scores, name in zip(layers, drop, grow, names, strict=True):
        check_finite({name: layer.values})
        check_support(layer.positions, drop_scores, grow_scores.numel())
        check_scores(grow_scores, "grow_scores")
        check_scores(drop_scores, "drop_scores")
