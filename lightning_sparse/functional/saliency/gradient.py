"""The size of the gradient: the weights that the loss asks most to change."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_sparse.checks import check_choice, check_count
from lightning_sparse.functional.saliency.base import (
    Average,
    PruningMethod,
    PruningProblem,
    Ranking,
    one_process,
    register_method,
)
from lightning_sparse.functional.saliency.gradients import mean_gradients
from lightning_sparse.functional.saliency.scoring import Mode, scoring
from lightning_sparse.types import Loss, Scores

__all__ = ["Gradient", "gradient"]


def gradient(weights: Mapping[str, Tensor], losses: Iterable[Loss], average: Average = one_process) -> Scores:
    """Return ``|g|``, how much the loss falls, to first order, when a weight changes by so much.

    g is the gradient of the mean loss over all batches and processes; only then its absolute value is taken.
    """
    return {name: score.abs_() for name, score in mean_gradients(weights, losses, average).items()}


@register_method("gradient")
class Gradient(PruningMethod):
    """Take the weights that have the largest gradients: a change of them lowers the loss most.

    Made for `SparseFineTuning`, where it says which weights may change. To say which weights stay it is a
    baseline: a weight's own size is not asked.

    Args:
        num_batches: Batches over which the gradient is averaged, on each process.
        scoring_mode: Whether batch norm and dropout act as in training (``"train"``) or not (``"eval"``) when
            scores are taken.
        allocation: ``"global"`` ranks the weights of all layers together, else each layer has a budget.

    Source:
        Bhardwaj et al., "Sparse High Rank Adapters", NeurIPS 2024 (arXiv:2406.13175): the mask SHiRA-Grad.
    """

    needs_loss = True
    takes_shards = True

    def __init__(
        self, num_batches: int = 4, scoring_mode: Mode = "train", allocation: Ranking = "global"
    ) -> None:
        super().__init__(allocation)
        check_count("num_batches", num_batches)
        check_choice("scoring_mode", scoring_mode, ("train", "eval"))
        self.num_batches = num_batches
        self.scoring_mode = scoring_mode

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``|g|``."""
        with scoring(problem, self.scoring_mode == "train"):
            return gradient(problem.weights, problem.losses(self.num_batches), problem.average)
