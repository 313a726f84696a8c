"""Positions as steps of w bits."""

import math

import numpy as np
import pytest
import torch

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.positions import pack_positions
from lightning_sparse.functional.skips import WIDEST, pack_skips, unpack_skips


def drawn(size, count, seed=0):
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def entropy(density):
    """Bits per position."""
    return -(density * math.log2(density) + (1 - density) * math.log2(1 - density)) / density


def test_a_hand_worked_code():
    """Positions 2, 3, 8 and 20 in steps of two bits, which reach 3 places: 12 places are 0, 0, 0, 3."""
    packed = pack_skips(torch.tensor([2, 3, 8, 20]), 21)
    bits = "".join(f"{byte:08b}"[::-1] for byte in packed[0].tolist())
    steps = [int(bits[i : i + 2][::-1], 2) for i in range(0, 16, 2)]
    assert steps == [3, 1, 0, 2, 0, 0, 0, 3]


@pytest.mark.parametrize("count", [1, 2, 999, 1000])
@pytest.mark.parametrize("size", [1000])
def test_round_trips(size, count):
    for positions in (drawn(size, count), torch.arange(count), torch.arange(size - count, size)):
        packed = pack_skips(positions.int(), size)
        assert torch.equal(unpack_skips(packed, size), positions)


def test_of_nothing_there_is_nothing():
    for size in (0, 5):
        packed = pack_skips(torch.tensor([], dtype=torch.long), size)
        assert packed.numel() == 0
        assert unpack_skips(packed, size).tolist() == []


def test_far_positions_take_the_widest_steps():
    positions = torch.tensor([2**40])
    packed = pack_skips(positions, 2**41)
    assert packed.shape[1] == WIDEST
    assert torch.equal(unpack_skips(packed, 2**41), positions)


@pytest.mark.parametrize(("density", "most"), [(0.5, 2.01), (0.1, 5.1), (0.01, 8.75), (0.001, 12.4)])
def test_bits_per_position(density, most):
    """Within 8% of the entropy; the code that is harder to read is shorter."""
    size = 2**20
    positions = drawn(size, int(density * size))
    bits = 8 * pack_skips(positions, size).numel() / len(positions)
    assert entropy(density) * 0.99 < bits < most < 1.09 * entropy(density)
    assert 8 * (len(pack_positions(positions, size)) - 21) / len(positions) <= bits


def test_numpy_packs_a_mask_alike():
    mask = torch.rand(800, generator=torch.Generator().manual_seed(0)) < 0.6
    packed = pack_skips(mask.nonzero()[:, 0], 800)
    assert packed.shape == (100, 1)
    np.testing.assert_array_equal(packed[:, 0], np.packbits(mask.numpy(), bitorder="little"))


@pytest.mark.parametrize("positions", [[1, 1], [2, 1], [-1, 3], [3, 10]])
def test_what_cannot_be_packed(positions):
    with pytest.raises(SparsityError, match="`positions` must be distinct, ascending and from 0 to 9, got"):
        pack_skips(torch.tensor(positions), 10)


def test_what_cannot_be_unpacked():
    packed = pack_skips(torch.tensor([3, 90]), 100)
    with pytest.raises(SparsityError, match="`packed` must hold positions below 90, got 90"):
        unpack_skips(packed, 90)
    for other in (packed.view(-1), packed.int(), torch.zeros(2, 25, dtype=torch.uint8), None):
        with pytest.raises(SparsityError, match="`packed` must be uint8 with rows of 1 to 24 bytes, got"):
            unpack_skips(other, 100)
