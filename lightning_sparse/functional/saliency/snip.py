"""SNIP: the weights whose removal would change the loss most."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch

from lightning_sparse.checks import check_choice, check_count
from lightning_sparse.functional.isolation import differentiable, left_as_found
from lightning_sparse.functional.saliency.base import Conformance, PruningProblem, PublishedMethod, Ranking
from lightning_sparse.functional.saliency.gradients import snip
from lightning_sparse.types import Scores

__all__ = ["SNIP"]


Mode: TypeAlias = Literal["train", "eval"]


class _OneShot(PublishedMethod):
    """Scored once, by gradients of the loss."""

    needs_loss = True

    def __init__(
        self, num_batches: int, scoring_mode: Mode | None, allocation: Ranking, conformance: Conformance
    ) -> None:
        super().__init__(allocation, conformance)
        check_count("num_batches", num_batches)
        check_choice("scoring_mode", scoring_mode, ("train", "eval", None))
        self.num_batches = num_batches
        self.scoring_mode = scoring_mode

    def _trains(self) -> bool:
        mode = self.scoring_mode or ("train" if self.conformance == "paper" else "eval")
        return mode == "train"


class SNIP(_OneShot):
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

    def __init__(
        self,
        num_batches: int = 1,
        scoring_mode: Mode | None = None,
        allocation: Ranking = "global",
        conformance: Conformance = "paper",
    ) -> None:
        super().__init__(num_batches, scoring_mode, allocation, conformance)

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``|g * w|``; divided by their sum in the reference's way."""
        with _scoring(problem, self._trains()):
            scores = snip(problem.weights, problem.losses(self.num_batches), problem.average)
        return scores if self.conformance == "paper" else _over_their_sum(scores)


def _over_their_sum(scores: Scores, epsilon: float = 0.0) -> Scores:
    total = torch.cat([score.flatten() for score in scores.values()]).sum().abs()
    return {name: score / (total + epsilon) for name, score in scores.items()}


@contextmanager
def _scoring(problem: PruningProblem, training: bool) -> Iterator[None]:
    """Leave the module as found; dropout draws anew for each call, as ``problem.generator`` decides."""
    draws = problem.generator
    seed = int(torch.randint(2**62, (), generator=draws, device=draws.device))
    with left_as_found(problem.module, training, seed), differentiable(problem.weights.values()):
        yield
