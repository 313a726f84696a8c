"""From scores to masks, for every way of sharing out a budget, along a path of densities."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch

from lightning_sparse.functional.allocation import allocate
from lightning_sparse.functional.budgets import layer_budget, total_budget
from lightning_sparse.functional.filters import OUTPUTS_FIRST, Filters, equal_mask, filters_of
from lightning_sparse.functional.masks import global_masks, layerwise_masks, top_k_mask
from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.functional.saliency import PruningMethod, PruningProblem, Random, Ranking
from lightning_sparse.functional.saliency.connection import check_connected
from lightning_sparse.functional.saliency.score_check import ScoreCheck, pruned_last
from lightning_sparse.types import Budgets, Densities, Masks, Scores, Shapes

__all__ = ["masks_from_scores", "plan_budgets", "prune_along", "random_masks", "random_positions"]


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
        pattern: Which sets of weights may be kept, in every iteration.
        prunes: Whether the other weights will be zero: a signal then has to pass what is kept.

    Raises:
        SparsityError: If the budget cannot be met, the pattern cannot have it, scores are not finite or
            mostly zero, or an iterative method by gradients has cut the net through.

    Warns:
        UserWarning: If all scores of a layer are zero in the first iteration, fewer scores than weights to
            keep are not zero in the last, or what is kept of a layer has no gradient any more.
    """
    shapes, fixed = {name: weight.shape for name, weight in problem.weights.items()}, fixed or {}
    at_last = 0 if keep_lowest else _kept_by_rank(shapes, density, fixed, min_weights)
    score_check = ScoreCheck(at_last, problem.weights)
    filters = filters_of(problem.module, problem.weights) if method.allocation == "epf" else None
    ranked_globally = method.allocation == "global" and not fixed and not keep_lowest
    paths = list(_paths(method, shapes, density, fixed, min_weights))
    first, firsts = paths[0]  # before any score is taken
    plan_budgets(shapes, first, method.allocation, fixed=firsts, min_weights=min_weights, pattern=pattern)
    for share, shares in paths:
        scores, keep = method.scores(problem), _kept_by_rank(shapes, share, shares, min_weights)
        score_check.count({name: scores[name] for name in fixed})  # they must be finite, and no more
        score_check.check({name: score for name, score in scores.items() if name not in fixed}, keep)
        if problem.masks is not None:
            unclear = score_check.unclear(keep, min_weights) if ranked_globally else scores
            scores = scores | pruned_last({n: scores[n] for n in unclear}, problem.masks)
        masks = masks_from_scores(
            {name: _turned(score) for name, score in scores.items()} if keep_lowest else scores,
            share,
            method.allocation,
            fixed=shares,
            min_weights=min_weights,
            budget=method.budget,
            pattern=pattern,
            filters=filters,
        )
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
    filters = filters or {}
    budgets = plan_budgets(
        shapes,
        density,
        ranking,
        fixed=fixed,
        min_weights=min_weights,
        pattern=pattern,
        filters={name: where.count(shapes[name]) for name, where in filters.items()},
    )
    if ranking == "epf" and pattern == UNSTRUCTURED:  # any other says itself how many a filter keeps
        return {n: equal_mask(s, budgets[n], filters.get(n, OUTPUTS_FIRST)) for n, s in scores.items()}
    if ranking != "global":
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
) -> Masks:
    """Draw masks at random within a budget per layer, or over all layers at once.

    Args:
        weights: Parameters by name; only their shapes and devices count. Without any there are no masks.
        density: Share of all these weights to keep, a fraction in (0, 1].
        ranking: ``"global"``, or the allocation that gives each layer its own budget.
        generator: Source of the draws, which are made on its device.
        fixed: Densities of single layers; the others share what remains.
        module: Holds the weights, and says for ``"epf"`` where their outputs are. ``None``: first.

    Raises:
        SparsityError: If the budget cannot be met.
    """
    if not weights:
        return {}
    problem = PruningProblem(module or torch.nn.Module(), weights, generator)
    filters = filters_of(problem.module, weights) if ranking == "epf" else None
    scores = Random(ranking).scores(problem)
    return masks_from_scores(scores, density, ranking, fixed=fixed, filters=filters)


def random_positions(
    shapes: Shapes,
    density: float,
    ranking: Ranking,
    generator: torch.Generator,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
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

    Returns:
        Ascending positions by layer, int64, on the CPU.

    Raises:
        SparsityError: If the budget cannot be met.

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

    if ranking == "global":
        masks = masks_from_scores(scores_of(shapes), density, ranking, fixed=fixed, min_weights=min_weights)
        return {name: positions_of(mask) for name, mask in masks.items()}
    budgets = plan_budgets(shapes, density, ranking, fixed=fixed, min_weights=min_weights)
    keep: Callable[[torch.Tensor, int], torch.Tensor] = equal_mask if ranking == "epf" else top_k_mask
    return {
        name: positions_of(keep(scores_of({name: shape})[name], budgets[name]))
        for name, shape in shapes.items()
    }


def plan_budgets(
    shapes: Shapes,
    density: float,
    ranking: Ranking,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
    pattern: Pattern = UNSTRUCTURED,
    filters: Mapping[str, int] | None = None,
    alive: Mapping[str, int] | None = None,
) -> Budgets:
    """Return the budgets that shapes alone decide: of all layers, or under global ranking the fixed ones.

    Args:
        shapes: Weight shape by layer.
        density: Share of all these weights to keep, a fraction in (0, 1].
        ranking: ``"global"``, or the allocation that gives each layer its own budget.
        fixed: Densities of single layers; the others share what remains.
        min_weights: Every layer keeps at least this many (all, if it is smaller).
        pattern: Which sets of weights may be kept.
        filters: For ``"epf"``, the number of filters of layers where it is not ``shape[0]``.
        alive: How many weights each layer has left, and keeps at most. ``None``: all.

    Raises:
        SparsityError: If the budget cannot be met, or the pattern cannot have it.
    """
    # Whether a global budget can be met, and what is fixed, does not depend on the allocation of the rest.
    allocation = "uniform" if ranking == "global" else ranking
    budgets = allocate(
        shapes, density, allocation, fixed=fixed, min_weights=min_weights, filters=filters, alive=alive
    )
    alone = {name: n for name, n in budgets.items() if ranking != "global" or name in (fixed or {})}
    for name, budget in alone.items():
        pattern.check({name: shapes[name]}, budget)
    together = {name: shape for name, shape in shapes.items() if name not in alone}
    pattern.check(together, sum(budgets[name] for name in together))
    return alone


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


def _kept_by_rank(shapes: Shapes, density: float, fixed: Mapping[str, float], min_weights: int) -> int:
    """Count what layers without a density of their own keep; 0 if that is all they have."""
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    own = sum(layer_budget(sizes[name], share, min_weights) for name, share in fixed.items())
    kept = total_budget(sum(sizes.values()), density) - own
    return 0 if kept == sum(size for name, size in sizes.items() if name not in fixed) else kept


def _turned(scores: torch.Tensor) -> torch.Tensor:
    """Negate scores; -inf stays, as it marks weights that are pruned for good."""
    return torch.where(scores == -torch.inf, scores, -scores)
