"""Masks with exact counts, over each layer by itself or over all of them together."""

from collections.abc import Mapping

from torch import Tensor

from lightning_sparse.checks import SparsityError, check_count
from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.functional.ranking import count_nonzero, rankable
from lightning_sparse.types import Budgets, Masks, Scores

__all__ = [
    "check_reachable",
    "count_all",
    "count_kept",
    "global_masks",
    "layerwise_masks",
    "sparsity",
    "top_k_mask",
]


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """Keep the k highest scores; of equal ones, those with the lowest flat index.

    Args:
        scores: Scores of any shape, real dtype and device; half precision is ranked in float32.
        k: Number of entries to keep, from 0 to all.

    Returns:
        A boolean mask of the same shape and device, with exactly k True.

    Raises:
        SparsityError: If k is out of range or a score is NaN.

    Examples:
        >>> import torch
        >>> top_k_mask(torch.tensor([[0.1, 0.5], [0.5, 0.5]]), 2)
        tensor([[False,  True],
                [ True, False]])
    """
    return _mask_of_layer(scores, k, "scores", UNSTRUCTURED)


def layerwise_masks(scores: Scores, budgets: Budgets, *, pattern: Pattern = UNSTRUCTURED) -> Masks:
    """Keep the best of each layer, as many as its budget says.

    Args:
        scores: Scores by layer.
        budgets: Number of weights to keep by layer; the same names.
        pattern: Which sets of weights may be kept.

    Returns:
        Boolean masks by layer with exactly ``budgets[name]`` True each.

    Raises:
        SparsityError: If the names differ, a budget is out of range or not one that the pattern can have, or
            a score is NaN.
    """
    if scores.keys() != budgets.keys():
        raise SparsityError(
            f"`budgets` must name the layers of `scores`, got a difference in "
            f"{', '.join(sorted(scores.keys() ^ budgets.keys()))}."
        )
    return {name: _mask_of_layer(score, budgets[name], name, pattern) for name, score in scores.items()}


def global_masks(
    scores: Scores,
    k: int,
    *,
    min_weights: int = 0,
    fixed: Mapping[str, int] | None = None,
    pattern: Pattern = UNSTRUCTURED,
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
        pattern: Which sets of weights may be kept.

    Returns:
        Boolean masks by layer, in the order of ``scores``; exactly k True.

    Raises:
        SparsityError: If k, less what ``fixed`` takes, is below the minimum or above the size of the others,
            if ``fixed`` names an unknown layer or a budget out of range, if the pattern cannot have these
            counts, or if a score is NaN.
    """
    budgets = dict(fixed or {})
    check_reachable({name: score.numel() for name, score in scores.items()}, k, min_weights, budgets)
    of_one_dtype = {name: flat.view(scores[name].shape) for name, flat in rankable(scores).items()}
    while True:
        free = {name: score for name, score in of_one_dtype.items() if name not in budgets}
        masks = pattern.best(free, k - sum(budgets.values()))
        least = {name: min(min_weights, score.numel()) for name, score in free.items()}
        short = {name: n for name, n in least.items() if count_nonzero(masks[name]) < n}
        if not short:
            break
        budgets |= short
    masks |= layerwise_masks({name: of_one_dtype[name] for name in budgets}, budgets, pattern=pattern)
    return {name: masks[name] for name in scores}


def sparsity(masks: Masks) -> float:
    """Return the share of the weights that the masks prune, over all layers."""
    return 1 - count_kept(masks) / count_all(masks)


def count_kept(masks: Masks) -> int:
    """Count the weights that the masks keep, over all layers."""
    return sum(map(count_nonzero, masks.values()))


def count_all(masks: Masks) -> int:
    """Count the weights that have a mask, over all layers."""
    return sum(mask.numel() for mask in masks.values())


def check_reachable(layers: Mapping[str, int], k: int, min_weights: int, fixed: Mapping[str, int]) -> None:
    """Refuse a number of weights that layers of these sizes, ranked together, cannot keep.

    Args:
        layers: How many weights each layer has.
        k: Number of weights to keep in all.
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).
        fixed: Exact budgets of some layers.

    Raises:
        SparsityError: It says what is possible.
    """
    if unknown := fixed.keys() - layers.keys():
        raise SparsityError(
            f"`fixed` must name layers among {', '.join(layers)}, got {', '.join(sorted(unknown))}."
        )
    check_count("min_weights", min_weights, 0)
    sizes = [size for name, size in layers.items() if name not in fixed]
    least, most = sum(min(min_weights, size) for size in sizes), sum(sizes)
    rest = k - sum(fixed.values())
    if least <= rest <= most:
        return
    way_out = "Raise `density` or lower `min_weights_per_layer`" if rest < least else "Lower `density`"
    names = " `global_masks` calls these `min_weights` and `fixed`." if fixed or rest < least else ""
    raise SparsityError(
        f"`k` must leave between {least} ({min_weights} in each of {len(sizes)} layers) and {most} weights "
        f"to rank globally, got {rest}: {k} in all, {k - rest} of them in layers with a budget of their own. "
        f"{way_out}{', or change `density_overrides`' if fixed else ''}.{names}"
    )


def _mask_of_layer(scores: Tensor, k: int, name: str, pattern: Pattern) -> Tensor:
    if not 0 <= k <= scores.numel():
        raise SparsityError(f"`k` must be between 0 and the {scores.numel()} scores of {name}, got {k}.")
    return pattern.best({name: scores}, k)[name]
