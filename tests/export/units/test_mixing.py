"""What constants are to a layer, worked by hand."""

import pytest
import torch

from lightning_sparse.export.units.mixing import folding, kernel_sums, pads_with_zeros, readers


def rows(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_a_constant_moves_into_the_bias():
    """Inputs 0 and 2 are the constants 5 and -1; output 1 reads nothing else."""
    weight = rows([2, 3, 1], [4, 0, 0])
    folded, shift, read = folding(
        weight, torch.tensor([True, False, True]), torch.tensor([5.0, 0.0, -1.0]).double(), only_zeros=False
    )
    assert folded.tolist() == [True, False, True]
    assert shift.tolist() == [2 * 5 - 1, 4 * 5]
    assert read.tolist() == [[False, True, False], [False, False, False]]


def test_beside_a_border_of_zeros_only_zero_moves():
    weight = torch.ones(1, 3, 3, 3, dtype=torch.float64)
    known, constant = torch.tensor([True, True, False]), torch.tensor([2.0, 0.0, 0.0]).double()
    folded, shift, read = folding(weight, known, constant, only_zeros=True)
    assert folded.tolist() == [False, True, False]
    assert shift.tolist() == [0]
    assert read.tolist() == [[True, False, True]]
    folded, shift, _ = folding(weight, known, constant, only_zeros=False)
    assert folded.tolist() == [True, True, False]
    assert shift.tolist() == [9 * 2]


def test_groups_read_their_own_inputs():
    """Two groups of two inputs and two outputs each: rows 0 and 1 read inputs 0 and 1."""
    weight = rows([1, 0], [2, 3], [0, 0], [4, 5])[..., None]
    assert kernel_sums(weight, groups=2).tolist() == [[1, 0, 0, 0], [2, 3, 0, 0], [0, 0, 0, 0], [0, 0, 4, 5]]
    assert readers(weight, groups=2).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 1],
    ]


def test_kernels_whose_entries_cancel_are_read_all_the_same():
    weight = rows([1, -1])[None]
    assert kernel_sums(weight).tolist() == [[0]]
    assert readers(weight).tolist() == [[True]]


@pytest.mark.parametrize(
    ("padding", "kernel", "pads"),
    [
        ([0], [3], False),
        ([0, 1], [3, 3], True),
        ("same", [1, 3], True),
        ("same", [1, 1], False),
        ("valid", [3], False),
    ],
)
def test_what_pads(padding, kernel, pads):
    assert pads_with_zeros(padding, kernel) is pads
