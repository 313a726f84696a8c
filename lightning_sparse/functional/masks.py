"""Masks with exact counts: rank the scores, keep the best k, break ties by order.

A bare threshold keeps too many or too few under ties, and everything once the threshold is zero. So: all
scores above the k-th largest, then the first ones equal to it, until k are kept.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.types import Budgets, Masks, Scores

__all__ = [
    "count_all",
    "count_kept",
    "count_nonzero",
    "global_masks",
    "in_pieces",
    "layerwise_masks",
    "sparsity",
    "top_k_mask",
]

_Array: TypeAlias = npt.NDArray[Any]

_SAMPLE = 2**16  # entries in the sample that brackets the threshold
_CHUNK = 2**17  # entries compared at a time: small enough to stay in a core's cache


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """Keep the k highest scores; of equal ones, those with the lowest flat index.

    Args:
        scores: Scores of any shape, real dtype and device; half precision is ranked in float32.
        k: Number of entries to keep, from 0 to all.

    Returns:
        A boolean mask of the same shape and device, with exactly k True.

    Raises:
        ValueError: If k is out of range or a score is NaN.

    Example:
        >>> top_k_mask(torch.tensor([[0.1, 0.5], [0.5, 0.5]]), 2)
        tensor([[False,  True],
                [ True, False]])
    """
    return _top_k(scores, k)


def layerwise_masks(scores: Scores, budgets: Budgets) -> Masks:
    """Keep the best of each layer, as many as its budget says.

    Args:
        scores: Scores by layer.
        budgets: Number of weights to keep by layer; the same names.

    Returns:
        Boolean masks by layer with exactly ``budgets[name]`` True each.

    Raises:
        ValueError: If the names differ, a budget is out of range or a score is NaN.
    """
    if scores.keys() != budgets.keys():
        raise SparsityError(
            f"`budgets` must name the layers of `scores`, got a difference in "
            f"{', '.join(sorted(scores.keys() ^ budgets.keys()))}."
        )
    return {name: _top_k(score, budgets[name], name) for name, score in scores.items()}


def global_masks(
    scores: Scores, k: int, *, min_weights: int = 0, fixed: Mapping[str, int] | None = None
) -> Masks:
    """Keep the k best scores over all layers together; of equal ones, the first in (layer, flat index) order.

    Layers that would keep fewer than ``min_weights`` keep exactly these, and the others are ranked again for
    what remains, until none falls short. That is the same as reserving the best ``min_weights`` of each layer
    and filling the rest globally.

    Args:
        scores: Scores by layer.
        k: Number of weights to keep in all.
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).
        fixed: Exact budgets of some layers, ranked by themselves; the others compete for the rest of k.

    Returns:
        Boolean masks by layer, in the order of ``scores``; exactly k True.

    Raises:
        ValueError: If k, less what ``fixed`` takes, is below the minimum or above the size of the others,
            if ``fixed`` names an unknown layer or a budget out of range, or if a score is NaN.
    """
    budgets = dict(fixed or {})
    _check_reachable(scores, k, min_weights, budgets)
    flat = _rankable(scores)
    while True:
        free = {name: score for name, score in flat.items() if name not in budgets}
        masks = _best(free, k - sum(budgets.values()))
        least = {name: min(min_weights, score.numel()) for name, score in free.items()}
        short = {name: n for name, n in least.items() if count_nonzero(masks[name]) < n}
        if not short:
            break
        budgets |= short
    masks |= layerwise_masks({name: flat[name] for name in budgets}, budgets)
    return {name: masks[name].view(score.shape) for name, score in scores.items()}


def sparsity(masks: Masks) -> float:
    """Return the share of the weights that the masks prune, over all layers."""
    return 1 - count_kept(masks) / count_all(masks)


def count_kept(masks: Masks) -> int:
    """Count the weights that the masks keep, over all layers."""
    return sum(map(count_nonzero, masks.values()))


def count_all(masks: Masks) -> int:
    """Count the weights that have a mask, over all layers."""
    return sum(mask.numel() for mask in masks.values())


def count_nonzero(entries: Tensor) -> int:
    """Count the entries that are not zero; on the CPU by numpy, which takes a third of torch's time."""
    if entries.device.type != "cpu" or entries.dtype not in (torch.bool, torch.float32, torch.float64):
        return int(entries.count_nonzero())
    array = entries.detach().numpy()
    return int(np.count_nonzero(array if array.dtype == bool else array != 0))


