"""From scores to masks, for every way of sharing out a budget, along a path of densities."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch

from lightning_sparse.functional.budgets import layer_budget, total_budget
from lightning_sparse.functional.filters import OUTPUTS_FIRST, Filters, equal_mask, filters_of
from lightning_sparse.functional.masks import global_masks, layerwise_masks
from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.functional.planned import plan_budgets, reserving
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.functional.saliency import PruningMethod, PruningProblem, Random, Ranking
from lightning_sparse.functional.saliency.connection import check_connected
from lightning_sparse.functional.saliency.score_check import ScoreCheck, pruned_last
from lightning_sparse.types import Densities, Masks, Scores, Shapes

__all__ = [
    "kept_by_rank",
    "masks_from_scores",
    "plan_budgets",
    "prune_along",
    "random_masks",
    "random_positions",
]


def prune_along(
    method: PruningMethod,
    problem: PruningProblem,
    density: float,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
    keep_lowest: bool = False,
    pattern: Pattern = UNSTRUCTURED,
    prunes: bool = True,
) -> Iterator[Masks]:
    """Yield the masks after each of the method's iterations: score what is left, rank at the next density.

    Args:
        method: Gives scores, path, ranking and rounding.
        problem: What it looks at.
        density: Share of all the problem's weights to keep at last, a fraction in (0, 1].
        fixed: Densities of single layers, which have a path of their own; the others share what remains.
        min_weights: Every layer keeps at least this many (all, if it is smaller).
        keep_lowest: Keep what scores lowest instead, as a check that scores mean something.
        pattern: Which sets of weights may be kept at last. On the way a method of several iterations always
            leaves such a set, and the best of the others (`reserving`).
        prunes: Whether the other weights will be zero: a signal then has to pass what is kept.

    Raises:
        SparsityError: If the budget cannot be met, the pattern cannot have it, scores are not finite or
            mostly zero, or an iterative method by gradients has cut the net through.

    Warns:
        UserWarning: If all scores of a layer are zero in the first iteration, fewer scores than weights to
            keep are not zero in the last, or what is kept of a layer has no gradient any more.
    """
    shapes, fixed = {name: weight.shape for name, weight in problem.weights.items()}, fixed or {}
    at_last = 0 if keep_lowest else kept_by_rank(shapes, density, fixed, min_weights)
    score_check = ScoreCheck(at_last, problem.weights)
    filters = filters_of(problem.module, problem.weights) if method.allocation == "epf" else None
    ranked_globally = method.allocation == "global" and not (fixed or keep_lowest or pattern != UNSTRUCTURED)
    paths = list(_paths(method, shapes, density, fixed, min_weights))
    # Before any score is taken. On the way to a pattern, what it can keep is left, and whatever else is best.
    first, firsts = paths[0] if pattern == UNSTRUCTURED else (density, fixed)
    counts = _filters_of(shapes, filters)
    budgets = plan_budgets(
        shapes,
        first,
        method.allocation,
        fixed=firsts,
        min_weights=min_weights,
        pattern=pattern,
        filters=counts,
    )
    reserves = pattern != UNSTRUCTURED and budgets.keys() == shapes.keys()
    for left, (share, shares) in zip(range(len(paths))[::-1], paths, strict=True):
        scores, keep = method.scores(problem), kept_by_rank(shapes, share, shares, min_weights)
        score_check.count({name: scores[name] for name in fixed})  # they must be finite, and no more
        score_check.check({name: score for name, score in scores.items() if name not in fixed}, keep)
        if problem.masks is not None:
            unclear = score_check.unclear(keep, min_weights) if ranked_globally else scores
            scores = scores | pruned_last({n: scores[n] for n in unclear}, problem.masks)
        if keep_lowest:
            scores = {name: _turned(score) for name, score in scores.items()}
        on_the_way = reserves and left > 0
        if on_the_way:
            scores = reserving(scores, budgets, pattern)
        masks = masks_from_scores(
            scores,
            share,
            method.allocation,
            fixed=shares,
            min_weights=min_weights,
            budget=method.budget,
            pattern=UNSTRUCTURED if on_the_way else pattern,
            filters=filters,
        )
        if on_the_way:  # a layer's budget at last may have been rounded up
            masks = {name: mask | (scores[name] == torch.inf) for name, mask in masks.items()}
        problem = replace(problem, masks=masks)
        del scores  # they would stay beside the next ones
        yield masks
    score_check.sum_up()
    if prunes and method.needs_loss and score_check.keep:
        nonzero = [name for name, count in score_check.nonzero_at_first.items() if count]
        strict = len(method.path(density)) > 1 and method.conformance == "paper"
        check_connected(problem, method.num_batches, nonzero, strict)


def masks_from_scores(
    scores: Scores,
    density: float,
    ranking: Ranking,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
    budget: Callable[[int, float], int] = total_budget,
    pattern: Pattern = UNSTRUCTURED,
    filters: Mapping[str, Filters] | None = None,
) -> Masks:
    """Keep exactly ``floor(density * N + 0.5)`` of the N weights, those with the highest scores.

    Args:
        scores: A score per weight.
        density: Share of all these weights to keep, a fraction in (0, 1].
        ranking: ``"global"``, or the allocation that gives each layer its own budget.
        fixed: Densities of single layers; the others share what remains.
        min_weights: Every layer keeps at least this many (all, if it is smaller).
        budget: Rounds a global budget in another way.
        pattern: Which sets of weights may be kept.
        filters: For ``"epf"``, where the outputs of weights are, as from `filters_of`. ``None``: first.

    Raises:
        SparsityError: If the budget cannot be met, or the pattern cannot have it.
    """
    shapes = {name: score.shape for name, score in scores.items()}
    counts, filters = _filters_of(shapes, filters), filters or {}
    budgets = plan_budgets(
        shapes, density, ranking, fixed=fixed, min_weights=min_weights, pattern=pattern, filters=counts
    )
    if ranking == "epf" and pattern == UNSTRUCTURED:  # any other says itself how many a filter keeps
        return {n: equal_mask(s, budgets[n], filters.get(n, OUTPUTS_FIRST)) for n, s in scores.items()}
    if ranking != "global" or (budgets.keys() == shapes.keys() and pattern != UNSTRUCTURED):
        return layerwise_masks(scores, budgets, pattern=pattern)
    total = budget(sum(shape.numel() for shape in shapes.values()), density)
    return global_masks(scores, total, min_weights=min_weights, fixed=budgets, pattern=pattern)


def random_masks(
    weights: Mapping[str, torch.Tensor],
    density: float,
    ranking: Ranking,
    generator: torch.Generator,
    *,
    fixed: Mapping[str, float] | None = None,
    module: torch.nn.Module | None = None,
    pattern: Pattern = UNSTRUCTURED,
) -> Masks:
    """Draw masks at random within a budget per layer, or over all layers at once.

    Args:
        weights: Parameters by name; only their shapes and devices count. Without any there are no masks.
        density: Share of all these weights to keep, a fraction in (0, 1].
        ranking: ``"global"``, or the allocation that gives each layer its own budget.
        generator: Source of the draws, which are made on its device.
        fixed: Densities of single layers; the others share what remains.
        module: Holds the weights, and says for ``"epf"`` where their outputs are. ``None``: first.
        pattern: Which sets of weights may be kept.

    Raises:
        SparsityError: If the budget cannot be met, or the pattern cannot have it.
    """
    if not weights:
        return {}
    problem = PruningProblem(module or torch.nn.Module(), weights, generator)
    filters = filters_of(problem.module, weights) if ranking == "epf" else None
    scores = Random(ranking).scores(problem)
    return masks_from_scores(scores, density, ranking, fixed=fixed, pattern=pattern, filters=filters)


def random_positions(
    shapes: Shapes,
    density: float,
    ranking: Ranking,
    generator: torch.Generator,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
    pattern: Pattern = UNSTRUCTURED,
) -> dict[str, torch.Tensor]:
    """Draw what `random_masks` draws, as flat positions, without ever holding more than one layer's scores.

    So nothing in the size of the net is needed, unless all layers are ranked together.

    Args:
        shapes: Weight shape by layer; the first dimension is that of outputs.
        density: Share of all these weights to keep, a fraction in (0, 1].
        ranking: ``"global"``, or the allocation that gives each layer its own budget.
        generator: Source of the draws, on the CPU.
        fixed: Densities of single layers; the others share what remains.
        min_weights: Every layer keeps at least this many (all, if it is smaller).
        pattern: Which sets of weights may be kept.

    Returns:
        Ascending positions by layer, int64, on the CPU.

    Raises:
        SparsityError: If the budget cannot be met, or the pattern cannot have it.

    Examples:
        >>> shapes = {"fc": torch.Size([3, 4])}
        >>> positions = random_positions(shapes, 0.25, "erk", torch.Generator().manual_seed(0))
        >>> masks = random_masks({"fc": torch.zeros(3, 4)}, 0.25, "erk", torch.Generator().manual_seed(0))
        >>> torch.equal(positions["fc"], positions_of(masks["fc"]))
        True
    """

    def scores_of(layers: Shapes) -> Scores:
        shaped = {name: torch.empty((), device="cpu").expand(shape) for name, shape in layers.items()}
        return Random(ranking).scores(PruningProblem(torch.nn.Module(), shaped, generator))

    budgets = plan_budgets(shapes, density, ranking, fixed=fixed, min_weights=min_weights, pattern=pattern)
    if budgets.keys() != shapes.keys():  # ranked together
        masks = masks_from_scores(
            scores_of(shapes), density, ranking, fixed=fixed, min_weights=min_weights, pattern=pattern
        )
        return {name: positions_of(mask) for name, mask in masks.items()}
    per_filter = ranking == "epf" and pattern == UNSTRUCTURED
    masks = {}
    for name, shape in shapes.items():
        scores, budget = scores_of({name: shape}), budgets[name]
        mask = equal_mask(scores[name], budget) if per_filter else pattern.best(scores, budget)[name]
        masks[name] = positions_of(mask)
    return masks


def _paths(
    method: PruningMethod, shapes: Shapes, density: float, fixed: Mapping[str, float], min_weights: int
) -> Iterator[tuple[float, Densities]]:
    """Yield the density of all weights, and those of layers that have their own, at every iteration.

    Each layer of its own, and the rest, falls along the method's path to its own end: so a budget that can be
    met at the end can be met on the way there.
    """
    if not fixed:
        yield from ((share, {}) for share in method.path(density))
        return
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    everything, rest = sum(sizes.values()), sum(n for name, n in sizes.items() if name not in fixed)
    kept = plan_budgets(shapes, density, "global", fixed=fixed, min_weights=min_weights)
    left = total_budget(everything, density) - sum(kept.values())
    paths = {name: method.path(share) for name, share in fixed.items()}
    for step, share in enumerate(method.path(max(left, 1) / max(rest, 1))[:-1]):
        shares = {name: path[step] for name, path in paths.items()}
        own = sum(layer_budget(sizes[name], d, min_weights) for name, d in shares.items())
        yield (own + share * rest) / everything, shares
    yield density, dict(fixed)


def kept_by_rank(shapes: Shapes, density: float, fixed: Mapping[str, float], min_weights: int) -> int:
    """Count what layers without a density of their own keep; 0 if that is all they have."""
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    own = sum(layer_budget(sizes[name], share, min_weights) for name, share in fixed.items())
    kept = total_budget(sum(sizes.values()), density) - own
    return 0 if kept == sum(size for name, size in sizes.items() if name not in fixed) else kept


def _turned(scores: torch.Tensor) -> torch.Tensor:
    """Negate scores; -inf stays, as it marks weights that are pruned for good."""
    return torch.where(scores == -torch.inf, scores, -scores)


def _filters_of(shapes: Shapes, filters: Mapping[str, Filters] | None) -> dict[str, int]:
    """Count the filters of each layer."""
    return {name: where.count(shapes[name]) for name, where in (filters or {}).items()}
