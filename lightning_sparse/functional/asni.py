"""How many weights ASNI keeps after each epoch: its sigmoid, and the removals that follow from it."""

from collections.abc import Sequence

from lightning_sparse.checks import SparsityError, check_count
from lightning_sparse.functional.schedules import sigmoid

__all__ = ["kept_path", "removed_shares", "sparsity_path", "sparsity_path_to", "target_sparsity"]


def sparsity_path(epochs: int, alpha: float, beta: float = 0.5, gamma: float | None = None) -> list[float]:
    """Return the sparsity at the end of each search epoch but the last, which trains what is left.

    Args:
        epochs: Number of search epochs E, 2 or more.
        alpha: Height of the sigmoid in percent, in [0, 100]; the path ends below it.
        beta: Where the sigmoid is half as high, as a share of E.
        gamma: Width of its rise in epochs; None is a tenth of E.

    Returns:
        ``s(e) = alpha * sigmoid((e - beta E) / gamma)`` in percent for e = 0 ... E - 2.

    Raises:
        SparsityError: If there are too few epochs, or as from ``schedules.sigmoid``.

    Source:
        Damadi et al., "Amenable Sparse Network Investigator", 2021, algorithm 1, line 5. Epochs are counted
        from 0 and the last is left out, as in the authors' counts.

    Examples:
        >>> [round(s, 1) for s in sparsity_path(5, alpha=98, gamma=1)]
        [7.4, 17.9, 37.0, 61.0]
    """
    check_count("epochs", epochs, 2, "One is to prune after, one to recover.")
    width = epochs / 10 if gamma is None else gamma
    return [sigmoid(epoch, epochs, alpha, beta, width) for epoch in range(epochs - 1)]


def sparsity_path_to(
    kept: int, alive: int, epochs: int, beta: float = 0.5, gamma: float | None = None
) -> list[float]:
    """Return the path of ``sparsity_path`` whose height is such that it ends with so many weights.

    Args:
        kept: Number of weights at the end, from 1 to ``alive``.
        alive: Number of weights at the start.
        epochs: Number of search epochs E, 2 or more.
        beta: Where the sigmoid is half as high, as a share of E.
        gamma: Width of its rise in epochs; None is a tenth of E.

    Returns:
        Sparsities in percent for e = 0 ... E - 2; the last is ``100 (1 - kept / alive)`` exactly.

    Raises:
        SparsityError: If ``kept`` is out of range, or as from ``sparsity_path``.

    Examples:
        >>> [round(s, 1) for s in sparsity_path_to(100, 1000, epochs=5, gamma=1)]
        [11.0, 26.4, 54.6, 90.0]
    """
    if not 0 < kept <= alive:
        raise SparsityError(
            f"`kept` must be between 1 and {alive}, got {kept}: `density` is more than what is alive. Lower "
            "it, or start from denser masks."
        )
    final = 100 * (1 - kept / alive)
    path = sparsity_path(epochs, 100.0, beta, gamma)
    if path[-1] == 0:
        raise SparsityError(
            f"`beta` and `gamma` must let the sigmoid rise before the search ends, got {beta} and {gamma}. "
            "Lower `beta`, or raise `gamma`."
        )
    return [final * s / path[-1] for s in path[:-1]] + [final]


def kept_path(
    alive: int, sparsities: Sequence[float], min_increment: float = 0.0, kept: int | None = None
) -> list[int]:
    """Return how many weights are alive after each pruning.

    Each removes ``int(alive * p / 100)`` of the survivors, with
    ``p = 100 (s(e) - s(e - 1)) / (100 - s(e - 1))`` percent and s(-1) = 0. Where p is at most
    ``min_increment`` nothing is removed, but s(e) is booked as done, so that the net ends denser than s says.

    Args:
        alive: Number of weights at the start.
        sparsities: s(e) in percent, rising, below 100.
        min_increment: In percent of the survivors; the authors' code has 0.1.
        kept: Number of weights after the last pruning, exactly. None: as the removals have it.

    Returns:
        Numbers of weights, one per sparsity, falling.

    Source:
        github.com/sdamadi/image-classification at 91f7b48, ``main.py``. With ``min_increment=0.1`` the counts
        of the paper's table 2 come out.

    Examples:
        >>> kept_path(1000, [10.0, 55.0, 55.04])
        [900, 450, 450]
        >>> kept_path(1000, [10.0, 55.0, 55.04], kept=449)
        [900, 450, 449]
    """
    counts, booked = [], 0.0
    for sparsity in sparsities:
        percent = 100 * (sparsity - booked) / (100 - booked)
        booked = sparsity
        alive -= int(alive * percent / 100) if percent > min_increment else 0
        counts.append(alive)
    return counts if kept is None else [max(count, kept) for count in counts[:-1]] + [kept]


def target_sparsity(sparsity: float, alive: int, total: int) -> float:
    """Return the share of all weights that is pruned once some share of those alive at the start is.

    Args:
        sparsity: s(e) of ``sparsity_path``, in percent of the weights alive at the start.
        alive: Number of weights alive at the start.
        total: Number of all weights, those pruned before included.

    Returns:
        ``1 - (1 - s / 100) alive / total``, a fraction.

    Examples:
        >>> target_sparsity(50.0, alive=500, total=1000)
        0.75
    """
    return 1 - alive / total * (1 - sparsity / 100)


def removed_shares(alive: int, path: Sequence[int]) -> list[float]:
    """Return which share of the weights that are left each pruning removes.

    Args:
        alive: Number of weights at the start.
        path: Number of weights after each pruning.

    >>> removed_shares(100, [50, 25])
    [0.5, 0.5]
    """
    return [(start - end) / start for start, end in zip([alive, *path[:-1]], path, strict=True)]
