"""Random bases of hyperplanes: products by hand, columns of length one, the same draws kept or not."""

import math

import pytest
import torch

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional import hyperplane
from lightning_sparse.functional.hyperplane import RandomBasis, check_size

SIZES = [(7, 1), (40, 40), (1_000, 3), (90, 70), (3, 2)]


def dense(basis):
    columns = [basis.times(unit) for unit in torch.eye(basis.columns, dtype=torch.float64)]
    return torch.stack(columns, dim=1)


def test_by_hand(monkeypatch):
    """Columns (3, 4, 0) and (0, 2, 0) become (0.6, 0.8, 0) and (0, 1, 0)."""
    blocks = [torch.tensor([[3.0, 0.0], [4.0, 2.0]]), torch.tensor([[0.0, 0.0]])]
    monkeypatch.setattr(RandomBasis, "_drawn", lambda _: iter(blocks))
    for keep in (True, False):
        basis = RandomBasis(3, 2, seed=0, keep=keep)
        torch.testing.assert_close(basis.times(torch.tensor([5.0, 1.0])), torch.tensor([3.0, 5.0, 0.0]))
        gradient = basis.transposed_times(torch.tensor([1.0, 2.0, 9.0]))
        torch.testing.assert_close(gradient, torch.tensor([2.2, 2.0]))


@pytest.mark.parametrize("block", [64, 2**20])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_columns_have_length_one(rows, columns, block, monkeypatch):
    monkeypatch.setattr(hyperplane, "BLOCK", block)
    u = dense(RandomBasis(rows, columns, seed=3))
    assert u.shape == (rows, columns)
    torch.testing.assert_close(u.norm(dim=0), torch.ones(columns, dtype=torch.float64), rtol=1e-6, atol=0)


def test_it_is_a_normal_draw_with_its_columns_divided_by_their_lengths():
    draws = torch.randn(500, 20, generator=torch.Generator().manual_seed(11)).double()
    torch.testing.assert_close(dense(RandomBasis(500, 20, seed=11)), draws / draws.norm(dim=0))
    assert not torch.equal(dense(RandomBasis(500, 20, seed=12)), dense(RandomBasis(500, 20, seed=11)))


def test_columns_are_nearly_at_right_angles():
    """Cosines of independent directions have standard deviation 1 / sqrt(n)."""
    u = dense(RandomBasis(1_000, 40, seed=0))
    cosines = (u.t() @ u)[~torch.eye(40, dtype=torch.bool)]
    assert 0.9 < float(cosines.std()) * math.sqrt(1_000) < 1.1


@pytest.mark.parametrize("block", [64, 2**20])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kept_or_drawn_anew_is_the_same_to_the_bit(rows, columns, dtype, block, monkeypatch):
    monkeypatch.setattr(hyperplane, "BLOCK", block)
    kept, drawn = (RandomBasis(rows, columns, seed=5, keep=keep) for keep in (True, False))
    assert (kept.kept, drawn.kept) == (4 * rows * columns, 0)
    draws = torch.Generator().manual_seed(0)
    theta = torch.randn(columns, dtype=dtype, generator=draws)
    gradient = torch.randn(rows, dtype=dtype, generator=draws)
    assert torch.equal(kept.times(theta), drawn.times(theta))
    assert torch.equal(kept.transposed_times(gradient), drawn.transposed_times(gradient))
    left, right = gradient @ kept.times(theta), kept.transposed_times(gradient) @ theta
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)  # the adjoint
    kept.forget_()
    assert torch.equal(kept.times(theta), drawn.times(theta))


def test_nothing_comes_of_nothing():
    assert torch.equal(RandomBasis(100, 10, seed=0).times(torch.zeros(10)), torch.zeros(100))


def test_draws_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    RandomBasis(100, 10, seed=0, keep=False).times(torch.ones(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_that_cannot_work():
    check_size(300, 61_510, 0)
    check_size(10_000, 200_000, keep_mib=10_000)  # what is kept may be larger
    with pytest.raises(SparsityError, match=r"`dimension` must be at most the number of weights, 5, got 6\."):
        check_size(6, 5, 1024)
    with pytest.raises(SparsityError, match=r"got 1,000 times 2,000,000: .* about 16 s\..*`keep_mib` 7,630"):
        check_size(1_000, 2_000_000, 1024)
