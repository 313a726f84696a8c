"""Schedules as plain functions of time: drop fractions, density paths and ASNI's sparsity path."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

from lightning_sparse.checks import check_at_least, check_choice, check_density, check_number

__all__ = [
    "DROP_SCHEDULES",
    "DropScheduleName",
    "constant",
    "cosine",
    "cubic",
    "drop_fraction",
    "exponential",
    "inverse_power",
    "is_due",
    "linear",
    "sigmoid",
]

DropScheduleName: TypeAlias = Literal["cosine", "constant", "linear", "inverse_power"]
"""How the share of connections that move develops; see ``drop_fraction``."""


def drop_fraction(schedule: DropScheduleName, step: float, total: float, initial: float) -> float:
    """Give the share of connections to move by the name of its schedule.

    Args:
        schedule: "cosine", "constant", "linear" (``inverse_power`` with power 1) or "inverse_power" (with 3).
        step: Time t.
        total: Time T at which connections stop to move, in the same unit.
        initial: Drop fraction f_0 at t = 0, in [0, 1].

    Returns:
        The drop fraction at ``step``.

    Raises:
        SparsityError: If the name is unknown, or as from the schedule.

    Examples:
        >>> drop_fraction("linear", 10, 40, 0.5)
        0.375
    """
    check_choice("schedule", schedule, DROP_SCHEDULES)
    return DROP_SCHEDULES[schedule](step, total, initial)


def is_due(step: int, every_n_steps: int, stop_at: int) -> bool:
    """Tell whether connections move at this step: ``t % n == 0 and t < T``.

    Args:
        step: Optimizer steps t, counted from 1: this one included.
        every_n_steps: Steps n between moves.
        stop_at: Step T from which on connections rest.

    Examples:
        >>> [t for t in range(1, 60) if is_due(t, every_n_steps=10, stop_at=40)]
        [10, 20, 30]
    """
    return step % every_n_steps == 0 and step < stop_at


def cosine(step: float, total: float, initial: float) -> float:
    """Let the share of connections that move fall to zero: ``f0 / 2 (1 + cos(pi t / T))``.

    Args:
        step: Time t; past ``total`` the fraction stays at zero.
        total: Time T at which the fraction reaches zero, in the same unit.
        initial: Drop fraction f_0 at t = 0, in [0, 1].

    Returns:
        The drop fraction at ``step``.

    Raises:
        SparsityError: If ``step`` is negative, ``total`` is not positive or ``initial`` is not in [0, 1].

    Source:
        Evci et al., "Rigging the Lottery", ICML 2020, section 3 (arXiv:1911.11134).

    Examples:
        >>> [round(cosine(t, 40, 0.3), 3) for t in (0, 20, 40)]
        [0.3, 0.15, 0.0]
    """
    check_number("initial", initial, "[0, 1]")
    return initial / 2 * (1 + math.cos(math.pi * _progress(step, total)))


def constant(step: float, total: float, initial: float) -> float:
    """Move the same share of connections each time: ``f0``, also past the end.

    Args:
        step: Time t.
        total: Time T; without effect, as is t.
        initial: Drop fraction f_0, in [0, 1].

    Returns:
        The drop fraction.

    Raises:
        SparsityError: If ``step`` is negative, ``total`` is not positive or ``initial`` is not in [0, 1].

    Source:
        google-research/rigl, ``sparse_optimizers_base.py``, "constant".
    """
    check_number("initial", initial, "[0, 1]")
    _progress(step, total)  # arguments that one schedule refuses, all refuse
    return initial


def inverse_power(step: float, total: float, initial: float, power: float = 3.0) -> float:
    """Let the share of connections that move fall to zero: ``f0 (1 - t / T) ** k``.

    Args:
        step: Time t; past ``total`` the fraction stays at zero.
        total: Time T at which the fraction reaches zero, in the same unit.
        initial: Drop fraction f_0 at t = 0, in [0, 1].
        power: Exponent k, above 0: 1 is a straight line.

    Returns:
        The drop fraction at ``step``.

    Raises:
        SparsityError: If ``step`` is negative, ``total`` or ``power`` is not positive or ``initial`` is not
            in [0, 1].

    Source:
        Evci et al., "Rigging the Lottery", ICML 2020, appendix (arXiv:1911.11134); in google-research/rigl,
        ``sparse_optimizers_base.py``, "exponential_k".

    Examples:
        >>> inverse_power(20, 40, 0.4)
        0.05
    """
    check_number("initial", initial, "[0, 1]")
    check_number("power", power, "(0, inf)")
    return initial * math.pow(1 - _progress(step, total), power)


def exponential(step: float, total: float, final: float) -> float:
    """Let the density fall by the same factor at each step: ``d ** (t / T)``.

    Args:
        step: Time t, counted from 0 (dense); past ``total`` the density stays at ``final``.
        total: Number of steps T.
        final: Density d at the end, a fraction in (0, 1].

    Returns:
        The density at ``step``: 1 at the start, exactly ``final`` at the end.

    Raises:
        SparsityError: If ``step`` is negative, ``total`` is not positive or ``final`` is not in (0, 1].

    Source:
        Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
        NeurIPS 2020, algorithm 1 (arXiv:2006.05467); de Jorge et al., "Progressive Skeletonization",
        ICLR 2021 (arXiv:2006.09081).

    Examples:
        >>> exponential(50, 100, 0.01)
        0.1
    """
    check_density("final", final)
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
        SparsityError: If ``step`` is negative, ``total`` is not positive or ``final`` is not in (0, 1].

    Source:
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081).

    Examples:
        >>> linear(1, 4, 0.5)
        0.875
    """
    check_density("final", final)
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
        SparsityError: If ``step`` is negative, ``total`` is not positive or a density is not in (0, 1].

    Source:
        Zhu and Gupta, "To prune, or not to prune", 2017, equation 1 (arXiv:1710.01878), there for sparsity.

    Examples:
        >>> cubic(5, 10, 0.5)
        0.5625
    """
    check_density("final", final)
    check_density("initial", initial)
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
        SparsityError: If ``total`` or ``gamma`` is not positive or ``alpha`` is not in [0, 100].

    Source:
        Damadi et al., "Amenable Sparse Network Investigator", 2021, algorithm 1, line 5.

    Examples:
        >>> sigmoid(25, 50, alpha=98, beta=0.5, gamma=5)
        49.0
    """
    check_number("total", total, "(0, inf)")
    check_number("gamma", gamma, "(0, inf)")
    check_number("alpha", alpha, "[0, 100]", "It is a percentage: 98 removes 98%.")
    x = (epoch - beta * total) / gamma
    decay = math.exp(-abs(x))  # of the two ways to write the sigmoid, the one that cannot overflow
    return alpha * (1 if x >= 0 else decay) / (1 + decay)


def _progress(step: float, total: float) -> float:
    """The share of time gone by, in [0, 1]."""
    check_number("total", total, "(0, inf)")
    check_at_least("step", step, 0)
    return min(step / total, 1.0)


DROP_SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "cosine": cosine,
    "constant": constant,
    "linear": partial(inverse_power, power=1.0),
    "inverse_power": inverse_power,
}
