"""Iterative SNIP: pruned a little and scored again, many times."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_sparse.functional.isolation import sparsified
from lightning_sparse.functional.saliency.base import Average, PruningProblem, one_process, register_method
from lightning_sparse.functional.saliency.published import Iterative
from lightning_sparse.functional.saliency.scoring import scoring
from lightning_sparse.functional.saliency.snip import snip
from lightning_sparse.types import Loss, Masks, Scores

__all__ = ["IterativeSNIP", "iterative_snip"]


def iterative_snip(
    weights: Mapping[str, Tensor],
    losses: Iterable[Loss],
    masks: Masks | None,
    average: Average = one_process,
) -> Scores:
    """Return SNIP's scores of the net that ``masks`` leave; what is pruned scores 0.

    Source:
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081), section 4.
    """
    with sparsified(weights, masks):
        return snip(weights, losses, average)


@register_method("iterative_snip")
class IterativeSNIP(Iterative):
    """Prune a little by SNIP's score, score what is left, and so on; what is pruned never returns.

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
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081), section 4.
    """

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``|g * w|`` of the net so far, on the next batches."""
        with scoring(problem, self.scoring_mode == "train"):
            losses = problem.losses(self.num_batches)
            return iterative_snip(problem.weights, losses, problem.masks, problem.average)
