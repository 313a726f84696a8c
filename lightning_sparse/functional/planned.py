"""How many weights each layer will keep, as far as shapes decide it; and ways there that end in a pattern."""

from collections.abc import Mapping

import torch

from lightning_sparse.functional.allocation import allocate
from lightning_sparse.functional.patterns import UNSTRUCTURED, GroupPattern, Pattern
from lightning_sparse.functional.patterns.base import refuse_odd_shapes
from lightning_sparse.functional.saliency import Ranking
from lightning_sparse.types import Budgets, Scores, Shapes

__all__ = ["plan_budgets", "reserving"]


def plan_budgets(
    shapes: Shapes,
    density: float,
    ranking: Ranking,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
    pattern: Pattern = UNSTRUCTURED,
    filters: Mapping[str, int] | None = None,
) -> Budgets:
    """Return the budgets that shapes alone decide: of all layers, or under global ranking the fixed ones.

    Under a pattern that keeps the same share everywhere, such as 2:4, those are all layers, too.

    Args:
        shapes: Weight shape by layer.
        density: Share of all these weights to keep, a fraction in (0, 1].
        ranking: ``"global"``, or the allocation that gives each layer its own budget.
        fixed: Densities of single layers; the others share what remains.
        min_weights: Every layer keeps at least this many (all, if it is smaller).
        pattern: Which sets of weights may be kept.
        filters: For ``"epf"``, the number of filters of layers where it is not ``shape[0]``.

    Raises:
        SparsityError: If the budget cannot be met, or the pattern cannot have it.
    """
    everywhere = ranking != "global"
    if isinstance(pattern, GroupPattern):
        refuse_odd_shapes(pattern, shapes)
        for shape in shapes.values():
            pattern.least(shape, min_weights)  # or an error
        everywhere |= pattern.density is not None
    # Whether a global budget can be met, and what is fixed, does not depend on the allocation of the rest.
    allocation = "uniform" if ranking == "global" else ranking
    budgets = allocate(
        shapes,
        density,
        allocation,
        fixed=fixed,
        min_weights=min_weights,
        filters=filters,
        pattern=pattern,
    )
    alone = {name: n for name, n in budgets.items() if everywhere or name in (fixed or {})}
    for name, budget in alone.items():
        pattern.check({name: shapes[name]}, budget)
    together = {name: shape for name, shape in shapes.items() if name not in alone}
    pattern.check(together, sum(budgets[name] for name in together))
    return alone


def reserving(scores: Scores, budgets: Budgets, pattern: Pattern) -> Scores:
    """Raise the scores that the pattern would keep now to infinity, so that whatever is kept holds these.

    An iterative method that ends in a pattern prunes so on the way: of 2:4 the two best of every four stay,
    and the others are ranked as without a pattern. So there is always a set of weights left that the pattern
    can keep, and the last iteration chooses among weights with a score.

    Args:
        scores: Scores by layer.
        budgets: What the pattern keeps of each layer at last.
        pattern: Which sets of weights may be kept at last.

    Examples:
        >>> from lightning_sparse.functional.patterns import NM
        >>> reserving({"fc": torch.tensor([[4.0, 3.0, 2.0, 1.0]])}, {"fc": 1}, NM(1, 4))["fc"].tolist()
        [[inf, 3.0, 2.0, 1.0]]
    """
    reserved = {name: pattern.best({name: score}, budgets[name])[name] for name, score in scores.items()}
    raised = {name: score if score.is_floating_point() else score.float() for name, score in scores.items()}
    return {name: score.masked_fill(reserved[name], torch.inf) for name, score in raised.items()}
