import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparse.functional.packing import pack_bits, unpack_bits, weigh_bits


def bools(*rows: str) -> Tensor:
    return torch.tensor([[c == "x" for c in row] for row in rows])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 5), max_size=4), st.integers(0, 2**32))
def test_bits_survive_packing(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack_bits(mask)
    assert packed.dtype == torch.uint8
    assert len(packed) == math.ceil(mask.numel() / 8)
    assert torch.equal(unpack_bits(packed, mask.shape), mask)


def test_bits_are_packed_as_numpy_packs_the_c_order() -> None:
    mask = bools("x....x", "....xx")
    packed = torch.tensor([0b10000100, 0b00110000], dtype=torch.uint8)
    assert torch.equal(pack_bits(mask), packed)
    assert torch.equal(pack_bits(mask.T.contiguous().T), packed)
    assert unpack_bits(packed, (2, 6)).dtype == torch.bool


@pytest.mark.parametrize("length", [1, 3])
def test_packed_bits_of_another_shape_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"`packed` must have 2 bytes for shape \(3, 4\), got {length}\."):
        unpack_bits(torch.zeros(length, dtype=torch.uint8), (3, 4))


def test_leftover_bits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`packed` must not set bits past the 12 of shape \(3, 4\)"):
        unpack_bits(torch.tensor([0, 0b1000], dtype=torch.uint8), (3, 4))
    assert unpack_bits(torch.tensor([0, 0b10000], dtype=torch.uint8), (3, 4)).sum() == 1


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (8,), (3, 5), (4, 4, 3, 3), (1000,)])
def test_packing_by_products_is_packing(shape):
    """All that there is on a GPU, where a mask is packed before it is copied."""
    for share in (0.0, 0.3, 1.0):
        mask = torch.rand(shape) < share
        assert torch.equal(weigh_bits(mask), pack_bits(mask))
        assert torch.equal(weigh_bits(mask.T.contiguous().T if mask.dim() == 2 else mask), pack_bits(mask))
        thinned = torch.stack([mask, ~mask], dim=-1)[..., 0]  # every second entry in memory
        assert torch.equal(weigh_bits(thinned), pack_bits(mask))
    every_byte = (torch.arange(256)[:, None] >> torch.arange(8)) % 2 == 1
    assert torch.equal(weigh_bits(every_byte), pack_bits(every_byte))
