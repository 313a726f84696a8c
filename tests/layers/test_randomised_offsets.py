"""Offsets behind random signs: the signed DCT and the randomised Walsh-Hadamard transform."""

import math
from hashlib import shake_256
from typing import Any

import pytest
import torch
from layers_toy import convolution, linear
from torch import Tensor

from lightning_sparse.layers import DCTOffset, DensePlusSparse, HadamardOffset, SignedDCTOffset
from lightning_sparse.layers.backends import choose_backend
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets import OFFSETS, Offset
from lightning_sparse.layers.offsets.signs import random_signs

CPU = torch.device("cpu")
RANDOMISED = [SignedDCTOffset(), SignedDCTOffset(3, "chw"), HadamardOffset(), HadamardOffset(3)]
LINEAR = [(1, 1), (1, 7), (7, 1), (13, 29), (29, 13), (16, 16), (17, 33), (64, 64), (10, 100)]
GEOMETRIES = {
    "plain": (7, Convolution()),
    "padded": (7, Convolution(stride=(2, 1), padding=(1, 2))),
    "dilated": (5, Convolution(padding=(2, 2), dilation=(2, 1))),
    "grouped": (3, Convolution(padding=(1, 1), groups=2)),
    "1-d": (5, Convolution((2,), (1,), (2,))),
    "3-d, grouped": (3, Convolution((1, 2, 1), (1, 0, 1), (1, 1, 2), groups=2)),
}
KERNELS = [(1, 1), (3, 3), (2, 3), (1, 5)]


def matrix(offset: Offset, *shape: int) -> Tensor:
    made = offset.matrix(torch.Size(shape), torch.float64, CPU)
    assert made is not None
    return made


def hadamard(size: int) -> Tensor:
    """Entry (i, j) by the definition: the parity of the bits that i and j share."""
    return torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)])


# The matrices.


def test_signs_are_bits_of_a_hash_and_stay_what_they_are() -> None:
    """Of SHAKE-256 of a text that names seed, purpose and shape; the lowest bit of a byte comes first."""
    signs = random_signs(12, 0, "channels", torch.Size((4, 12)))
    first, second = shake_256(b"0/channels/(4, 12)").digest(2)
    bits = [first >> i & 1 for i in range(8)] + [second >> i & 1 for i in range(4)]
    assert signs.tolist() == [1 - 2 * bit for bit in bits]


def test_signs_are_fair_and_independent() -> None:
    shape = torch.Size((64, 4096))
    signs = [random_signs(4096, seed, what, shape) for seed in (0, 1) for what in ("channels", "places")]
    for sign in signs:
        assert sign.abs().eq(1).all()
    products = torch.stack(signs) @ torch.stack(signs).t() / 4096
    assert (products - torch.eye(4)).abs().max() < 5 / 64  # five standard deviations
    assert max(abs(float(sign.mean())) for sign in signs) < 5 / 64


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (8, 3, 3, 3), (3, 8, 1, 1), (4, 2, 5), (3, 2, 2, 1, 3)])
def test_hadamard_against_its_definition(shape: tuple[int, ...]) -> None:
    patch = math.prod(shape[1:])
    size = 1
    while size < max(shape[0], patch):
        size *= 2
    signs = random_signs(patch, 2, "inputs", torch.Size(shape))
    expected = hadamard(size)[: shape[0], :patch].double() / math.sqrt(size) * signs
    torch.testing.assert_close(matrix(HadamardOffset(2), *shape).flatten(1), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (9, 5, 3, 3), (6, 8, 1, 1), (3, 2, 4), (3, 2, 1, 4, 2)])
def test_signed_dct_is_the_dct_with_the_sign_of_each_channel_and_place(
    shape: tuple[int, ...], order: Any
) -> None:
    plain, signed = matrix(DCTOffset(order), *shape), matrix(SignedDCTOffset(4, order), *shape)
    size = torch.Size(shape)
    expected = plain.clone()
    channels, places = (
        random_signs(shape[1], 4, "channels", size),
        random_signs(size[2:].numel(), 4, "places", size),
    )
    for c in range(shape[1]):
        expected[:, c] *= channels[c]
    if size[2:].numel() > 1:
        expected *= places.view(size[2:])
    assert torch.equal(signed, expected)


@pytest.mark.parametrize("offset", RANDOMISED, ids=str)
@pytest.mark.parametrize("shape", [(12, 31), (31, 12), (8, 3, 3, 3), (3, 8, 1, 1), (1, 1)])
def test_the_norm_is_that_of_the_matrix(offset: Offset, shape: tuple[int, ...]) -> None:
    assert offset.norm(torch.Size(shape)) == pytest.approx(float(matrix(offset, *shape).norm()), rel=1e-12)


@pytest.mark.parametrize("kind", [SignedDCTOffset, HadamardOffset])
def test_rows_are_orthonormal_where_the_size_is_that_of_the_patch(kind: Any) -> None:
    rows = matrix(kind(1), 20, 64)
    torch.testing.assert_close(rows @ rows.t(), torch.eye(20, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [SignedDCTOffset, HadamardOffset])
def test_the_seed_counts(kind: Any) -> None:
    assert not torch.equal(matrix(kind(0), 12, 31), matrix(kind(1), 12, 31))
    assert torch.equal(matrix(kind(1), 12, 31), matrix(kind(1), 12, 31))
    half = kind(1).matrix(torch.Size((12, 31)), torch.float32, CPU)
    torch.testing.assert_close(half.double(), matrix(kind(1), 12, 31), rtol=1e-6, atol=1e-8)
    for wrong in (-1, 1.5, True, "a"):
        with pytest.raises(ValueError, match="`seed` must be an integer of at least 0"):
            kind(wrong)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="`patch_order` must be one of hwc, chw, got 'whc'"):
        SignedDCTOffset(patch_order="whc")  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", RANDOMISED, ids=str)
