import gc

import numpy as np
import pytest
import scipy.fft
import torch
from devices import DEVICES
from torch import Tensor

from lightning_sparse.functional.dct import _SHARED, dct, dct_adjoint, dct_matrix, dct_plan
from lightning_sparse.functional.dct_factors import dct_factors, dct_twiddles, makhoul_order
from lightning_sparse.functional.hadamard import sylvester

PRIMES = [601, 1009, 2053, 3001, 4093, 4099]
SIZES = [*range(1, 601), *PRIMES, 1024, 4096]


def reference(x: Tensor, size: int) -> Tensor:
    """scipy's orthonormal DCT-II of the zero-padded input, in float64."""
    return torch.from_numpy(scipy.fft.dct(x.double().numpy(), type=2, n=size, norm="ortho"))


def reference_adjoint(y: Tensor, size: int) -> Tensor:
    return torch.from_numpy(scipy.fft.dct(y.double().numpy(), type=3, n=size, norm="ortho"))


def crops(q: int) -> list[tuple[int, int]]:
    """(out, in) around the places where the fast transform takes another path."""
    shapes = {(q, q), (1, q), (q, 1), (q // 2, q), (q // 2 + 1, q), (q, q // 2), (q, (q + 1) // 2)}
    return sorted((m, n) for m, n in shapes if min(m, n) >= 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("device", DEVICES)
def test_the_fast_transform_is_scipys(device: str, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for q in SIZES:
        for m, n in crops(q):
            x, y = (
                torch.randn(2, n, generator=generator).to(dtype),
                torch.randn(2, m, generator=generator).to(dtype),
            )
            forward, adjoint = dct(x.to(device), m).cpu(), dct_adjoint(y.to(device), n).cpu()
            assert forward.dtype == adjoint.dtype == dtype
            assert (forward.shape, adjoint.shape) == ((2, m), (2, n))
            errors = (
                (forward - reference(x, q)[:, :m]).norm() / x.norm(),
                (adjoint - reference_adjoint(y, q)[:, :n]).norm() / y.norm(),
            )
            worst = max(worst, *(float(e) for e in errors))
            assert max(errors) < tolerance, (q, m, n, errors)
    assert worst > 0  # something was compared


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 1), (1, 3), (12, 40), (40, 12), (24, 24), (300, 784), (7, 4099)]
)
def test_the_matrix_is_scipys(shape: tuple[int, int]) -> None:
    m, n = shape
    expected = scipy.fft.dct(np.eye(max(shape)), type=2, norm="ortho", axis=0)[:m, :n]
    assert np.abs(dct_matrix(m, n, torch.float64).numpy() - expected).max() < 1e-14
    single = dct_matrix(m, n)
    assert single.dtype == torch.float32
    assert single.is_contiguous()
    assert np.abs(single.numpy() - expected).max() < 1e-7  # rounded once


def test_the_shorter_side_is_orthonormal() -> None:
    for m, n in [(5, 9), (9, 5), (8, 8)]:
        matrix = dct_matrix(m, n, torch.float64)
        gram = matrix @ matrix.T if m <= n else matrix.T @ matrix
        torch.testing.assert_close(gram, torch.eye(min(m, n), dtype=torch.float64), atol=1e-14, rtol=0)


@pytest.mark.parametrize("shape", [(2, 3, 10), (10,), (0, 10), (4, 0, 10)])
def test_leading_dimensions_are_batch_dimensions(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    y = dct(x, 7)
    torch.testing.assert_close(y, x @ dct_matrix(7, 10, torch.float64).T)
    torch.testing.assert_close(dct_adjoint(y, 10), y @ dct_matrix(7, 10, torch.float64))


def test_bfloat16_is_computed_in_float32() -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    y = dct(x, 32)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, dct(x.float(), 32).bfloat16())
    assert torch.equal(dct_adjoint(y, 64), dct_adjoint(y.float(), 64).bfloat16())


def test_a_matrix_is_built_once_and_lives_as_long_as_it_is_held() -> None:
    first = dct_matrix(11, 13)
    assert dct_matrix(11, 13) is first
    assert dct_matrix(11, 13, torch.float64) is not first
    key = ("dct", 11, 13, torch.float32, torch.device("cpu"))
    assert key in _SHARED
    del first
    gc.collect()
    assert key not in _SHARED


def test_a_matrix_on_the_meta_device_has_only_a_shape() -> None:
    matrix = dct_matrix(2**16, 2**17, device="meta")
    assert (matrix.shape, matrix.is_meta) == ((2**16, 2**17), True)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (-1, 3)])
def test_sizes_must_be_positive(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"must be 1 or more, got"):
        dct_matrix(*sizes)


def test_an_empty_last_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="`out_features` and `in_features` must be 1 or more, got 3, 0"):
        dct(torch.zeros(2, 0), 3)
    with pytest.raises(ValueError, match="`out_features` and `in_features` must be 1 or more, got 0, 3"):
        dct_adjoint(torch.zeros(2, 0), 3)


def test_constants_are_made_on_the_cpu_whatever_the_default_device_is() -> None:
    """They are the same everywhere then; a default device is what `configure_model` is called with."""
    dct_plan.cache_clear()
    with torch.device("meta"):
        plan = dct_plan(12, torch.float64, torch.device("cpu"))
        matrix = dct_matrix(5, 11, torch.float64)
        constants = [*dct_factors(3, 4), *dct_twiddles(12), makhoul_order(12), sylvester(4)]
        assert all(constant.device.type == "cpu" for constant in constants)
    x = torch.randn(2, 11, dtype=torch.float64)
    torch.testing.assert_close(matrix @ x.t(), reference(x, 11)[:, :5].t())
    torch.testing.assert_close(plan.forward(x, 12), reference(x, 12))
