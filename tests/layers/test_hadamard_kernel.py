"""The Hadamard transform by a kernel against the offset's matrix in float64: on a GPU, or interpreted."""

import pytest
import torch
from kernels_toy import AT_MOST, check_splits, error, on_devices
from torch import Tensor

pytest.importorskip("triton")

from lightning_sparse.layers.kernels import hadamard as hadamard_module
from lightning_sparse.layers.kernels.dct_factored import Factored
from lightning_sparse.layers.kernels.hadamard import HALF_SHAPES, SHAPES, hadamard_rows, runs_hadamard
from lightning_sparse.layers.offsets import HadamardOffset
from lightning_sparse.layers.offsets.signs import SignedMap, random_signs

CROPS = [
    (256, 256, None),
    (100, 256, None),
    (256, 129, None),
    (400, 300, None),
    (512, 512, Factored(16, 32, 2, 4)),
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def matrix_and_signs(outputs: int, inputs: int, device: str) -> tuple[Tensor, Tensor]:
    shape = torch.Size((outputs, inputs))
    exact = HadamardOffset(3).matrix(shape, torch.float64, torch.device(device))
    return exact, random_signs(inputs, 3, "inputs", shape, torch.float32, device)


@on_devices
@pytest.mark.parametrize("dtype", AT_MOST)
@pytest.mark.parametrize(("outputs", "inputs", "shape"), CROPS)
def test_rows_are_those_of_the_matrix(
    outputs: int, inputs: int, shape: Factored | None, dtype: torch.dtype, device: str
) -> None:
    exact, signs = matrix_and_signs(outputs, inputs, device)
    size = 256 if max(outputs, inputs) <= 256 else 512
    wide = torch.full((11, 600), torch.nan, device=device)
    for adjoint, expected in ((False, exact.t()), (True, exact)):
        taken, made = expected.shape
        x = wide.to(dtype)[:, 5 : taken + 5].copy_(torch.randn(11, taken))
        y = hadamard_rows(x, signs, made, size, adjoint, shape=shape)
        assert y.dtype == dtype
        assert error(y, x.double() @ expected) < AT_MOST[dtype]


@on_devices
def test_no_rows_and_constant_rows(device: str) -> None:
    exact, signs = matrix_and_signs(256, 256, device)
    assert hadamard_rows(torch.ones(0, 256, device=device), signs, 256, 256).shape == (0, 256)
    for rows in (1, 33):
        x = (100 * signs).repeat(rows, 1).half()  # all of it in the first output: 1600
        assert error(hadamard_rows(x, signs, 256, 256), x.double() @ exact.t()) < 1e-3


@on_devices
def test_the_offset_takes_it_where_it_is_told_to(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU never does; nor does float64, or a size without kernels."""
    on, shape = torch.device(device), torch.Size((300, 200))
    monkeypatch.setattr(hadamard_module, "ON_CUDA", "kernel")
    fast = HadamardOffset().transform(shape, None, torch.float32, on)
    assert isinstance(fast, SignedMap) == (device == "cpu")
    x, exact = torch.randn(4, 200, device=device), HadamardOffset().matrix(shape, torch.float64, on)
    assert error(fast(x), x.double() @ exact.t()) < 3e-6
    g = torch.randn(4, 300, device=device)
    assert error(fast.adjoint(g, x.shape), g.double() @ exact) < 3e-6
    assert runs_hadamard(512, torch.float32, on, "kernel")
    assert not runs_hadamard(512, torch.float32, on, "plain")
    assert not runs_hadamard(512, torch.float64, on, "kernel")
    assert not runs_hadamard(128, torch.float32, on, "kernel")


def test_splits_are_of_their_size_and_as_the_kernel_can() -> None:
    check_splits(SHAPES, HALF_SHAPES)
