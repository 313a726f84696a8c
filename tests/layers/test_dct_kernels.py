"""The DCT by kernels against its matrix in float64: on a GPU, or in Triton's interpreter without one."""

from functools import partial
from typing import Any

import pytest
import torch
from kernels_toy import AT_MOST, check_splits, error, on_devices
from layers_toy import dense_twin, results
from torch import Tensor

pytest.importorskip("triton")

from lightning_sparse.functional.dct import DCTPlan, dct_matrix, dct_plan
from lightning_sparse.functional.dct_factors import dct_factors, makhoul_order
from lightning_sparse.layers import DensePlusSparseLinear
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.kernels import dct as dct_module
from lightning_sparse.layers.kernels.dct import KernelDCT, dct_rows
from lightning_sparse.layers.kernels.dct_factored import HALF_SHAPES, SHAPES, Factored, factored_shape
from lightning_sparse.layers.offsets import DCTOffset, SignedDCTOffset
from lightning_sparse.layers.offsets import dct as offset_module
from lightning_sparse.layers.support import draw_support

in_precisions = pytest.mark.parametrize("dtype", AT_MOST)

FORMS = [
    KernelDCT(256, "factored"),
    KernelDCT(512, "factored", Factored(16, 32, 2, 4)),
    KernelDCT(1024, "factored"),
    KernelDCT(256, "fused"),
    KernelDCT(250, "fused"),
    KernelDCT(33, "fused"),
    KernelDCT(1, "fused"),
    KernelDCT(300, "factored"),  # not a power of two: as "fused"
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def matrix(size: int, device: str) -> Tensor:
    return dct_matrix(size, size, torch.float64, device)


@on_devices
@in_precisions
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_are_those_of_the_matrix(form: KernelDCT, dtype: torch.dtype, device: str) -> None:
    x, exact = torch.randn(9, form.size, device=device).to(dtype), matrix(form.size, device)
    for found, expected in ((form.forward, exact.t()), (form.adjoint, exact)):
        y = found(x, form.size)
        assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, x.shape, True)
        assert error(y, x.double() @ expected) < AT_MOST[dtype]


@on_devices
@in_precisions
@pytest.mark.parametrize(("inputs", "outputs"), [(256, 100), (100, 256), (1, 256), (255, 129)])
@pytest.mark.parametrize("form", ["fused", "factored"])
def test_crops(form: Any, inputs: int, outputs: int, dtype: torch.dtype, device: str) -> None:
    """Nothing beyond is read or written; rows lie apart in a larger tensor."""
    plan, exact = KernelDCT(256, form), matrix(256, device)[:outputs, :inputs]
    wide = torch.full((5, 300), torch.nan, device=device, dtype=dtype)
    wide[:, 3 : inputs + 3] = torch.randn(5, inputs, device=device)
    x = wide[:, 3 : inputs + 3]
    assert error(plan.forward(x, outputs), x.double() @ exact.t()) < AT_MOST[dtype]
    wide[:, 3 : outputs + 3] = torch.randn(5, outputs, device=device)
    g = wide[:, 3 : outputs + 3]
    assert error(plan.adjoint(g, inputs), g.double() @ exact) < AT_MOST[dtype]
    transposed = g.t().contiguous().t()
    torch.testing.assert_close(plan.adjoint(transposed, inputs), plan.adjoint(g, inputs))


