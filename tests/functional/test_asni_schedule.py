"""ASNI's sigmoid and the numbers of weights that follow from it."""

import itertools
import math

import numpy as np
import pytest

from lightning_sparse.functional.asni import kept_path, sparsity_path, sparsity_path_to


def test_four_epochs_by_hand():
    """E = 4, alpha = 80, gamma = 1: s = 80 / (1 + exp(2 - e)) for e = 0, 1, 2."""
    path = sparsity_path(4, alpha=80, beta=0.5, gamma=1)
    assert path == pytest.approx([80 / (1 + math.e**2), 80 / (1 + math.e), 40.0], abs=1e-12)
    # 9.5362 %: 953 of 10,000 go. (21.5153 - 9.5362) / 90.4638 = 13.2419 %: 1,197 of 9,047.
    # (40 - 21.5153) / 78.4847 = 23.5520 %: 1,848 of 7,850.
    assert kept_path(10_000, path) == [9047, 7850, 6002]


def test_width_is_a_tenth_of_the_search_unless_given():
    assert sparsity_path(20, 90) == sparsity_path(20, 90, 0.5, 2.0)
    assert sparsity_path(20, 90) != sparsity_path(20, 90, 0.5, 3.0)


def test_beta_moves_the_middle():
    assert sparsity_path(10, 90, beta=0.2, gamma=1)[2] == 45.0


def test_small_removals_are_booked_but_not_done():
    """5 % of what is left stays, for good: the next removal is reckoned from 14.5 %, not from 10 %."""
    sparsities = [10.0, 14.5, 57.25]  # 10 %, 5 % and 50 % of what is left
    assert kept_path(1000, sparsities) == [900, 855, 428]
    assert kept_path(1000, sparsities, min_increment=6.0) == [900, 900, 450]


def test_a_removal_of_just_the_least_is_left_out():
    assert kept_path(1000, [10.0, 20.0], min_increment=10.0) == [1000, 889]  # then int(1000 / 9) go


def test_an_exact_end_is_met_and_not_passed_on_the_way():
    assert kept_path(1000, [90.0, 95.0], kept=20) == [100, 20]
    assert kept_path(1000, [90.0, 95.0], kept=150) == [150, 150]


def oracle(alive, sparsities, least):
    """The authors' loop: what share of the survivors goes, by numpy."""
    s = np.asarray([0.0, *sparsities])
    percents = 100 * np.diff(s) / (100 - s[:-1])
    for percent in percents:
        alive -= int(np.floor(alive * percent / 100)) * bool(percent > least)
        yield alive


@pytest.mark.parametrize("alive", [1, 7, 1000, 266_200, 11_172_032])
@pytest.mark.parametrize("epochs", [2, 3, 10, 50, 160])
@pytest.mark.parametrize("alpha", [50, 98, 99.9])
@pytest.mark.parametrize("least", [0.0, 0.1])
def test_any_path(alive, epochs, alpha, least):
    sparsities = sparsity_path(epochs, alpha, gamma=epochs / 12)
    counts = kept_path(alive, sparsities, least)
    assert counts == list(oracle(alive, sparsities, least))
    assert len(counts) == epochs - 1
    assert all(isinstance(count, int) for count in counts)
    assert all(a >= b >= 0 for a, b in zip([alive, *counts], counts, strict=False))
    if least == 0:  # each pruning rounds down by less than one weight
        assert 0 <= counts[-1] - alive * (1 - sparsities[-1] / 100) < epochs
    assert all(0 < a < b < alpha for a, b in itertools.pairwise(sparsities))


@pytest.mark.parametrize(("kept", "final"), [(2000, 0.0), (1750, 12.5), (200, 90.0), (2, 99.9)])
@pytest.mark.parametrize("epochs", [2, 5, 50])
def test_a_path_to_an_exact_end(kept, final, epochs):
    path = sparsity_path_to(kept, 2000, epochs, gamma=3)
    assert path[-1] == final
    shape = sparsity_path(epochs, 100, gamma=3)
    assert path == pytest.approx([final * s / shape[-1] for s in shape])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparsity_path(1, 90), "`epochs` must be an integer of at least 2, got 1"),
        (lambda: sparsity_path(5, 101), r"`alpha` must be in \[0, 100\], got 101"),
        (lambda: sparsity_path(5, 90, gamma=0), "`gamma` must be in .0, inf., got 0"),
        (lambda: sparsity_path_to(30, 20, 5), "`kept` must be between 1 and 20, got 30: `density` is more"),
        (lambda: sparsity_path_to(2, 20, 10, 0.95, 0.001), "`beta` and `gamma` must .* got 0.95 and 0.001"),
        (lambda: sparsity_path_to(0, 20, 5), "`kept` must be between 1 and 20, got 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
