"""From scores to masks, for every way of sharing out a budget."""

from collections.abc import Mapping

from lightning_sparse.functional.allocation import allocate, total_budget
from lightning_sparse.functional.masks import global_masks, layerwise_masks
from lightning_sparse.functional.saliency import Ranking
from lightning_sparse.types import Budgets, Masks, Scores, Shapes

__all__ = ["masks_from_scores", "plan_budgets"]


def masks_from_scores(
    scores: Scores,
    density: float,
    ranking: Ranking,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
) -> Masks:
    """Keep exactly ``floor(density * N + 0.5)`` of the N weights, those with the highest scores.

    Args:
        scores: A score per weight.
        density: Share of all these weights to keep, a fraction in (0, 1].
        ranking: ``"global"``, or the allocation that gives each layer its own budget.
        fixed: Densities of single layers; the others share what remains.
        min_weights: Every layer keeps at least this many (all, if it is smaller).

    Raises:
        ValueError: If the budget cannot be met.
    """
    shapes = {name: score.shape for name, score in scores.items()}
    budgets = plan_budgets(shapes, density, ranking, fixed=fixed, min_weights=min_weights)
    if ranking != "global":
        return layerwise_masks(scores, {name: budgets[name] for name in scores})
    total = total_budget(sum(shape.numel() for shape in shapes.values()), density)
    return global_masks(scores, total, min_weights=min_weights, fixed=budgets)


def plan_budgets(
    shapes: Shapes,
    density: float,
    ranking: Ranking,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
) -> Budgets:
    """Return the budgets that shapes alone decide: of all layers, or under global ranking the fixed ones.

    Raises:
        ValueError: If the budget cannot be met.
    """
    if ranking != "global":
        return allocate(shapes, density, ranking, fixed=fixed, min_weights=min_weights)
    # Whether a global budget can be met, and what is fixed, does not depend on the allocation of the rest.
    budgets = allocate(shapes, density, "uniform", fixed=fixed, min_weights=min_weights)
    return {name: budgets[name] for name in fixed or {}}