@on_devices
@pytest.mark.parametrize(
    "form", [KernelDCT(256, "factored"), KernelDCT(256, "fused"), KernelDCT(45, "fused")]
)
def test_the_adjoint_is_one(form: KernelDCT, device: str) -> None:
    x, g = (torch.randn(7, n, device=device) for n in (form.size, form.size // 2))
    one = (form.forward(x, form.size // 2) * g).double().sum()
    other = (x * form.adjoint(g, form.size)).double().sum()
    assert float(one) == pytest.approx(float(other), rel=1e-4, abs=1e-4)


@on_devices
@pytest.mark.parametrize("form", ["fused", "factored"])
def test_no_rows_one_and_many(form: Any, device: str) -> None:
    plan, exact = KernelDCT(256, form), matrix(256, device)
    for rows in (1, 33):
        x = torch.randn(rows, 256, device=device)
        assert error(plan.forward(x, 256), x.double() @ exact.t()) < AT_MOST[torch.float32]
        assert error(plan.adjoint(x, 256), x.double() @ exact) < AT_MOST[torch.float32]
    assert plan.forward(torch.ones(0, 256, device=device), 100).shape == (0, 100)
    assert plan.adjoint(torch.ones(0, 100, device=device), 256).shape == (0, 256)


@on_devices
@pytest.mark.parametrize("form", [KernelDCT(256, "factored"), KernelDCT(15, "fused")], ids=str)
def test_float64_goes_by_a_plan(form: KernelDCT, device: str) -> None:
    x, exact = torch.randn(5, form.size, device=device).double(), matrix(form.size, device)
    for found, expected in ((form.forward, exact.t()), (form.adjoint, exact)):
        y = found(x, form.size)
        assert y.dtype == torch.float64
        assert error(y, x @ expected) < 1e-13


@on_devices
def test_low_frequencies_do_not_drown(device: str) -> None:
    """Of constant rows all but the first frequency is rounding; half-precision sums stay in range."""
    x = torch.full((2, 4096), 100.0, device=device)
    for dtype, at_most in AT_MOST.items():
        y = KernelDCT(4096, "factored").forward(x.to(dtype), 4096).double()
        assert float((y[:, 0] / 6400 - 1).abs().max()) < at_most
        assert float(y[:, 1:].norm() / y[:, 0].norm()) < at_most


@pytest.mark.parametrize(("left", "right"), [(2, 2), (4, 8), (3, 6), (6, 3), (16, 16), (16, 8)])
def test_the_factors_make_the_matrix(left: int, right: int) -> None:
    """The formula of the docstring, in float64 and complex numbers."""
    size, f = left * right, dct_factors(left, right)
    x = torch.eye(size, dtype=torch.float64)
    v = x[:, makhoul_order(size)].view(size, left, right).to(torch.complex128)
    b = (torch.complex(f.f_re, f.f_im) @ v) * torch.complex(f.t_re, f.t_im)
    y = (b @ torch.complex(f.m_re, f.m_im)).real.transpose(1, 2).reshape(size, size)
    y[:, 0] /= 2**0.5
    torch.testing.assert_close(y.t(), dct_matrix(size, size, torch.float64), atol=1e-13, rtol=0)


def test_splits_are_of_their_size_and_as_kernels_can() -> None:
    check_splits(SHAPES, HALF_SHAPES)
    assert factored_shape(16384, torch.float32) is None
    assert factored_shape(300, torch.bfloat16) is None
    assert factored_shape(256, torch.float64) is None


def test_a_cpu_takes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever GPUs take; and float64 does everywhere."""
    monkeypatch.setattr(dct_module, "ON_CUDA", "factored")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert dct_rows(256, torch.float32, cpu) is dct_plan(256, torch.float32, cpu)
    assert isinstance(dct_rows(256, torch.float64, cpu, "factored"), DCTPlan)
    assert dct_rows(256, torch.float32, cuda) == KernelDCT(256, "factored")
    monkeypatch.setattr(dct_module, "runs_on", lambda device: False)  # no Triton
    assert isinstance(dct_rows(256, torch.float32, cpu, "factored"), DCTPlan)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let offsets take kernels on a CPU as well, which interprets them."""
    monkeypatch.setattr(offset_module, "dct_rows", partial(dct_rows, form="factored"))


@on_devices
@pytest.mark.parametrize("offset", [DCTOffset(), SignedDCTOffset()], ids=str)
def test_maps_of_offsets_take_half_precision(offset: Any, everywhere: None, device: str) -> None:
    on, shape = torch.device(device), torch.Size((256, 200))
    fast = offset.transform(shape, None, torch.float32, on)
    assert fast.takes_half
    exact = offset.matrix(shape, torch.float64, on)
    x, g = torch.randn(5, 200, device=device).bfloat16(), torch.randn(5, 256, device=device).bfloat16()
    assert fast(x).dtype == fast.adjoint(g, x.shape).dtype == torch.bfloat16
    assert error(fast(x), x.double() @ exact.t()) < 1e-2
    assert error(fast.adjoint(g, x.shape), g.double() @ exact) < 1e-2
    pixels = offset.transform(torch.Size((256, 200, 1, 1)), Convolution.plain(2), torch.float32, on)
    assert pixels.takes_half
    images = torch.randn(2, 200, 3, 3, device=device)
    kernel = offset.matrix(torch.Size((256, 200, 1, 1)), torch.float64, on)
    assert error(pixels(images), torch.conv2d(images.double(), kernel)) < AT_MOST[torch.float32]
    assert not offset.transform(shape, None, torch.float64, on).takes_half


@on_devices
def test_a_layer_with_kernels_is_the_dense_one(everywhere: None, device: str) -> None:
    support = draw_support(torch.Size((100, 256)), 500, torch.Generator().manual_seed(0))
    layer = DensePlusSparseLinear(256, 100, support, backend="transform")
    layer.values.data.normal_()
    layer, x = layer.to(device), torch.randn(7, 256, device=device)
    compact, dense = results(layer, x), results(dense_twin(layer), x)
    for name in ("y", "x"):
        torch.testing.assert_close(compact[name], dense[name], atol=1e-4, rtol=1e-5)
