"""How the rate of each method is chosen: on a grid of half decades, until the best is not at an end of it.

Each method starts with three rates and goes on as long as its best lies at an end. So all get the same care,
wherever their first three lay. Rates are counted: an even number 2 n stands for ``10**n``, the odd one after
it for ``3 * 10**n``.
"""

from collections.abc import Mapping

MOST = 8
"""Rates that are tried at most: with a method that learns nothing, none is the best."""


def rate(exponent: int) -> float:
    """Return the rate of that number.

    >>> rate(-6), rate(-5), rate(-4)
    (0.001, 0.003, 0.01)
    """
    return float(f"{3 if exponent % 2 else 1}e{exponent // 2}")


def number_of(text: str) -> int:
    """Return the number of a rate.

    >>> number_of("0.003")
    -5

    Raises:
        ValueError: If it is not on the grid.
    """
    found = next((number for number in range(-20, 5) if rate(number) == float(text)), None)
    if found is None:
        raise ValueError(f"a rate must be 1 or 3 times a power of ten, got {text}.")
    return found


def best_of(tried: Mapping[int, float]) -> int:
    """Return which did best, of equals the smaller."""
    return max(tried, key=lambda exponent: (tried[exponent], -exponent))


def next_to_try(middle: int, tried: Mapping[int, float], most: int = MOST) -> int | None:
    """Return the rate to try next; ``None`` once the best is known.

    Args:
        middle: Of the first three.
        tried: Accuracy on validation data by rate.
        most: How many are tried at most.

    >>> next_to_try(-5, {-5: 80.0, -4: 81.0, -6: 79.0})
    -3
    >>> next_to_try(-5, {-5: 80.0, -4: 81.0, -6: 79.0, -3: 80.5})
    """
    if len(tried) >= most:
        return None
    for exponent in (middle, middle + 1, middle - 1):
        if exponent not in tried:
            return exponent
    best = best_of(tried)
    return next((beside for beside in (best + 1, best - 1) if beside not in tried), None)
