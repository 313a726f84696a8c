"""How many weights gradual pruning leaves, and when."""

from fractions import Fraction

import pytest

from lightning_sparse.functional.budgets import total_budget
from lightning_sparse.functional.gradual import gradual_counts, pruning_step


def test_by_hand():
    # (1 - t / 40) ** 3 is 27/64, 8/64, 1/64 and 0; 0.2 + 0.8 * 27/64 = 0.5375, which is rounded half up
    assert gradual_counts(1000, 1000, 0.2, 0, 40, 10) == [538, 300, 213, 200]
    # From half of the weights: 0.2 + 0.3 * 8/27 = 0.2889, 0.2 + 0.3 / 27 = 0.2111
    assert gradual_counts(500, 1000, 0.2, 100, 130, 10) == [289, 211, 200]
    assert gradual_counts(1000, 1000, 0.2, 7, 8, 100) == [200]
    assert gradual_counts(200, 1000, 0.2, 0, 30, 10) == [200] * 3


@pytest.mark.parametrize(
    ("start", "stop", "every", "steps"),
    [(0, 40, 10, [10, 20, 30, 40]), (5, 40, 10, [15, 25, 35, 40]), (0, 9, 100, [9]), (3, 4, 1, [4])],
)
def test_the_last_pruning_is_at_the_end_whatever_divides_the_way(start, stop, every, steps):
    assert len(gradual_counts(100, 100, 0.1, start, stop, every)) == len(steps)
    assert [pruning_step(n, start, stop, every) for n in range(1, len(steps) + 1)] == steps


@pytest.mark.parametrize("total", [1, 999, 266_200, 23_000_000])
@pytest.mark.parametrize("density", [1e-4, 0.1, 1 / 3, 1.0])
@pytest.mark.parametrize("share", [Fraction(1), Fraction(7, 10)])
def test_any_schedule(total, density, share):
    """Counts only fall, end at the density, and are the formula's but for its last digit."""
    alive, kept = max(int(share * total), 1), total_budget(total, density)
    if not 1 <= kept <= alive:
        with pytest.raises(ValueError, match=f"`density` must leave between 1 and the {alive} weights"):
            gradual_counts(alive, total, density, 3, 300, 7)
        return
    counts = gradual_counts(alive, total, density, 3, 300, 7)
    assert counts[-1] == kept
    assert all(a >= b for a, b in zip([alive, *counts], counts, strict=False))
    for number, count in enumerate(counts, 1):
        left = Fraction(297 - min(7 * number, 297), 297) ** 3
        exact = Fraction(density) * total + (alive - Fraction(density) * total) * left
        assert abs(count - exact) <= Fraction(1, 2) + Fraction(1, 10**6)
