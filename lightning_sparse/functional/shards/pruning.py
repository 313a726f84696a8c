"""Masks of weights that lie on several processes, from scores that each takes of its own rows."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.functional.planned import plan_budgets
from lightning_sparse.functional.pruning import kept_by_rank, prune_along, random_masks
from lightning_sparse.functional.ranking import count_nonzero
from lightning_sparse.functional.saliency import PruningMethod, PruningProblem, Random, Ranking
from lightning_sparse.functional.saliency.score_check import ScoreCheck, refuse_not_finite
from lightning_sparse.functional.shards.layout import Shards, here, is_sharded
from lightning_sparse.functional.shards.ranking import global_in_shards, layerwise_in_shards
from lightning_sparse.types import Densities, Masks, Scores

__all__ = ["needs_whole_weights", "prune_anywhere", "random_masks_anywhere"]


def needs_whole_weights(
    method: PruningMethod, pattern: Pattern = UNSTRUCTURED, keep_lowest: bool = False
) -> str:
    """Say why a method cannot be had where each process holds some rows, and the way out; "" if it can."""
    name = type(method).__name__
    if not method.takes_shards:
        return (
            f"{name} needs the net and its weights whole in every process. Use `random`, `erk`, `magnitude`, "
            "`SNIP()`, or `FromFile` with masks that were made elsewhere"
        )
    if method.conformance != "paper":
        return f"`conformance` 'reference' of {name} counts as a code for one process does. Leave it out"
    if method.allocation == "epf":
        return "`allocation` 'epf' counts by filter, and those are split. Use 'erk'"
    if pattern != UNSTRUCTURED:
        return f"`pattern` {pattern} is not counted over several processes yet. Leave it out"
    if keep_lowest:
        return "`mask_ablation` 'invert' is not there for several processes yet. Leave it out"
    return ""


def prune_anywhere(
    method: PruningMethod,
    problem: PruningProblem,
    density: float,
    *,
    fixed: Mapping[str, float],
    min_weights: int,
    keep_lowest: bool = False,
    pattern: Pattern = UNSTRUCTURED,
    prunes: bool = True,
) -> Iterator[Masks]:
    """Do as `prune_along`; of weights that lie on several processes, yield each one's rows of the masks.

    Whether a signal still passes is not looked at there.

    Raises:
        SparsityError: As from `prune_along`, on every process; if the method needs whole weights.
    """
    common: dict[str, Any] = {"fixed": fixed, "min_weights": min_weights}
    if problem.shards is None:
        rest: dict[str, Any] = {"keep_lowest": keep_lowest, "pattern": pattern, "prunes": prunes}
        yield from prune_along(method, problem, density, **common, **rest)
        return
    if reason := needs_whole_weights(method, pattern, keep_lowest):
        raise SparsityError(f"`method` cannot be used on sharded weights: {reason}.")
    yield _prune(method, problem, density, problem.shards, **common)


def random_masks_anywhere(
    problem: PruningProblem,
    density: float,
    ranking: Ranking,
    fixed: Densities,
    pattern: Pattern = UNSTRUCTURED,
) -> Masks:
    """Do as `random_masks`; of weights that lie on several processes, return this one's rows of the masks.

    Args:
        problem: Its module, weights, generator and shards count. Without weights there are no masks.
        density: Share of all these weights to keep, a fraction in (0, 1].
        ranking: ``"global"``, or the allocation that gives each layer its own budget.
        fixed: Densities of single layers; the others share what remains.
        pattern: Which sets of weights may be kept.

    Raises:
        SparsityError: If the budget cannot be met, or the pattern cannot have it.
    """
    weights, draws, shards = problem.weights, problem.generator, problem.shards
    if shards is None or not weights:
        return random_masks(
            weights, density, ranking, draws, fixed=fixed, module=problem.module, pattern=pattern
        )
    return _prune(Random(ranking), problem, density, shards, fixed=fixed, min_weights=1)


def _prune(
    method: PruningMethod,
    problem: PruningProblem,
    density: float,
    shards: Shards,
    *,
    fixed: Mapping[str, float],
    min_weights: int,
) -> Masks:
    shapes = {name: weight.shape for name, weight in problem.weights.items()}  # of the whole weights
    budgets = plan_budgets(shapes, density, method.allocation, fixed=fixed, min_weights=min_weights)
    scores = _scores(method, problem, shards)
    _check(scores, fixed, kept_by_rank(shapes, density, fixed, min_weights), shards)
    if method.allocation != "global":
        return layerwise_in_shards(scores, budgets, shards)
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    total = method.budget(sum(sizes.values()), density)
    return global_in_shards(scores, sizes, total, shards, min_weights=min_weights, fixed=budgets)


def _scores(method: PruningMethod, problem: PruningProblem, shards: Shards) -> Scores:
    """Return scores of this process's rows; what is drawn for a whole weight is held for one at a time."""
    if method.needs_loss:
        return {name: here(score) for name, score in method.scores(problem).items()}
    one_by_one = ({name: weight} for name, weight in problem.weights.items())
    found = (method.scores(replace(problem, weights=one)).items() for one in one_by_one)
    return {name: _rows(score, shards) for some in found for name, score in some}


def _rows(scores: Tensor, shards: Shards) -> Tensor:
    return here(scores) if is_sharded(scores) else shards.of(scores).clone()


def _check(scores: Scores, fixed: Mapping[str, float], keep: int, shards: Shards) -> None:
    """Refuse scores that cannot rank, as `prune_along` does, on every process."""
    bad = [
        score.numel() - count_nonzero(score < torch.inf) for score in scores.values()
    ]  # NaN is not, either
    totals = shards.total([*bad, *(count_nonzero(score) for score in scores.values())])
    for name, count in zip(scores, totals, strict=False):
        refuse_not_finite(name, count)
    nonzero = dict(zip(scores, totals[len(bad) :], strict=True))
    check = ScoreCheck(keep)
    check.check_counts({name: count for name, count in nonzero.items() if name not in fixed}, keep)
    check.sum_up()
