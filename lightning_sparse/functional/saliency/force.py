"""FORCE and iterative SNIP: scored again and again while the net gets sparser."""

import math
from collections.abc import Callable
from typing import ClassVar

from lightning_sparse.checks import check_choice, check_count
from lightning_sparse.functional.saliency.base import (
    Conformance,
    PruningProblem,
    PublishedMethod,
    Ranking,
    rounded_down,
)
from lightning_sparse.functional.saliency.gradients import force, iterative_snip
from lightning_sparse.functional.saliency.iterative import PathName, density_path
from lightning_sparse.functional.saliency.snip import Mode, _scoring
from lightning_sparse.types import Scores

__all__ = ["FORCE", "IterativeSNIP"]


class _Iterative(PublishedMethod):
    """Scored again and again, by gradients of the loss, while the net gets sparser."""

    needs_loss = True
    _reference_budget = staticmethod(rounded_down)
    _score: ClassVar[Callable[..., Scores]]

    def __init__(
        self,
        iterations: int = 60,
        num_batches: int = 10,
        schedule: PathName = "exponential",
        scoring_mode: Mode = "train",
        allocation: Ranking = "global",
        conformance: Conformance = "paper",
    ) -> None:
        super().__init__(allocation, conformance)
        check_count("iterations", iterations)
        check_count("num_batches", num_batches)
        check_choice("schedule", schedule, ("exponential", "linear"))
        check_choice("scoring_mode", scoring_mode, ("train", "eval"))
        self.iterations = iterations
        self.num_batches = num_batches
        self.schedule = schedule
        self.scoring_mode = scoring_mode

    def path(self, density: float) -> list[float]:
        """Return the densities of all iterations, in the authors' arithmetic if that is asked for."""
        if self.conformance == "paper":
            return density_path(density, self.iterations, self.schedule)
        total, steps = self.iterations, range(1, self.iterations + 1)
        if self.schedule == "exponential":
            return [math.exp(math.log(density) * step / total) for step in steps]
        return [1 - step * (1 - density) / total for step in steps]

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``|g * w|`` of the net so far, on the next batches."""
        with _scoring(problem, self.scoring_mode == "train"):
            losses = problem.losses(self.num_batches)
            return self._score(problem.weights, losses, problem.masks, problem.average)


class IterativeSNIP(_Iterative):
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

    _score = staticmethod(iterative_snip)


class FORCE(_Iterative):
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

    _score = staticmethod(force)
