"""Sorted positions in few bits: what was packed comes out, in few bits, or an error does."""

import math
import struct
import zlib

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.positions import pack_positions, unpack_positions
from lightning_sparse.layers.support import draw_support

HEADER = 21


def drawn(size, k, seed=0):
    return draw_support(size, k, torch.Generator().manual_seed(seed))


def body_bits(packed):
    return 8 * (len(packed) - HEADER)


def entropy(size, k):
    """``log2 C(size, k)``."""
    log = math.lgamma(size + 1) - math.lgamma(k + 1) - math.lgamma(size - k + 1)
    return log / math.log(2)


def assert_survives(positions, size):
    packed = pack_positions(positions, size)
    assert packed.dtype == torch.uint8
    unpacked = unpack_positions(packed, size)
    assert unpacked.dtype == torch.int64
    assert torch.equal(unpacked, positions.long())
    return packed


def with_checksum(content):
    """Write the checksum of a stream anew, as one would who wants it to be read."""
    return torch.frombuffer(bytearray(struct.pack("<I", zlib.crc32(content)) + content), dtype=torch.uint8)


# Worked by hand.


@pytest.mark.parametrize(
    ("positions", "bits"),
    [
        # k = 2, N = 10: m = ceil(ln 2 * 5 - 0.85) = 3, remainders 0, 10 and 11
        ([4, 9], 0b11_00_01_01),  # gaps 4 and 4: both q = 1, r = 1
        ([0, 9], 0b01_1_1_001_0),  # gaps 0 and 8: q = 0, r = 0 and q = 2, r = 2; one bit of padding
    ],
)
def test_the_bits_of_two_positions(positions, bits):
    packed = assert_survives(torch.tensor(positions), 10)
    assert packed[4:].tolist() == [0, *struct.pack("<QQ", 2, 10), bits]
    assert packed[:4].tolist() == list(struct.pack("<I", zlib.crc32(bytes(packed[4:].tolist()))))


def test_the_other_forms():
    """Where few are left out, these are coded; where neither is short, bits or plain numbers are."""
    assert pack_positions(torch.tensor([1, 2, 3, 5, 6, 7, 8]), 10)[4:5].tolist() == [1]
    clustered = torch.tensor([*range(370), 999])  # m = 2: two bits for each, and 314 for the gap
    packed = assert_survives(clustered, 1000)
    assert (packed[4], body_bits(packed)) == (2, 1000)
    packed = assert_survives(torch.tensor([2**40 - 1]), 2**40)
    assert (packed[4], body_bits(packed)) == (3, 40)


# Any positions.


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 2000), st.data())
def test_any_positions_survive(size, data):
    positions = data.draw(st.sets(st.integers(0, size - 1)).map(sorted))
    packed = assert_survives(torch.tensor(positions, dtype=torch.int64), size)
    listed = len(positions) * (size - 1).bit_length()
    assert body_bits(packed) < min(size, listed) + 8


@settings(deadline=None, max_examples=200)
@given(st.integers(2**31 - 2, 2**62), st.sets(st.integers(0, 2**62), max_size=50))
def test_positions_beyond_int32_survive(size, numbers):
    positions = torch.tensor(sorted(number for number in numbers if number < size), dtype=torch.int64)
    packed = assert_survives(positions, size)
    assert body_bits(packed) < len(positions) * (size - 1).bit_length() + 8


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 40), st.integers(1, 50), st.data())
def test_full_rows_survive(rows, columns, data):
    full = data.draw(st.sets(st.integers(0, rows - 1)).map(sorted))
    positions = (torch.tensor(full, dtype=torch.int64)[:, None] * columns + torch.arange(columns)).flatten()
    packed = assert_survives(positions, rows * columns)
    assert body_bits(packed) < min(rows * columns, 32 * len(positions)) + 8


@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9, 1000])
def test_none_and_all(size):
    assert body_bits(assert_survives(torch.arange(0), size)) == 0
    assert body_bits(assert_survives(torch.arange(size), size)) == 0


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_types_of_positions(dtype):
    assert_survives(torch.tensor([0, 3, 99], dtype=dtype), 100)


# Sizes.


