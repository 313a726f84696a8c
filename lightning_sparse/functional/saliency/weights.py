"""Scores that need no data: chance, and the size of the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_sparse.functional.saliency.base import PruningMethod, Ranking
from lightning_sparse.types import Scores

__all__ = ["Magnitude", "Random"]


class Random(PruningMethod):
    """Keep weights drawn at random, each with the same chance within what is ranked together.

    Args:
        allocation: ``"global"`` draws from all weights at once, so a layer's count varies with the draw; the
            others fix each layer's count: ``"uniform"``, ``"erk"``, ``"epl"``, ``"epf"``.
    """

    def __init__(self, allocation: Ranking = "global") -> None:
        super().__init__(allocation)

    def scores(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> Scores:
        """Return uniform draws from [0, 1), made on the generator's device for every weight in order."""
        return {
            name: torch.rand(weight.shape, generator=generator, device=generator.device).to(weight.device)
            for name, weight in weights.items()
        }


class Magnitude(PruningMethod):
    """Keep the weights that are largest in absolute value.

    Args:
        allocation: ``"global"`` ranks the weights of all layers together, else each layer keeps its largest.

    Source:
        Han et al., "Learning both Weights and Connections", NeurIPS 2015 (arXiv:1506.02626), at
        initialization.
    """

    def __init__(self, allocation: Ranking = "global") -> None:
        super().__init__(allocation)

    def scores(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> Scores:  # noqa: ARG002
        """Return ``|w|``."""
        return {name: weight.detach().abs() for name, weight in weights.items()}
