"""How many weights a density keeps, as exact integers."""

import math

from lightning_sparse.checks import SparsityError, check_density

__all__ = ["check_kept", "layer_budget", "total_budget"]


def total_budget(num_weights: int, density: float) -> int:
    """Count the weights that a density keeps, rounded half up.

    Args:
        num_weights: Number of weights N.
        density: Share of them to keep, a fraction in (0, 1].

    Returns:
        ``floor(density * N + 0.5)``.

    Raises:
        SparsityError: If ``density`` is not in (0, 1].

    Examples:
        >>> total_budget(266200, 0.01)
        2662
    """
    check_density("density", density)
    return math.floor(density * num_weights + 0.5)


def layer_budget(size: int, density: float, min_weights: int = 1) -> int:
    """Count the weights that a layer with a density of its own keeps.

    Args:
        size: Number of weights of the layer.
        density: Share of them to keep, a fraction in (0, 1].
        min_weights: Weights that it keeps at least (all of them if it has fewer).

    Returns:
        ``floor(density * size + 0.5)``, or the minimum if that is more.

    Raises:
        SparsityError: If ``density`` is not in (0, 1].

    Examples:
        >>> layer_budget(1000, 0.1), layer_budget(1000, 1e-4)
        (100, 1)
    """
    return max(total_budget(size, density), min(min_weights, size))


def check_kept(alive: int, kept: int) -> None:
    """Refuse a number of weights to keep at the end that is not among those there are to prune.

    Args:
        alive: Number of weights at the start.
        kept: Number of weights at the end.

    Raises:
        SparsityError: If so many are not there to keep.
    """
    if not 1 <= kept <= alive:
        raise SparsityError(
            f"`density` must leave between 1 and the {alive} weights that are alive, got {kept}. Change it, "
            "or start from denser masks."
        )
