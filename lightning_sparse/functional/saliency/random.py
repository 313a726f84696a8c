"""Chance: the baseline of every score."""

from collections.abc import Callable

import torch

from lightning_sparse.functional.allocation import ALLOCATIONS
from lightning_sparse.functional.saliency.base import PruningMethod, PruningProblem, register_method
from lightning_sparse.types import Scores

__all__ = ["Random"]


@register_method("random")
class Random(PruningMethod):
    """Keep weights drawn at random, each with the same chance within what is ranked together.

    Args:
        allocation: ``"global"`` draws from all weights at once, so a layer's count varies with the draw; the
            others fix each layer's count: ``"uniform"``, ``"erk"``, ``"epl"``, ``"epf"``.
    """

    takes_shards = True

    def scores(self, problem: PruningProblem) -> Scores:
        """Return uniform draws from [0, 1), made on the generator's device for every weight in order."""
        draws = problem.generator
        return {
            name: torch.rand(weight.shape, generator=draws, device=draws.device).to(weight.device)
            for name, weight in problem.weights.items()
        }


def _drawn_by(allocation: str) -> Callable[[], Random]:
    def make() -> Random:
        return Random(allocation)

    return make


for _allocation in ALLOCATIONS:
    register_method(_allocation)(_drawn_by(_allocation))
