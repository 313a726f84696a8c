"""Units that masks have cut off, counted by hand and by the masks themselves."""

import pytest
import torch

from lightning_sparse.reporting.dead_units import DeadUnits, count_dead_units


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 0], [0, 0], [1, 0]], DeadUnits(3, 1, 2, 1)),
        ([[0, 0], [0, 0]], DeadUnits(2, 2, 2, 2)),
        ([[1, 1]], DeadUnits(1, 0, 2, 0)),
        ([[[[0, 0], [0, 1]], [[0, 0], [0, 0]]]], DeadUnits(1, 0, 2, 1)),  # one filter, two channels of 2 x 2
    ],
)
def test_by_hand(mask, expected):
    mask = torch.tensor(mask)
    assert count_dead_units(tuple(mask.shape), mask.flatten().nonzero().flatten()) == expected


@pytest.mark.parametrize("shape", [(7, 5), (6, 4, 3, 3), (5, 3, 2), (4, 2, 2, 2, 2)])
@pytest.mark.parametrize("density", [0.0, 0.03, 0.2, 1.0])
def test_counts_are_those_of_the_mask(shape, density):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < density
    found = count_dead_units(shape, mask.flatten().nonzero().flatten())
    assert found.without_inputs == int((~mask.flatten(1).any(1)).sum())
    assert found.unread == int((~mask.transpose(0, 1).flatten(1).any(1)).sum())