@pytest.mark.parametrize(
    ("density", "bits"), [(0.1, 4.73), (0.01, 8.11), (0.001, 11.45), (0.004, 9.44), (0.3, 2.97), (0.9, 0.53)]
)
def test_random_positions_are_near_entropy(density, bits):
    size = 2**22
    k = round(density * size)
    packed = assert_survives(drawn(size, k), size)
    assert entropy(size, k) < body_bits(packed) < bits * k


@pytest.mark.parametrize("density", [0.02, 0.1, 0.2, 0.35, 0.38, 0.382, 0.4, 0.5, 0.6, 0.8, 0.98])
def test_no_density_costs_much_more_than_entropy(density):
    size = 2**18
    k = round(density * size)
    assert body_bits(pack_positions(drawn(size, k), size)) < 1.05 * entropy(size, k)


# What is refused.


@pytest.mark.parametrize(
    "positions",
    [
        torch.tensor([3, 3]),
        torch.tensor([4, 3]),
        torch.tensor([-1, 3]),
        torch.tensor([3, 10]),
        torch.tensor([1.0]),
        torch.tensor([True]),
        torch.tensor([[1]]),
        [1],
    ],
)
def test_other_positions_are_refused(positions):
    with pytest.raises(SparsityError, match=r"`positions` must be"):
        pack_positions(positions, 10)


@pytest.mark.parametrize("size", [-1, 1.5, True])
def test_other_sizes_are_refused(size):
    with pytest.raises(SparsityError, match=r"`size` must be"):
        pack_positions(torch.arange(0), size)
    with pytest.raises(SparsityError, match=r"`size` must be"):
        unpack_positions(pack_positions(torch.arange(0), 0), size)


@pytest.mark.parametrize(("size", "k"), [(1000, 60), (1000, 950), (2**40, 1), (1000, 0)])
def test_every_flipped_bit_is_found(size, k):
    packed = pack_positions(drawn(size, k), size)
    for place in range(8 * len(packed)):
        damaged = packed.clone()
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(SparsityError, match="wrong checksum"):
            unpack_positions(damaged, size)


def test_streams_cut_off_or_gone_on_are_found():
    packed = pack_positions(drawn(1000, 60), 1000)
    for length in range(len(packed)):
        with pytest.raises(SparsityError, match=rf"`packed` is corrupt \({length} bytes"):
            unpack_positions(packed[:length], 1000)
    with pytest.raises(SparsityError, match="is corrupt"):
        unpack_positions(torch.cat([packed, packed[:1]]), 1000)


def test_positions_of_another_range_are_refused():
    packed = pack_positions(drawn(1000, 60), 1000)
    with pytest.raises(SparsityError, match=r"must hold positions below 999, got some below 1000\. Do they"):
        unpack_positions(packed, 999)


@pytest.mark.parametrize("packed", [torch.zeros(40), torch.zeros(2, 20, dtype=torch.uint8), b"12"])
def test_what_is_no_stream_is_refused(packed):
    with pytest.raises(SparsityError, match="`packed` must be a vector of uint8"):
        unpack_positions(packed, 10)


@settings(deadline=None, max_examples=500)
@given(st.integers(0, 5), st.integers(0, 2**64 - 1) | st.integers(0, 60), st.integers(0, 60), st.binary())
def test_wrong_streams_with_the_right_checksum_are_refused(form, count, size, body):
    """They give so many positions in range or an error, and ask for no memory that the bits do not fill."""
    packed = with_checksum(struct.pack("<BQQ", form, count, size) + body)
    try:
        positions = unpack_positions(packed, size)
    except SparsityError as error:
        assert f"`packed` must hold {count} positions below {size}, got other bits" in str(error)  # noqa: PT017
        return
    assert len(positions) == count
    assert (positions.diff() > 0).all()
    assert all(0 <= position < size for position in positions.tolist())


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.data())
def test_bits_behind_the_end_are_refused(size, data):
    k = data.draw(st.integers(0, size))
    packed = pack_positions(drawn(size, k), size)
    content = bytes(packed[4:].tolist())
    for longer in (content + b"\0", content + b"\1"):
        with pytest.raises(SparsityError, match="got other bits"):
            unpack_positions(with_checksum(longer), size)
    assume(len(packed) > HEADER)
    with pytest.raises(SparsityError, match="got other bits"):
        unpack_positions(with_checksum(content[:-1]), size)
