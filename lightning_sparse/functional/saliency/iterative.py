"""Score, prune a little, score again: densities along the way, and scores that cannot rank."""

import warnings
from typing import Literal, TypeAlias

import torch

from lightning_sparse.functional.schedules import exponential, linear
from lightning_sparse.types import Scores

__all__ = ["PathName", "check_scores", "density_path", "warn_of_few_scores", "warn_of_silent_layers"]

PathName: TypeAlias = Literal["exponential", "linear"]


def density_path(density: float, steps: int, schedule: PathName = "exponential") -> list[float]:
    """Return the densities after 1, ..., ``steps`` iterations; the last is ``density``.

    >>> [round(d, 4) for d in density_path(0.01, 4)]
    [0.3162, 0.1, 0.0316, 0.01]
    """
    if steps < 1:
        raise ValueError(f"`iterations` must be at least 1, got {steps}.")
    curve = exponential if schedule == "exponential" else linear
    return [curve(step, steps, density) for step in range(1, steps)] + [density]


def check_scores(scores: Scores, keep: int) -> None:
    """Refuse scores that cannot rank ``keep`` weights.

    Raises:
        ValueError: If a score is NaN or positive infinity, or fewer than half of ``keep`` are not zero.
    """
    for name, score in scores.items():
        if not score.amax() < torch.inf:  # amax hands NaN on
            bad = int((score.isnan() | (score == torch.inf)).count_nonzero())
            raise ValueError(
                f"{bad} scores of {name!r} are not finite. Look for an overflow in the loss or in half "
                "precision."
            )
    telling = _count_telling(scores)
    if telling * 2 < keep:
        raise ValueError(
            f"Only {telling} scores are not zero, but {keep} weights are to be kept: the net is cut through, "
            "or starts with zeros. Raise `density`, or choose a random method (`erk`, `epl`)."
        )


def warn_of_few_scores(scores: Scores, keep: int) -> None:
    """Warn if fewer than ``keep`` scores are not zero: the rest is chosen by order."""
    telling = _count_telling(scores)
    if telling < keep:
        warnings.warn(
            f"Only {telling} scores are not zero, but {keep} weights are kept: the rest is chosen by order.",
            stacklevel=2,
        )


def warn_of_silent_layers(scores: Scores) -> None:
    """Warn of layers whose scores are all zero: what is kept of them is chosen by order."""
    silent = [name for name, score in scores.items() if not score.any()]
    if silent:
        some = ", ".join(silent[:3]) + (", ..." if len(silent) > 3 else "")
        warnings.warn(
            f"All scores of {some} are zero ({len(silent)} layers): not reached, or before a layer of zeros. "
            "Leave them dense with `exclude`, or give them a density in `density_overrides`.",
            stacklevel=2,
        )


def _count_telling(scores: Scores) -> int:
    """Count the scores that are neither zero nor those of weights that may not return."""
    return sum(
        int(score.count_nonzero()) - int((score == -torch.inf).count_nonzero()) for score in scores.values()
    )
