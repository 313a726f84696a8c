"""Score, prune a little, score again: along a path of densities."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

import torch

from lightning_sparse.functional.schedules import exponential, linear
from lightning_sparse.types import Masks, Scores

__all__ = ["PathName", "check_scores", "density_path", "prune_along"]

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


def prune_along(
    path: Sequence[float],
    score: Callable[[Masks | None], Scores],
    rank: Callable[[Scores, float], Masks],
) -> Iterator[Masks]:
    """Yield the masks after each step of ``path``: scores of the net so far, ranked at the next density."""
    masks: Masks | None = None
    for density in path:
        masks = rank(score(masks), density)
        yield masks


def check_scores(scores: Scores, keep: int) -> None:
    """Refuse scores that cannot rank ``keep`` weights.

    Raises:
        ValueError: If a score is NaN or positive infinity, or fewer than half of ``keep`` are not zero.

    Warns:
        UserWarning: If fewer than ``keep`` scores are not zero: the rest is chosen by order.
    """
    for name, score in scores.items():
        bad = int((score.isnan() | (score == torch.inf)).sum())
        if bad:
            raise ValueError(
                f"{bad} scores of {name!r} are not finite. Look for an overflow in the loss or in half "
                "precision."
            )
    telling = sum(int(((score != 0) & (score != -torch.inf)).sum()) for score in scores.values())
    if telling * 2 < keep:
        raise ValueError(
            f"Only {telling} scores are not zero, but {keep} weights are to be kept: the net is cut through, "
            "or starts with zeros. Raise `density`, or choose a random method (`erk`, `epl`)."
        )
    if telling < keep:
        warnings.warn(
            f"Only {telling} scores are not zero, but {keep} weights are kept: the rest is chosen by order.",
            stacklevel=2,
        )
