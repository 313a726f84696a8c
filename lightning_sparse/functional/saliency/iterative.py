"""Score, prune a little, score again: densities on the way, and how they are rounded to counts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lightning_sparse.checks import check_choice, check_count
from lightning_sparse.functional.budgets import total_budget
from lightning_sparse.functional.schedules import exponential, linear

__all__ = ["PAPER", "Arithmetic", "PathName", "density_path", "rounded_down", "rounded_up"]

PathName: TypeAlias = Literal["exponential", "linear"]
"""How the density falls over the iterations of a method."""


def density_path(density: float, steps: int, schedule: PathName = "exponential") -> list[float]:
    """Return the densities after 1, ..., ``steps`` iterations; the last is ``density``.

    Args:
        density: Density at the end, a fraction in (0, 1].
        steps: Number of iterations, 1 or more.
        schedule: ``"exponential"`` or ``"linear"``.

    Raises:
        SparsityError: If an argument is out of range.

    Examples:
        >>> [round(d, 4) for d in density_path(0.01, 4)]
        [0.3162, 0.1, 0.0316, 0.01]
    """
    check_count("steps", steps)
    check_choice("schedule", schedule, ("exponential", "linear"))
    curve = exponential if schedule == "exponential" else linear
    return [curve(step, steps, density) for step in range(1, steps)] + [density]


def rounded_up(num_weights: int, density: float) -> int:
    """Round as Synaptic-Flow's code does, which removes ``int((1 - d) N)`` weights."""
    return num_weights - int((1 - density) * num_weights)


def rounded_down(num_weights: int, density: float) -> int:
    """Round as FORCE's code does."""
    return int(num_weights * density)


@dataclass(frozen=True)
class Arithmetic:
    """Rounding, to the last bit.

    Args:
        budget: Gives the number of weights to keep, of so many at a density.
        path: Gives the densities of all iterations: from the last density, their number and the schedule.
    """

    budget: Callable[[int, float], int] = total_budget
    path: Callable[[float, int, PathName], list[float]] = density_path


PAPER = Arithmetic()
"""Exact counts: ``floor(density * N + 0.5)``, and a path that ends at the density asked for."""
