"""Gradual pruning: at which steps weights go, and how many are left after each of them."""

from lightning_sparse.functional.budgets import check_kept, total_budget
from lightning_sparse.functional.schedules import cubic

__all__ = ["gradual_counts", "pruning_step"]


def pruning_step(number: int, start: int, stop: int, every_n_steps: int) -> int:
    """Return the step after which weights are pruned for the n-th time: ``min(t_0 + n * every, T)``.

    Args:
        number: Which pruning n, from 1 on.
        start: Step t_0 up to which nothing is pruned.
        stop: Step T of the last pruning, whatever divides the way to it.
        every_n_steps: Steps between prunings.

    Examples:
        >>> [pruning_step(number, start=10, stop=35, every_n_steps=10) for number in (1, 2, 3)]
        [20, 30, 35]
    """
    return min(start + number * every_n_steps, stop)


def gradual_counts(
    alive: int, total: int, density: float, start: int, stop: int, every_n_steps: int
) -> list[int]:
    """Return how many weights are left after each pruning: many go at first, few at the end.

    Args:
        alive: Number of weights at the start, those that masks prune already left out.
        total: Number N of weights, pruned ones too.
        density: Share d of them to keep at the end, a fraction in (0, 1].
        start: Step t_0 up to which nothing is pruned.
        stop: Step T of the last pruning, above ``start``.
        every_n_steps: Steps between prunings.

    Returns:
        ``floor(d_t N + 0.5)`` at the step t of each pruning, see `pruning_step`, where
        ``d_t = d + (d_0 - d) (1 - (t - t_0) / (T - t_0)) ** 3`` and ``d_0 = alive / N``.

    Raises:
        SparsityError: If ``density`` is not in (0, 1], or keeps more weights than are alive.

    Source:
        Zhu and Gupta, "To prune, or not to prune", 2017, equation 1 (arXiv:1710.01878), there for sparsity.

    Examples:
        >>> gradual_counts(1000, 1000, 0.2, start=0, stop=40, every_n_steps=10)
        [538, 300, 213, 200]
    """
    check_kept(alive, total_budget(total, density))
    last = -(-(stop - start) // every_n_steps)
    steps = (pruning_step(number, start, stop, every_n_steps) for number in range(1, last + 1))
    return [total_budget(total, cubic(t - start, stop - start, density, alive / total)) for t in steps]
