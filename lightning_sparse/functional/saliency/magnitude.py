"""The size of the weights."""

from lightning_sparse.functional.saliency.base import PruningMethod, PruningProblem, register_method
from lightning_sparse.types import Scores

__all__ = ["Magnitude"]


@register_method("magnitude")
class Magnitude(PruningMethod):
    """Keep the weights that are largest in absolute value.

    Args:
        allocation: ``"global"`` ranks the weights of all layers together, else each layer keeps its largest.

    Source:
        Han et al., "Learning both Weights and Connections", NeurIPS 2015 (arXiv:1506.02626), at
        initialization.
    """

    takes_shards = True

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``|w|``."""
        return {name: weight.detach().abs() for name, weight in problem.weights.items()}
