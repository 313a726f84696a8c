"""Score, prune a little, score again: densities along the way, and scores that cannot rank."""

import warnings
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.masks import count_nonzero, in_pieces
from lightning_sparse.functional.schedules import exponential, linear
from lightning_sparse.types import Masks, Scores

__all__ = ["Judge", "PathName", "count_telling", "density_path", "left_before_pruned"]

PathName: TypeAlias = Literal["exponential", "linear"]


def density_path(density: float, steps: int, schedule: PathName = "exponential") -> list[float]:
    """Return the densities after 1, ..., ``steps`` iterations; the last is ``density``.

    >>> [round(d, 4) for d in density_path(0.01, 4)]
    [0.3162, 0.1, 0.0316, 0.01]
    """
    if steps < 1:
        raise SparsityError(f"`iterations` must be at least 1, got {steps}.")
    curve = exponential if schedule == "exponential" else linear
    return [curve(step, steps, density) for step in range(1, steps)] + [density]


class Judge:
    """Looks at the scores of each iteration, and refuses those that cannot rank.

    A weight that scores zero in the dense net, such as a kernel's corner that only ever sees padding, is
    nobody's fault. But at last half of what is kept must score, and on the way half of what scored at first.

    Args:
        keep: Number of weights to keep at last; 0 asks for nothing but finite scores.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.at_first: dict[str, int] = {}
        self.now: dict[str, int] = {}

    def check(self, scores: Scores, keep: int) -> None:
        """Look at the scores by which ``keep`` weights will be ranked.

        Raises:
            ValueError: If a score is NaN or positive infinity, or too few are not zero.

        Warns:
            UserWarning: If all scores of a layer are zero in the first iteration.
        """
        self.now = {name: count_telling(score, name) for name, score in scores.items()}
        telling = sum(self.now.values())
        needed = min(self.keep and keep, sum(self.at_first.values())) if self.at_first else self.keep
        if telling * 2 < needed:
            raise SparsityError(
                f"Only {telling} scores are not zero, but {needed} weights are to be kept: the net is cut "
                "through, or starts with zeros. Raise `density`, or choose a random method (`erk`, `epl`)."
            )
        if not self.at_first and self.keep:
            _warn_of_silent_layers(scores)
        self.at_first = self.at_first or self.now

    def unclear(self, keep: int, min_weights: int) -> list[str]:
        """Return the layers of which a global ranking may keep weights that score zero."""
        enough = sum(self.now.values()) >= keep
        return [name for name, telling in self.now.items() if not enough or telling < min_weights]

    def sum_up(self) -> None:
        """Warn if in the last iteration fewer scores than weights to keep were not zero."""
        telling = sum(self.now.values())
        if telling < self.keep:
            warnings.warn(
                f"Only {telling} scores are not zero, but {self.keep} weights are kept: the rest is chosen "
                "by order.",
                stacklevel=3,
            )


def left_before_pruned(scores: Scores, masks: Masks) -> Scores:
    """Let what is left go before what is pruned, where both score 0: so what is pruned stays pruned."""
    return {
        name: score.masked_fill((score == 0) & ~masks[name], -torch.inf) for name, score in scores.items()
    }


def count_telling(scores: Tensor, name: str) -> int:
    """Count the scores of a layer that are not zero.

    Raises:
        ValueError: If a score is NaN or positive infinity.
    """
    telling = 0
    for (piece,) in in_pieces(scores):
        if not piece.amax() < torch.inf:  # amax hands NaN on
            bad = int((scores.isnan() | (scores == torch.inf)).count_nonzero())
            raise SparsityError(
                f"{bad} scores of {name!r} are not finite. Look for an overflow in the loss or in half "
                "precision."
            )
        telling += count_nonzero(piece)
    return telling


def _warn_of_silent_layers(scores: Scores) -> None:
    """Warn of layers whose scores are all zero: what is kept of them is chosen by order."""
    silent = [name for name, score in scores.items() if not score.any()]
    if silent:
        some = ", ".join(silent[:3]) + (", ..." if len(silent) > 3 else "")
        warnings.warn(
            f"All scores of {some} are zero ({len(silent)} layers): no signal comes to them or leaves them. "
            "Leave them dense with `exclude`, or give them a density in `density_overrides`.",
            stacklevel=4,
        )
