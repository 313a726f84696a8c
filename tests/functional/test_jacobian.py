"""Jacobians worked out by hand, and their singular values."""

import pytest
import torch

from lightning_sparse.functional.jacobian import input_jacobians, singular_values

FIRST = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
SECOND = torch.tensor([[2.0, 0.0], [1.0, -3.0]], dtype=torch.float64)


def rectified(x):
    return (x @ FIRST.t()).relu() @ SECOND.t()


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([1.0, 1.0, 0.0], [[2.0, 4.0, 0.0], [1.0, -1.0, 3.0]]),  # both units on: SECOND @ FIRST
        ([1.0, 0.0, 1.0], [[2.0, 4.0, 0.0], [1.0, 2.0, 0.0]]),  # the second is off
        ([-1.0, 0.0, 1.0], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),  # both are off
    ],
)
def test_jacobian_of_a_rectified_net(x, expected):
    (jacobian,) = input_jacobians(rectified, torch.tensor([x], dtype=torch.float64))
    assert jacobian.tolist() == expected


def test_each_item_of_a_batch_has_its_own_jacobian():
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = input_jacobians(rectified, x)
    alone = torch.cat([input_jacobians(rectified, one[None]) for one in x])
    assert torch.equal(together, alone)
    assert together.shape == (5, 2, 3)
    assert not torch.equal(together[0], together[1])


def test_inputs_and_outputs_of_any_shape_are_flattened():
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    jacobians = input_jacobians(lambda x: x.sum(dim=1, keepdim=True), x)
    assert torch.equal(jacobians, torch.eye(4, dtype=x.dtype).repeat(1, 3).expand(2, 4, 12))


@pytest.mark.parametrize(
    "constant", [lambda x: torch.ones(len(x), 4), lambda x: 0.0 * x.sum(1, keepdim=True)]
)
def test_an_output_that_the_input_does_not_reach_has_zeros(constant):
    jacobians = input_jacobians(constant, torch.randn(2, 3))
    assert jacobians.shape[0] == 2
    assert jacobians.shape[2] == 3
    assert not jacobians.any()
    assert not singular_values(jacobians).any()


def test_singular_values_of_a_product_of_rotations_and_scales():
    left, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    scales = torch.zeros(3, 5, dtype=torch.float64)
    scales.diagonal().copy_(torch.tensor([7.0, 2.0, 0.5]))
    found = singular_values((left @ scales @ right)[None])
    torch.testing.assert_close(found, torch.tensor([[7.0, 2.0, 0.5]], dtype=torch.float64))


def test_rounding_is_no_rank_and_small_scales_are_no_zero():
    row = torch.tensor([1.0, 3.0, 1.0 / 3.0], dtype=torch.float64)
    matrix = torch.stack([row, row / 3, row / 7])
    for scale in (1.0, 1e-13, 1e-300):
        (found,) = singular_values((matrix * scale)[None])
        assert found[0] > 0
        assert found[1:].tolist() == [0.0, 0.0]
        torch.testing.assert_close(found[0] / scale, matrix.norm())


def test_a_matrix_of_zeros_beside_others_is_exactly_zero():
    both = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)])
    first, second = singular_values(both).tolist()
    assert first == [0.0, 0.0]
    assert second == [pytest.approx(6**0.5), 0.0]
