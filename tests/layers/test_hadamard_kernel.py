"""The Hadamard transform by a kernel against the offset's matrix in float64: on a GPU, or interpreted."""

import pytest
import torch
from devices import KERNEL_DEVICES
from torch import Tensor

pytest.importorskip("triton")

from lightning_sparse.layers.kernels import hadamard as hadamard_module
from lightning_sparse.layers.kernels.dct_factored import Factored
from lightning_sparse.layers.kernels.hadamard import HALF_SHAPES, SHAPES, hadamard_rows, runs_hadamard
from lightning_sparse.layers.kernels.launching import Epilogue
from lightning_sparse.layers.offsets import HadamardOffset
from lightning_sparse.layers.offsets.signs import SignedMap, random_signs

AT_MOST = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
if torch.cuda.is_available():
    AT_MOST[torch.float32] = 3e-6  # three products in TF32 leave out that of the last digits
on_devices = pytest.mark.parametrize("device", KERNEL_DEVICES)
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


def error(found: Tensor, exact: Tensor) -> float:
    assert found.shape == exact.shape
    return float((found.double() - exact).norm() / exact.norm())


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
    size, wide = (
        256 if max(outputs, inputs) <= 256 else 512,
        torch.full((11, 600), torch.nan, device=device),
    )
    for adjoint, expected in ((False, exact.t()), (True, exact)):
        taken, made = expected.shape
        x = wide.to(dtype)[:, 5 : taken + 5].copy_(torch.randn(11, taken))
        y = hadamard_rows(x, signs, made, size, adjoint, shape=shape)
        assert y.dtype == dtype
        assert error(y, x.double() @ expected) < AT_MOST[dtype]
        plus, alpha = torch.randn(11, made, device=device), torch.tensor(0.5, device=device)
        z = hadamard_rows(x, signs, made, size, adjoint, Epilogue(alpha, plus, torch.float32), shape)
        assert error(z, 0.5 * (x.double() @ expected) + plus) < AT_MOST[dtype]


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
    for shapes in (SHAPES, HALF_SHAPES):
        for size, shape in shapes.items():
            assert shape.size == size
            assert min(shape.left, shape.right) >= 16
            for number in (shape.left, shape.right, shape.block, shape.warps):
                assert number & (number - 1) == 0
