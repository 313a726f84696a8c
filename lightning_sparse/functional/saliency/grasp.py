"""GraSP: the weights that carry the gradient flow."""

from contextlib import nullcontext

from torch import nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.saliency.base import (
    Conformance,
    PruningProblem,
    Ranking,
)
from lightning_sparse.functional.saliency.gradients import cooled, grasp
from lightning_sparse.functional.saliency.snip import Mode, _OneShot, _over_their_sum, _scoring
from lightning_sparse.selection import SPARSE_LAYERS
from lightning_sparse.types import Scores

__all__ = ["GraSP"]


class GraSP(_OneShot):
    """Keep the weights that carry the gradient flow: the highest ``w * Hg``, signed.

    Args:
        num_batches: Batches over which gradient and Hessian are averaged, on each process.
        temperature: Divides the output of the last linear or convolutional layer, which should be the
            logits, while scores are taken. ``None``: off; so it is too with a ``loss_fn`` of your own.
        scoring_mode: Whether batch norm and dropout act as in training (``"train"``) or not (``"eval"``) when
            scores are taken. ``None``: as in training; with ``conformance="reference"`` not.
        allocation: ``"global"`` ranks the weights of all layers together, else each layer has a budget.
        conformance: ``"reference"``: scores and rounding of the Synaptic-Flow code.

    Source:
        Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020
        (arXiv:2002.07376).
    """

    def __init__(
        self,
        num_batches: int = 1,
        temperature: float | None = 200.0,
        scoring_mode: Mode | None = None,
        allocation: Ranking = "global",
        conformance: Conformance = "paper",
    ) -> None:
        super().__init__(num_batches, scoring_mode, allocation, conformance)
        if temperature is not None and not (isinstance(temperature, int | float) and temperature > 0):
            raise SparsityError(
                f"`temperature` must be above 0, got {temperature!r}. `None` switches it off."
            )
        self.temperature = temperature

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``w * Hg``; of sums over batches, and divided by their sum, in the reference's way."""
        temperature = self.temperature if problem.cools else None
        cooling = nullcontext() if temperature is None else cooled(_last_layer(problem.module), temperature)
        with _scoring(problem, self._trains()), cooling:
            losses = problem.losses(self.num_batches)
            scores = grasp(problem.weights, losses, problem.average)
        if self.conformance == "paper":
            return scores
        return _over_their_sum({n: s * len(losses) ** 2 for n, s in scores.items()}, epsilon=1e-10)


def _last_layer(module: nn.Module) -> nn.Module:
    """Return the trained linear or convolutional layer that was registered last, as the net's output."""
    layers = [layer for layer in module.modules() if isinstance(layer, SPARSE_LAYERS)]
    trained = [layer for layer in layers if layer.weight.requires_grad]
    if not trained:
        raise SparsityError("`temperature` needs a trained linear or convolutional layer; set it to None.")
    return trained[-1]
