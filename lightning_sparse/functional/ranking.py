"""Rank scores exactly, and fast: the k best of all, ties broken by order.

A bare threshold keeps too many or too few under ties, and everything once the threshold is zero. So: all
scores above the k-th largest, then the first ones equal to it, until k are kept.
"""

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.types import Masks, Scores

__all__ = ["best_of", "count_nonzero", "in_pieces", "mask_at", "positions_of", "rankable", "refuse_nan"]

_Array: TypeAlias = npt.NDArray[Any]

_SAMPLE = 2**16  # entries in the sample that brackets the threshold
_CHUNK = 2**17  # entries compared at a time: small enough to stay in a core's cache


def best_of(flat: Scores, k: int) -> Masks:
    """Keep the k best of all tensors: everything from the k-th largest up, less the last that equal it.

    Args:
        flat: Scores by name, flat and of one dtype, as from `rankable`.
        k: Number of entries to keep, from 0 to all.

    Raises:
        SparsityError: If a score is NaN.
    """
    # With k = 0 the threshold is the largest score, and all that equal it are taken away again below.
    threshold = _kth_largest(list(flat.values()), max(k, 1)) if any(map(len, flat.values())) else 0
    if math.isnan(threshold):
        refuse_nan(flat)
    masks = {name: _at_least(score, threshold) for name, score in flat.items()}
    excess = sum(map(count_nonzero, masks.values())) - k
    for name, score in reversed(flat.items()):
        if excess == 0:
            break
        tied = (score == threshold).nonzero()[-excess:]
        masks[name][tied] = False
        excess -= len(tied)
    return masks


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


def positions_of(mask: Tensor, count: int | None = None) -> Tensor:
    """Return the flat positions that are True, ascending; on the CPU by numpy, several times as fast.

    Args:
        mask: Boolean, of any shape and device.
        count: How many are True, if that is known: then no other device is waited for.
    """
    if mask.device.type != "cpu":
        flat = mask.reshape(-1)
        return flat.nonzero().squeeze(1) if count is None else first_of_sorted(flat, count)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def first_of_sorted(flat: Tensor, count: int) -> Tensor:
    """Return the first positions of a flat mask that are True, by a sort.

    >>> first_of_sorted(torch.tensor([False, True, True]), 2).tolist()
    [1, 2]
    """
    return flat.view(torch.uint8).sort(descending=True, stable=True).indices[:count]


def first_of_rows(order: Tensor, n: int) -> Tensor:
    """Return a mask that is True at the first n places of each row.

    >>> first_of_rows(torch.tensor([[2, 0, 1]]), 2).tolist()
    [[True, False, True]]
    """
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :n], True)


def mask_at(positions: Tensor, shape: torch.Size) -> Tensor:
    """Return a mask that is True at flat positions, on their device; `positions_of` takes it back.

    >>> mask_at(torch.tensor([0, 3]), torch.Size([2, 2])).tolist()
    [[True, False], [False, True]]
    """
    mask = torch.zeros(shape.numel(), dtype=torch.bool, device=positions.device)
    return mask.index_fill_(0, positions, True).view(shape)


def _at_least(scores: Tensor, threshold: float) -> Tensor:
    """Compare; on the CPU by numpy, which takes a quarter of torch's time."""
    if scores.device.type != "cpu":
        return scores >= threshold
    return torch.from_numpy(scores.numpy() >= threshold)


def rankable(scores: Scores) -> Scores:
    """Flatten scores to one common dtype that numpy can sort without loss.

    Args:
        scores: Scores of any shapes and real dtypes; half precision becomes float32.
    """
    flat = {name: score.detach().reshape(-1) for name, score in scores.items()}
    dtype = reduce(torch.promote_types, (score.dtype for score in flat.values()), torch.uint8)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    return {name: score.to(dtype) for name, score in flat.items()}


def refuse_nan(scores: Scores) -> NoReturn:
    """Raise SparsityError that names the first layer with NaN, and how many it has."""
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
