"""What methods by gradients share: the state of the net while scores are taken."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, TypeAlias

import torch

from lightning_sparse.functional.isolation import differentiable, gradients_aside, left_as_found
from lightning_sparse.functional.saliency.base import PruningProblem
from lightning_sparse.types import Scores

__all__ = ["Mode", "over_their_sum", "scoring"]

Mode: TypeAlias = Literal["train", "eval"]
"""Whether batch norm and dropout act as in training."""


@contextmanager
def scoring(problem: PruningProblem, training: bool) -> Iterator[None]:
    """Let all weights have gradients for a while, and leave the module as found.

    Args:
        problem: Dropout draws anew for each call, as its ``generator`` decides.
        training: Whether batch norm and dropout act as in training.
    """
    draws = problem.generator
    seed = int(torch.randint(2**62, (), generator=draws, device=draws.device))
    module, weights = problem.module, problem.weights.values()
    aside = nullcontext() if problem.shards is None else gradients_aside(module)
    with left_as_found(module, training, seed), differentiable(weights), aside:
        yield


def over_their_sum(scores: Scores, epsilon: float = 0.0) -> Scores:
    """Return the scores divided by the absolute value of their sum, plus ``epsilon``."""
    total = torch.cat([score.flatten() for score in scores.values()]).sum().abs()
    return {name: score / (total + epsilon) for name, score in scores.items()}