def in_pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same rows of tensors of one shape, on the CPU so few at a time that they stay in its cache.

    There several operations on them take hardly longer than one on all of it: the way to memory counts.
    """
    if tensors[0].device.type != "cpu" or tensors[0].numel() <= _CHUNK:
        yield tensors
        return
    rows = max(1, _CHUNK * len(tensors[0]) // tensors[0].numel())
    for start in range(0, len(tensors[0]), rows):
        yield tuple(tensor[start : start + rows] for tensor in tensors)


def _check_reachable(scores: Scores, k: int, min_weights: int, fixed: Mapping[str, int]) -> None:
    if unknown := fixed.keys() - scores.keys():
        raise SparsityError(
            f"`fixed` must name layers among {', '.join(scores)}, got {', '.join(sorted(unknown))}."
        )
    if min_weights < 0:
        raise SparsityError(f"`min_weights_per_layer` must be 0 or more, got {min_weights}.")
    sizes = [score.numel() for name, score in scores.items() if name not in fixed]
    least, most = sum(min(min_weights, size) for size in sizes), sum(sizes)
    rest = k - sum(fixed.values())
    if least <= rest <= most:
        return
    way_out = "Raise `density` or lower `min_weights_per_layer`" if rest < least else "Lower `density`"
    raise SparsityError(
        f"`k` must leave between {least} ({min_weights} in each of {len(sizes)} layers) and {most} weights "
        f"to rank globally, got {rest}: {k} in all, {k - rest} of them in layers with a budget of their own. "
        f"{way_out}{', or change `density_overrides`' if fixed else ''}."
    )


def _top_k(scores: Tensor, k: int, name: str = "scores") -> Tensor:
    if not 0 <= k <= scores.numel():
        raise SparsityError(f"`k` must be between 0 and the {scores.numel()} scores of {name}, got {k}.")
    return _best(_rankable({name: scores}), k)[name].view(scores.shape)


def _best(flat: Scores, k: int) -> Masks:
    """Keep the k best over all layers: everything from the k-th largest up, less its last equals."""
    # All that equal the largest are no more than ties if none is to be kept.
    threshold = _kth_largest(list(flat.values()), max(k, 1)) if any(map(len, flat.values())) else 0
    if math.isnan(threshold):
        _refuse_nan(flat)
    masks = {name: _at_least(score, threshold) for name, score in flat.items()}
    excess = count_kept(masks) - k
    for name, score in reversed(flat.items()):
        if excess == 0:
            break
        tied = (score == threshold).nonzero()[-excess:]
        masks[name][tied] = False
        excess -= len(tied)
    return masks


def _at_least(scores: Tensor, threshold: float) -> Tensor:
    """Compare; on the CPU by numpy, which takes a quarter of torch's time."""
    if scores.device.type != "cpu":
        return scores >= threshold
    return torch.from_numpy(scores.numpy() >= threshold)


def _rankable(scores: Scores) -> Scores:
    """Flatten to one common dtype that numpy can sort without loss."""
    flat = {name: score.detach().reshape(-1) for name, score in scores.items()}
    dtype = reduce(torch.promote_types, (score.dtype for score in flat.values()), torch.uint8)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    return {name: score.to(dtype) for name, score in flat.items()}


def _refuse_nan(scores: Scores) -> NoReturn:
    counts = {name: int(score.isnan().sum()) for name, score in scores.items()}
    name, bad = next((name, bad) for name, bad in counts.items() if bad)
    raise SparsityError(
        f"`scores` must not contain NaN, got {bad} in {name!r}. "
        "Look for an overflow in the loss or in half precision."
    )


def _kth_largest(tensors: Sequence[Tensor], k: int) -> float:
    """Find the k-th largest value over flat tensors of one dtype, exactly; on the CPU without a copy.

    NaN if any value is: to look for that beforehand would take a good part of the time of the search.
    """
    if any(tensor.device.type != "cpu" for tensor in tensors):
        best = torch.cat([t.to(tensors[0].device) for t in tensors]).topk(k).values
        kth: float = best[-1].item()
        return math.nan if best[0].isnan() else kth  # topk takes NaN for the largest
    arrays = [tensor.numpy() for tensor in tensors]
    if sum(array.size for array in arrays) < 8 * _SAMPLE:
        values = np.concatenate(arrays)
        return math.nan if np.isnan(values).any() else _select(values, k)
    return _select_by_bracket(arrays, k)


def _select_by_bracket(arrays: Sequence[_Array], k: int) -> float:
    """Bracket the k-th largest value by a sample, then sort out only what lies inside the bracket.

    In a sample of m, a quantile q is off by about sqrt(m q (1 - q)) ranks; the bracket takes four times that
    on either side. It is widened until the counts prove that the value is inside, so the result is exact.
    """
    size = sum(array.size for array in arrays)
    sample = _even_sample(arrays, size // _SAMPLE)
    quantile = 1 - k / size
    margin = 1 + 4 * math.sqrt(sample.size * quantile * (1 - quantile))
    while True:
        low, high = _bracket(sample, quantile, margin)
        above, inside = _split(arrays, low, high)
        if np.isnan(inside).any():
            return math.nan
        if above < k <= above + inside.size:
            return _select(inside, k - above)
        if above < k <= above + inside.size + sum(np.count_nonzero(array == low) for array in arrays):
            return low
        margin *= 4


def _even_sample(arrays: Sequence[_Array], step: int) -> _Array:
    """Every ``step``-th entry of the arrays laid end to end, sorted."""
    starts = np.cumsum([0, *(array.size for array in arrays[:-1])])
    return np.sort(
        np.concatenate([a[-start % step :: step] for a, start in zip(arrays, starts, strict=True)])
    )


def _bracket(sample: _Array, quantile: float, margin: float) -> tuple[float, float]:
    first = math.floor(quantile * sample.size - margin)
    last = math.ceil(quantile * sample.size + margin)
    low = sample[first].item() if first >= 0 else -math.inf
    high = sample[last].item() if last < sample.size else math.inf
    return low, high


def _split(arrays: Sequence[_Array], low: float, high: float) -> tuple[int, _Array]:
    """Count the entries above ``high``, collect those in (low, high], and NaN.

    Those at ``low`` are not collected: with scores of pruned weights at zero they can be nearly all.
    """
    above, inside = 0, []
    for array in arrays:
        for start in range(0, array.size, _CHUNK):
            chunk = array[start : start + _CHUNK]
            is_above = chunk > high
            above += np.count_nonzero(is_above)
            inside.append(chunk[(chunk <= low) == is_above])  # neither; both cannot be
    return above, np.concatenate(inside)


def _select(values: _Array, k: int) -> float:
    """The k-th largest of the values, which are reordered."""
    values.partition(values.size - k)
    value: float = values[values.size - k].item()
    return value
