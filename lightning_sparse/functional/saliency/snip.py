"""SNIP: the weights whose removal would change the loss most."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_sparse.functional.saliency.base import Average, PruningProblem, one_process, register_method
from lightning_sparse.functional.saliency.gradients import mean_gradients
from lightning_sparse.functional.saliency.published import OneShot
from lightning_sparse.functional.saliency.scoring import over_their_sum, scoring
from lightning_sparse.types import Loss, Scores

__all__ = ["SNIP", "snip"]


def snip(weights: Mapping[str, Tensor], losses: Iterable[Loss], average: Average = one_process) -> Scores:
    """Return ``|g * w|``, the change of the loss to first order when a weight is removed.

    Source:
        Lee et al., "SNIP", ICLR 2019 (arXiv:1810.02340), equation 5; its normalisation changes no rank.
    """
    gradients = mean_gradients(weights, losses, average)
    return {name: gradients[name].mul_(weight.detach()).abs_() for name, weight in weights.items()}


@register_method("snip")
class SNIP(OneShot):
    """Keep the weights whose removal would change the loss most: ``|g * w|``.

    Args:
        num_batches: Batches over which the gradient is averaged, on each process.
        scoring_mode: Whether batch norm and dropout act as in training (``"train"``) or not (``"eval"``) when
            scores are taken. ``None``: as in training; with ``conformance="reference"`` not.
        allocation: ``"global"`` ranks the weights of all layers together, else each layer has a budget.
        conformance: ``"reference"``: scores and rounding of the Synaptic-Flow code.

    Source:
        Lee et al., "SNIP", ICLR 2019 (arXiv:1810.02340).
    """

    takes_shards = True

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``|g * w|``; divided by their sum in the reference's way."""
        with scoring(problem, self._trains()):
            scores = snip(problem.weights, problem.losses(self.num_batches), problem.average)
        return scores if self.conformance == "paper" else over_their_sum(scores)
