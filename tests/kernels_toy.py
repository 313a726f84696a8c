"""What tests of transforms by kernels share: devices, how exact they must be, and what kernels can do."""

from collections.abc import Mapping

import pytest
import torch
from devices import KERNEL_DEVICES
from torch import Tensor

from lightning_sparse.layers.kernels.dct_factored import Factored

AT_MOST = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
"""The largest relative error, by precision."""

if torch.cuda.is_available():
    AT_MOST[torch.float32] = 3e-6  # three products in TF32 leave out that of the last digits

on_devices = pytest.mark.parametrize("device", KERNEL_DEVICES)


def error(found: Tensor, exact: Tensor) -> float:
    """The norm of the difference over that of what is exact."""
    assert found.shape == exact.shape
    return float((found.double() - exact).norm() / exact.norm())


def check_splits(*tables: Mapping[int, Factored]) -> None:
    """Splits are of their size, and as kernels can."""
    for size, shape in (item for table in tables for item in table.items()):
        assert shape.size == size
        assert min(shape.left, shape.right) >= 16
        for number in (shape.left, shape.right, shape.block, shape.warps):
            assert number & (number - 1) == 0