@pytest.mark.parametrize("shape", [(12, 31), (8, 4, 3, 3), (8, 4, 1, 1)])
def test_on_the_meta_device_there_are_shapes(offset: Offset, shape: tuple[int, ...]) -> None:
    made = offset.matrix(torch.Size(shape), torch.float32, torch.device("meta"))
    assert made is not None
    assert (made.shape, made.is_meta, made.is_contiguous()) == (shape, True, True)


@pytest.mark.parametrize("offset", RANDOMISED, ids=str)
def test_constants_are_made_on_the_cpu_whatever_the_default_device_is(offset: Offset) -> None:
    """As in `configure_model`, which Lightning calls with the GPU as the default."""
    shape = torch.Size((9, 5, 3, 3) if isinstance(offset, SignedDCTOffset) else (9, 5))
    geometry = Convolution() if len(shape) == 4 else None
    x = torch.randn(2, *shape[1:]).double()
    with torch.device("meta"):
        fast = offset.transform(shape, geometry, torch.float64, CPU)
        assert fast is not None
        y = fast(x)
    torch.testing.assert_close(y.flatten(1), x.flatten(1) @ matrix(offset, *shape).flatten(1).t())


# The fast forms.


@pytest.mark.parametrize("offset", RANDOMISED, ids=str)
@pytest.mark.parametrize(("out", "inputs"), LINEAR)
def test_the_transform_of_a_linear_layer_is_its_matrix(offset: Offset, out: int, inputs: int) -> None:
    fast, dense = (
        offset.transform(torch.Size((out, inputs)), None, torch.float64, CPU),
        matrix(offset, out, inputs),
    )
    assert fast is not None
    for rows in (0, 1, 5):
        x, grad = torch.randn(rows, inputs).double(), torch.randn(rows, out).double()
        torch.testing.assert_close(fast(x), x @ dense.t(), rtol=0, atol=1e-12)
        torch.testing.assert_close(fast.adjoint(grad, x.shape), grad @ dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize("offset", RANDOMISED, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_transform_of_a_convolution_is_its_matrix(offset: Offset, name: str, kernel: Any) -> None:
    channels, geometry = GEOMETRIES[name]
    kernel = (*kernel, *kernel)[-geometry.dimensions :]
    shape = torch.Size((6, channels, *kernel))
    fast = offset.transform(shape, geometry, torch.float64, CPU)
    without = isinstance(offset, HadamardOffset) and math.prod(kernel) > 1
    if without or (math.prod(kernel) == 1 and geometry.groups > 1):
        assert fast is None
        return
    assert fast is not None
    dense = matrix(offset, *shape)
    x = (
        torch.randn(2, channels * geometry.groups, *(9, 8, 7)[-geometry.dimensions :])
        .double()
        .requires_grad_()
    )
    expected = geometry.convolve(x, dense)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(fast(x.detach()), expected.detach(), rtol=0, atol=1e-12)
    expected.backward(grad)
    torch.testing.assert_close(fast.adjoint(grad, x.shape), x.grad, rtol=0, atol=1e-12)


def layers(offset: Offset) -> dict[str, tuple[DensePlusSparse, Tensor]]:
    options: dict[str, Any] = {"offset": offset}
    return {
        "linear": (linear(**options), torch.randn(3, 20).double()),
        "kernel": (convolution(kernel_size=3, padding=1, **options), torch.randn(2, 4, 5, 4).double()),
    }


# Checkpoints and the rule.


@pytest.mark.parametrize("kind", [SignedDCTOffset, HadamardOffset])
@pytest.mark.parametrize("name", ["linear", "kernel"])
def test_a_checkpoint_holds_the_seed_and_refuses_another(kind: Any, name: str) -> None:
    first, x = layers(kind(5))[name]
    state = first.state_dict()
    assert (
        sum(t.numel() for key, t in state.items() if key != "_extra_state")
        == 2 * first.nnz + 1 + first.shape[0]
    )
    twin, _ = layers(kind(5))[name]
    twin.values.data.zero_()
    twin.load_state_dict(state)
    assert torch.equal(twin(x), first(x))
    other, _ = layers(kind(6))[name]
    with pytest.raises(
        RuntimeError, match=rf"`offset` must be {kind.name}\(seed=5.* got a layer with .*seed=6"
    ):
        other.load_state_dict(state)


def test_the_order_counts_for_kernels_only() -> None:
    orders = [SignedDCTOffset(2, order) for order in ("hwc", "chw")]  # type: ignore[arg-type]
    for shape, same in {(4, 6): True, (4, 6, 1, 1): True, (4, 6, 3, 3): False}.items():
        options = [offset.options(torch.Size(shape)) for offset in orders]
        assert (options[0] == options[1]) == same
        assert torch.equal(matrix(orders[0], *shape), matrix(orders[1], *shape)) == same


@pytest.mark.parametrize("name", ["signed_dct", "hadamard"])
def test_they_are_known_by_name(name: str) -> None:
    assert OFFSETS[name]().options(torch.Size((4, 6))) == {"seed": 0}
    large, small = torch.Size((4096, 4096)), torch.Size((64, 64))
    choices = [choose_backend(shape, 1000, 128, CPU, 1, offset=name) for shape in (large, small)]
    assert choices == ["transform", "materialize"]


def test_kernels_without_a_fast_form_are_never_said_to_have_a_time() -> None:
    assert HadamardOffset().transform_time(torch.Size((512, 512, 3, 3)), 512, 1) == math.inf
