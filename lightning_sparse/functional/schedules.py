"""Schedules as plain functions of time: drop fractions, density paths and ASNI's sparsity path."""

import math

__all__ = ["cosine", "cubic", "exponential", "linear", "sigmoid"]


def cosine(step: float, total: float, initial: float) -> float:
    """Let the share of connections that move fall to zero: ``f0 / 2 (1 + cos(pi t / T))``.

    Args:
        step: Time t; past ``total`` the fraction stays at zero.
        total: Time T at which the fraction reaches zero, in the same unit.
        initial: Drop fraction f_0 at t = 0, in [0, 1].

    Returns:
        The drop fraction at ``step``.

    Raises:
        ValueError: If ``step`` is negative, ``total`` is not positive or ``initial`` is not in [0, 1].

    Source:
        Evci et al., "Rigging the Lottery", ICML 2020, section 3 (arXiv:1911.11134).

    Example:
        >>> [round(cosine(t, 40, 0.3), 3) for t in (0, 20, 40)]
        [0.3, 0.15, 0.0]
    """
    if not 0 <= initial <= 1:
        raise ValueError(f"`initial` must be in [0, 1], got {initial}.")
    return initial / 2 * (1 + math.cos(math.pi * _progress(step, total)))


def exponential(step: float, total: float, final: float) -> float:
    """Let the density fall by the same factor at each step: ``d ** (t / T)``.

    Args:
        step: Time t, counted from 0 (dense); past ``total`` the density stays at ``final``.
        total: Number of steps T.
        final: Density d at the end, a fraction in (0, 1].

    Returns:
        The density at ``step``: 1 at the start, exactly ``final`` at the end.

    Raises:
        ValueError: If ``step`` is negative, ``total`` is not positive or ``final`` is not in (0, 1].

    Source:
        Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
        NeurIPS 2020, algorithm 1 (arXiv:2006.05467); de Jorge et al., "Progressive Skeletonization",
        ICLR 2021 (arXiv:2006.09081).

    Example:
        >>> exponential(50, 100, 0.01)
        0.1
    """
    _check_density(final, "final")
    return math.pow(final, _progress(step, total))


def linear(step: float, total: float, final: float) -> float:
    """Let the density fall by the same amount at each step: ``1 - (1 - d) t / T``.

    Args:
        step: Time t, counted from 0 (dense); past ``total`` the density stays at ``final``.
        total: Number of steps T.
        final: Density d at the end, a fraction in (0, 1].

    Returns:
        The density at ``step``: 1 at the start, exactly ``final`` at the end.

    Raises:
        ValueError: If ``step`` is negative, ``total`` is not positive or ``final`` is not in (0, 1].

    Source:
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081).

    Example:
        >>> linear(1, 4, 0.5)
        0.875
    """
    _check_density(final, "final")
    # The formula rearranged, so that rounding cannot miss `final` at the end.
    return final + (1 - final) * (1 - _progress(step, total))


def cubic(step: float, total: float, final: float, initial: float = 1.0) -> float:
    """Let the density fall fast at first and slowly at the end: ``d + (d0 - d) (1 - t / T) ** 3``.

    Args:
        step: Time t, counted from 0; past ``total`` the density stays at ``final``.
        total: Number of steps T.
        final: Density d at the end, a fraction in (0, 1].
        initial: Density d_0 at the start, a fraction in (0, 1].

    Returns:
        The density at ``step``; exactly ``final`` at the end.

    Raises:
        ValueError: If ``step`` is negative, ``total`` is not positive or a density is not in (0, 1].

    Source:
        Zhu and Gupta, "To prune, or not to prune", 2017, equation 1 (arXiv:1710.01878), there for sparsity.

    Example:
        >>> cubic(5, 10, 0.5)
        0.5625
    """
    _check_density(final, "final")
    _check_density(initial, "initial")
    return final + (initial - final) * (1 - _progress(step, total)) ** 3


def sigmoid(epoch: float, total: float, alpha: float, beta: float, gamma: float) -> float:
    """Let the sparsity rise along an S: ``alpha / (1 + exp(-(e - beta E) / gamma))`` percent.

    Args:
        epoch: Epoch e.
        total: Number of search epochs E.
        alpha: Height of the curve in percent, in [0, 100].
        beta: Where the curve is half as high, as a share of E.
        gamma: Width of the rise, in epochs.

    Returns:
        The *sparsity* of all weights, in *percent* (the paper's unit, not a density).

    Raises:
        ValueError: If ``total`` or ``gamma`` is not positive or ``alpha`` is not in [0, 100].

    Source:
        Damadi et al., "Amenable Sparse Network Investigator", 2021, algorithm 1, line 5.

    Example:
        >>> sigmoid(25, 50, alpha=98, beta=0.5, gamma=5)
        49.0
    """
    _check_positive(total, "total")
    _check_positive(gamma, "gamma")
    if not 0 <= alpha <= 100:
        raise ValueError(f"`alpha` must be in [0, 100], got {alpha}. It is a percentage: 98 removes 98%.")
    x = (epoch - beta * total) / gamma
    decay = math.exp(-abs(x))  # of the two ways to write the sigmoid, the one that cannot overflow
    return alpha * (1 if x >= 0 else decay) / (1 + decay)


def _progress(step: float, total: float) -> float:
    """The share of time gone by, in [0, 1]."""
    _check_positive(total, "total")
    if not step >= 0:
        raise ValueError(f"`step` must be 0 or more, got {step}.")
    return min(step / total, 1.0)


def _check_positive(value: float, name: str) -> None:
    if not value > 0:
        raise ValueError(f"`{name}` must be greater than 0, got {value}.")


def _check_density(value: float, name: str) -> None:
    if not 0 < value <= 1:
        raise ValueError(
            f"`{name}` must be a density in (0, 1], got {value}. "
            "It is the share of weights kept: 1 - sparsity."
        )
