"""Sharing a whole number out in proportion, between bounds, to whole numbers.

Integers and fractions throughout, so the same shares come out on every machine.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

__all__ = ["share_out"]


def share_out(
    proportions: Sequence[int], sizes: Sequence[int], total: int, min_weights: int | Sequence[int]
) -> list[int]:
    """Share ``total`` in proportion, between ``min(min_weights, size)`` and ``size`` each, to integers.

    The minimum is one number for all, or one for each.

    Water-filling: the share is ``clip(rate * proportion)`` at the one rate that makes the sum right. Needs
    ``sum of minimums <= total <= sum of sizes``, and positive proportions where there is a choice.

    >>> share_out([10, 1], sizes=[100, 100], total=22, min_weights=5)
    [17, 5]
    """
    minimums = [min_weights] * len(sizes) if isinstance(min_weights, int) else min_weights
    lowest = [min(minimum, size) for minimum, size in zip(minimums, sizes, strict=True)]
    shares = [Fraction(low) for low in lowest]
    free = [i for i, size in enumerate(sizes) if lowest[i] < size]
    rest = total - sum(low for low, size in zip(lowest, sizes, strict=True) if low == size)
    while free:
        rate = Fraction(rest, sum(proportions[i] for i in free))
        for i in free:
            shares[i] = min(max(rate * proportions[i], Fraction(lowest[i])), Fraction(sizes[i]))
        excess = sum(shares[i] for i in free) - rest
        # If clipping gave out too much, the rate can only fall: layers at the minimum stay there, full ones
        # may not. If it gave out too little, the other way round. Fixing both kinds at once would be wrong.
        done = [i for i in free if excess == 0 or (shares[i] - rate * proportions[i]) * excess > 0]
        rest -= sum(int(shares[i]) for i in done)
        free = [i for i in free if i not in done]
    return _round_to_sum(shares, total)


def _round_to_sum(shares: Sequence[Fraction], total: int) -> list[int]:
    """Round to integers that sum to ``total``: up where the remainder is largest, ties by order.

    The bounds of the shares are integers, so rounding a share up or down never crosses them.
    """
    rounded = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: rounded[i] - shares[i])
    for i in by_remainder[: total - sum(rounded)]:
        rounded[i] += 1
    return rounded
