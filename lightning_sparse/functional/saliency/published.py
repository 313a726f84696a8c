"""What published methods share: a paper, the authors' code, and options by which they are scored."""

import numpy as np

from lightning_sparse.checks import check_choice, check_count
from lightning_sparse.functional.saliency.base import Conformance, PruningMethod, Ranking
from lightning_sparse.functional.saliency.iterative import Arithmetic, PathName, rounded_down, rounded_up
from lightning_sparse.functional.saliency.scoring import Mode

__all__ = ["Iterative", "OneShot", "PublishedMethod"]


class PublishedMethod(PruningMethod):
    """A method that has a paper, and code that rounds in its own way.

    Args:
        allocation: How the budget is shared out between layers.
        conformance: Whether to do as the paper says, or as the authors' code does.
    """

    def __init__(self, allocation: Ranking, conformance: Conformance) -> None:
        super().__init__(allocation)
        check_choice("conformance", conformance, ("paper", "reference"))
        self.conformance = conformance


class OneShot(PublishedMethod):
    """Scored once, by gradients of the loss; the authors' code is that of Synaptic-Flow."""

    needs_loss = True
    reference = Arithmetic(rounded_up)

    def __init__(
        self,
        num_batches: int = 1,
        scoring_mode: Mode | None = None,
        allocation: Ranking = "global",
        conformance: Conformance = "paper",
    ) -> None:
        super().__init__(allocation, conformance)
        check_count("num_batches", num_batches)
        check_choice("scoring_mode", scoring_mode, ("train", "eval", None))
        self.num_batches = num_batches
        self.scoring_mode = scoring_mode

    def _trains(self) -> bool:
        mode = self.scoring_mode or ("train" if self.conformance == "paper" else "eval")
        return mode == "train"


def _path_of_the_code(density: float, steps: int, schedule: PathName) -> list[float]:
    """Return the densities in the arithmetic of FORCE's code, whose last bits its rounding shows.

    That is numpy's: its exp differs from `math.exp` in the last bit for some arguments.
    """
    if schedule == "exponential":
        return [float(np.exp(step * np.log(density) / steps)) for step in range(1, steps + 1)]
    return [1 - step * (1 - density) / steps for step in range(1, steps + 1)]


class Iterative(PublishedMethod):
    """Scored again and again, by gradients of the loss, while the net gets sparser; the code is FORCE's."""

    needs_loss = True
    reference = Arithmetic(rounded_down, _path_of_the_code)

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
