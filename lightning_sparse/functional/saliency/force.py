"""FORCE: pruned step by step, and what was pruned may return."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_sparse.functional.isolation import sparsified
from lightning_sparse.functional.saliency.base import Average, PruningProblem, one_process, register_method
from lightning_sparse.functional.saliency.gradients import mean_gradients
from lightning_sparse.functional.saliency.published import Iterative
from lightning_sparse.functional.saliency.scoring import scoring
from lightning_sparse.types import Loss, Masks, Scores

__all__ = ["FORCE", "force"]


def force(
    weights: Mapping[str, Tensor],
    losses: Iterable[Loss],
    masks: Masks | None,
    average: Average = one_process,
) -> Scores:
    """Return ``|g * w|`` of original weights, with gradients of the net that ``masks`` leave: any may return.

    Source:
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081), equation 7.
    """
    with sparsified(weights, masks):
        gradients = mean_gradients(weights, losses, average)
    return {name: gradients[name].mul_(weight.detach()).abs_() for name, weight in weights.items()}


@register_method("force")
class FORCE(Iterative):
    """Prune step by step by ``|g * w|``, w the original weights, g the gradient of the pruned net.

    A weight that was pruned may return, as its gradient is still known.

    Args:
        iterations: How often the net is scored and pruned.
        num_batches: Batches per iteration on each process; the next ones each time, from the start again when
            the data is through.
        schedule: How the density falls: ``"exponential"`` or ``"linear"``.
        scoring_mode: Whether batch norm and dropout act as in training (``"train"``) or not (``"eval"``) when
            scores are taken.
        allocation: ``"global"`` ranks the weights of all layers together, else each layer has a budget.
        conformance: ``"reference"``: the rounding of the authors' code.

    Source:
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081), equation 7.
    """

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``|g * w|`` of all weights, g that of the net so far, on the next batches."""
        with scoring(problem, self.scoring_mode == "train"):
            losses = problem.losses(self.num_batches)
            return force(problem.weights, losses, problem.masks, problem.average)
