"""Scores that need no data: chance, and the size of the weights."""

import torch

from lightning_sparse.functional.saliency.base import PruningMethod, PruningProblem
from lightning_sparse.types import Scores

__all__ = ["Magnitude", "Random"]


class Random(PruningMethod):
    """Keep weights drawn at random, each with the same chance within what is ranked together.

    Args:
        allocation: ``"global"`` draws from all weights at once, so a layer's count varies with the draw; the
            others fix each layer's count: ``"uniform"``, ``"erk"``, ``"epl"``, ``"epf"``.
    """

    def scores(self, problem: PruningProblem) -> Scores:
        """Return uniform draws from [0, 1), made on the generator's device for every weight in order."""
        draws = problem.generator
        return {
            name: torch.rand(weight.shape, generator=draws, device=draws.device).to(weight.device)
            for name, weight in problem.weights.items()
        }


class Magnitude(PruningMethod):
    """Keep the weights that are largest in absolute value.

    Args:
        allocation: ``"global"`` ranks the weights of all layers together, else each layer keeps its largest.

    Source:
        Han et al., "Learning both Weights and Connections", NeurIPS 2015 (arXiv:1506.02626), at
        initialization.
    """

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``|w|``."""
        return {name: weight.detach().abs() for name, weight in problem.weights.items()}
