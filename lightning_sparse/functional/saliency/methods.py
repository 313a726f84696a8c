"""The methods by gradients as objects with their options."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import nn

from lightning_sparse.functional.isolation import differentiable, left_as_found
from lightning_sparse.functional.saliency.base import (
    Conformance,
    PruningProblem,
    PublishedMethod,
    Ranking,
    check_choice,
    check_count,
    rounded_down,
)
from lightning_sparse.functional.saliency.gradients import cooled, force, grasp, iterative_snip, snip
from lightning_sparse.functional.saliency.iterative import PathName, density_path
from lightning_sparse.selection import SPARSE_LAYERS
from lightning_sparse.types import Scores

__all__ = ["FORCE", "SNIP", "GraSP", "IterativeSNIP"]

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
            raise ValueError(f"`temperature` must be above 0, got {temperature!r}. `None` switches it off.")
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


@contextmanager
def _scoring(problem: PruningProblem, training: bool) -> Iterator[None]:
    """Leave the module as found; dropout draws anew for each call, as ``problem.generator`` decides."""
    draws = problem.generator
    seed = int(torch.randint(2**62, (), generator=draws, device=draws.device))
    with left_as_found(problem.module, training, seed), differentiable(problem.weights.values()):
        yield


def _last_layer(module: nn.Module) -> nn.Module:
    """Return the trained linear or convolutional layer that was registered last, as the net's output."""
    layers = [layer for layer in module.modules() if isinstance(layer, SPARSE_LAYERS)]
    trained = [layer for layer in layers if layer.weight.requires_grad]
    if not trained:
        raise ValueError("`temperature` needs a trained linear or convolutional layer; set it to None.")
    return trained[-1]


def _over_their_sum(scores: Scores, epsilon: float = 0.0) -> Scores:
    total = torch.cat([score.flatten() for score in scores.values()]).sum().abs()
    return {name: score / (total + epsilon) for name, score in scores.items()}
