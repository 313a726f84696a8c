"""Means over seeds: Student's intervals, also of paired differences. SciPy is not needed."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from lightning_sparse.checks import check_count, check_number

__all__ = ["Interval", "deviation", "paired_interval", "student_cdf", "student_quantile"]


class Interval(NamedTuple):
    """An interval around a mean, and how many values it is from."""

    low: float
    mean: float
    high: float
    number: int


def student_cdf(t: float, degrees: int) -> float:
    r"""Return the probability that a value of Student's t-distribution is at most ``t``.

    For whole degrees of freedom it is a finite sum of powers of the cosine of ``atan(t / sqrt(degrees))``.

    Args:
        t: Any number.
        degrees: Degrees of freedom, at least 1.

    Source:
        Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.

    Examples:
        >>> student_cdf(1.0, 1)  # Cauchy's: 1/2 + atan(1) / pi
        0.75
    """
    check_count("degrees", degrees)
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for power in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + within / 2


def student_quantile(probability: float, degrees: int) -> float:
    """Return the value that a variable of Student's t-distribution stays below with a probability.

    Args:
        probability: In (0, 1).
        degrees: Degrees of freedom, at least 1.

    Raises:
        SparsityError: If either is out of range.

    Examples:
        >>> round(student_quantile(0.975, 4), 4)
        2.7764
    """
    check_number("probability", probability, "(0, 1)")
    check_count("degrees", degrees)
    low, high = -math.pi / 2, math.pi / 2  # of the angle: the distribution's tails have no end, angles do
    for _ in range(80):
        middle = (low + high) / 2
        if student_cdf(math.tan(middle) * math.sqrt(degrees), degrees) < probability:
            low = middle
        else:
            high = middle
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def paired_interval(differences: Sequence[float], coverage: float = 0.95) -> Interval:
    """Return Student's interval for the mean of differences between pairs.

    Args:
        differences: One for each pair, such as two runs of one seed.
        coverage: Probability with which the interval holds the true mean, if differences are normal.

    Returns:
        Its ends are NaN for fewer than two differences, its mean for none.

    Examples:
        >>> low, mean, high, number = paired_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), mean, round(high, 3), number
        (-0.484, 2.0, 4.484, 3)
    """
    check_number("coverage", coverage, "(0, 1)")
    number = len(differences)
    mean = statistics.fmean(differences) if number else math.nan
    if number < 2:
        return Interval(math.nan, mean, math.nan, number)
    half = student_quantile(0.5 + coverage / 2, number - 1) * deviation(differences) / math.sqrt(number)
    return Interval(mean - half, mean, mean + half, number)


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample; NaN of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else math.nan
