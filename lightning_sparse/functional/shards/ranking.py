"""The best of scores that lie on several processes, exactly, without gathering them.

By a radix selection. A float of 32 bits, read as an integer in the right way, ranks as before; of these
integers the k-th largest is found digit by digit, a byte each: every process counts which digit its numbers
have, the counts are added, and only numbers with the digit of the k-th largest go on. Four sums of 256
counts, for any number of scores; layers that are ranked by themselves share them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.masks import check_reachable
from lightning_sparse.functional.ranking import count_nonzero, rankable
from lightning_sparse.functional.shards.layout import Shards
from lightning_sparse.types import Budgets, Masks, Scores

__all__ = ["best_in_shards", "global_in_shards", "layerwise_in_shards"]

_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
_DIGIT = 8  # bits of a digit


def best_in_shards(
    scores: Scores, rankings: Sequence[Sequence[str]], counts: Sequence[int], shards: Shards
) -> Masks:
    """Keep the highest scores of each ranking, of the rows that all processes hold together.

    Of equal ones those are kept that come first in order of layer and flat index, as in one process: rows
    follow each other from process to process, so that is by layer, then process, then flat index there.

    Args:
        scores: Scores of this process's rows by layer, of floating point.
        rankings: The names that are ranked together, each name in one of them.
        counts: How many each ranking keeps, on all processes together.
        shards: Which rows these are.

    Returns:
        Boolean masks of this process's rows, in the shape of the scores.

    Raises:
        SparsityError: On every process, if a score is NaN, or there are fewer than are to be kept.
    """
    flat = rankable({name: scores[name] for names in rankings for name in names})
    _refuse_nan(flat, shards)
    keys = {name: _keys(score) for name, score in flat.items()}
    thresholds, ties = _thresholds([[keys[name] for name in names] for names in rankings], counts, shards)
    equal: dict[str, Tensor] = {}
    masks: Masks = {}
    for names, threshold in zip(rankings, thresholds, strict=True):
        masks |= {name: keys[name] > threshold for name in names}
        equal |= {name: (keys[name] == threshold).nonzero().squeeze(1) for name in names}
    found = shards.table([len(equal[name]) for names in rankings for name in names])
    row = 0
    for names, left in zip(rankings, ties, strict=True):
        there = found[row : row + len(names)].reshape(-1)
        before = (there.cumsum(0) - there).view(len(names), shards.count)[:, shards.number].tolist()
        row += len(names)
        for name, passed in zip(names, before, strict=True):
            masks[name][equal[name][: max(0, left - passed)]] = True
    return {name: masks[name].view(score.shape) for name, score in scores.items() if name in masks}


def layerwise_in_shards(scores: Scores, budgets: Budgets, shards: Shards) -> Masks:
    """Keep the best of each layer, as many as its budget says, on all processes together."""
    names = list(budgets)
    return best_in_shards(scores, [[name] for name in names], [budgets[name] for name in names], shards)


def global_in_shards(
    scores: Scores,
    sizes: Mapping[str, int],
    k: int,
    shards: Shards,
    *,
    min_weights: int = 0,
    fixed: Budgets | None = None,
) -> Masks:
    """Do as `global_masks`: keep the k best scores over all layers, and so many of each at least.

    Args:
        scores: Scores of this process's rows by layer.
        sizes: How many weights each layer has, on all processes together.
        k: Number of weights to keep in all.
        shards: Which rows these are.
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).
        fixed: Exact budgets of some layers, ranked by themselves.

    Raises:
        SparsityError: As from `global_masks`, on every process.
    """
    budgets = dict(fixed or {})
    check_reachable(sizes, k, min_weights, budgets)
    while True:
        free = [name for name in scores if name not in budgets]
        masks = best_in_shards(scores, [free], [k - sum(budgets.values())], shards) if free else {}
        kept = dict(zip(free, shards.total([count_nonzero(masks[name]) for name in free]), strict=True))
        short = {name: n for name in free if kept[name] < (n := min(min_weights, sizes[name]))}
        if not short:
            break
        budgets |= short
    if budgets:
        masks |= layerwise_in_shards(scores, budgets, shards)
    return {name: masks[name] for name in scores}


def _keys(scores: Tensor) -> Tensor:
    """Return integers that rank as floats do, equal ones alike; -0.0 and 0.0 are equal.

    The bits of positive floats rank as integers; those of negative ones the other way round, and below.
    """
    kind = _BITS[scores.dtype]
    bits = (scores + 0.0).view(kind)
    return bits ^ ((bits >> (8 * scores.itemsize - 1)) & torch.iinfo(kind).max)


def _thresholds(
    rankings: Sequence[Sequence[Tensor]], counts: Sequence[int], shards: Shards
) -> tuple[list[int], list[int]]:
    """Return the smallest key that each ranking keeps, and how many that equal it are kept."""
    left, thresholds = list(counts), [0] * len(rankings)
    candidates = [list(keys) for keys in rankings]
    width = max((8 * key.itemsize for keys in rankings for key in keys), default=0)
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        lowest = -(1 << (_DIGIT - 1)) if shift == width - _DIGIT else 0  # the first digit has the sign
        digits = [[_digits(key, shift, lowest) for key in keys] for keys in candidates]
        counted = shards.sum(torch.stack([_count(some) for some in digits]))
        _refuse_too_few(counted, left, counts)
        for number, (histogram, some) in enumerate(zip(counted, digits, strict=True)):
            from_top = histogram.flip(0).cumsum(0)  # how many have this digit or a higher one
            place = int((from_top < left[number]).sum())
            digit = len(histogram) - 1 - place
            left[number] -= int(from_top[place] - histogram[digit])
            thresholds[number] += (digit + lowest) << shift
            candidates[number] = [
                key[found == digit] for key, found in zip(candidates[number], some, strict=True)
            ]
    return thresholds, left


def _digits(keys: Tensor, shift: int, lowest: int) -> Tensor:
    return (keys >> shift) - lowest if lowest else (keys >> shift) & ((1 << _DIGIT) - 1)


def _count(digits: Sequence[Tensor]) -> Tensor:
    """Count each digit over the tensors of a ranking."""
    counted = [torch.bincount(some, minlength=1 << _DIGIT) for some in digits]
    return torch.stack([one.cpu() for one in counted]).sum(0)


def _refuse_too_few(counted: Tensor, left: Sequence[int], counts: Sequence[int]) -> None:
    """Refuse to keep more than there is; every process sees the same counts."""
    for there, needed, count in zip(counted.sum(1).tolist(), left, counts, strict=True):
        if not 0 <= needed <= there:
            raise SparsityError(
                f"`counts` must be between 0 and the {there} scores of a ranking, got {count}."
            )


def _refuse_nan(flat: Scores, shards: Shards) -> None:
    """Refuse scores without a rank, on every process."""
    found = shards.total([int(score.isnan().sum()) for score in flat.values()])
    for name, bad in zip(flat, found, strict=True):
        if bad:
            raise SparsityError(
                f"`scores` must not contain NaN, got {bad} in {name!r}. "
                "Look for an overflow in the loss or in half precision."
            )
