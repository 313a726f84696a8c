import itertools
from collections import Counter

import pytest
import torch

from lightning_sparse.layers.support import draw_support


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("size", "k"), [(1, 0), (1, 1), (10, 3), (10, 10), (10, 6), (1000, 500), (10**6, 777)]
)
def test_exactly_k_distinct_positions(size: int, k: int) -> None:
    for seed in range(20):
        drawn = draw_support(size, k, generator(seed))
        assert (len(drawn), drawn.dtype) == (k, torch.int64)
        assert bool((drawn.diff() > 0).all())
        assert k == 0 or 0 <= drawn[0] <= drawn[-1] < size


def test_every_subset_has_the_same_chance() -> None:
    for size, k in [(5, 2), (5, 3)]:
        draws, rounds = generator(1), 6000
        counts = Counter(tuple(draw_support(size, k, draws).tolist()) for _ in range(rounds))
        assert set(counts) == set(itertools.combinations(range(size), k))
        chi_square = sum((n - rounds / 10) ** 2 / (rounds / 10) for n in counts.values())
        assert chi_square < 27.9  # 9 degrees of freedom, one in a thousand


def test_draws_are_the_same_everywhere() -> None:
    expected = [273693713, 279380429, 656688430, 862092961]
    assert draw_support(10**9, 4, generator(7)).tolist() == expected


@pytest.mark.parametrize("k", [4, 9])
def test_draws_are_on_the_cpu_whatever_the_default_device_is(k: int) -> None:
    """As in `configure_model`, which Lightning calls with the GPU as the default."""
    with torch.device("meta"):
        drawn = draw_support(10, k, generator(7))
    assert torch.equal(drawn, draw_support(10, k, generator(7)))


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    draw_support(100, 30, generator())
    assert torch.equal(torch.rand(1), expected)


def test_k_must_be_within_the_size() -> None:
    with pytest.raises(ValueError, match="`k` must be between 0 and the 4 positions, got 5"):
        draw_support(4, 5, generator())
