"""Sparse convolutions row by row, against the dense ones in float64."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layers_toy import results
from torch import Tensor

from lightning_sparse.layers import DensePlusSparseConv2d
from lightning_sparse.layers.correlation import Correlation, _copy_shifted
from lightning_sparse.layers.support import draw_support


def test_a_row_by_hand() -> None:
    """Output 0 adds twice the pixel to the right in channel 1; output 1 takes a pixel of channel 0 itself."""
    outputs, channels, at = torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([[1], [0]])
    found = Correlation(outputs, channels, at, (2, 2), (1,))
    inputs = torch.tensor([[[1.0], [2.0], [3.0]], [[10.0], [20.0], [30.0]]])  # 2 channels, 3 pixels, 1 image
    sums = found.apply(found.bags.weighted(torch.tensor([2.0, -1.0])), inputs, (3,))
    assert sums.flatten(1).tolist() == [[40.0, 60.0, 0.0], [-1.0, -2.0, -3.0]]
    grad = torch.tensor([[[1.0], [1.0], [1.0]], [[0.0], [1.0], [0.0]]])
    assert found.sample(grad, inputs).tolist() == [50.0, 2.0]


@pytest.mark.parametrize("shift", [-5, -2, -1, 0, 1, 3, 6])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_copies_are_zero_outside(shift: int, step: int) -> None:
    source = torch.arange(1.0, 5.0).view(1, 4)
    target = torch.full((1, 3), torch.nan)
    _copy_shifted(target, source, (shift,), (step,))
    places = [p * step + shift for p in range(3)]
    assert target.flatten().tolist() == [float(p + 1) if 0 <= p < 4 else 0.0 for p in places]


GEOMETRIES: list[dict[str, Any]] = [
    {"padding": 1},
    {"padding": (0, 2), "stride": (2, 1)},
    {"padding": 1, "stride": 3},  # some pixels meet no place of the kernel
    {"padding": 2, "dilation": (2, 3)},
    {"padding": 1, "stride": 2, "dilation": 2},  # one phase meets all, three none
    {"padding": (3, 0), "stride": 4, "groups": 2},  # more steps than places
]


@pytest.mark.parametrize("k", [0, 1, 3, 40, 432])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_any_number_of_values_is_the_dense_convolution(geometry: dict[str, Any], k: int) -> None:
    """Few values are taken as one row, more by rows with lines picked, all without picking."""
    in_group = 8 // geometry.get("groups", 1)
    shape, generator = (6, in_group, 3, 3), torch.Generator().manual_seed(k)
    k = min(k, math.prod(shape))
    indices = draw_support(math.prod(shape), k, generator)
    layer = DensePlusSparseConv2d(
        8, 6, 3, indices, offset="none", backend="transform", dtype=torch.float64, **geometry
    )
    layer.values.data.normal_(generator=generator)
    x = torch.randn(3, 8, 7, 9, generator=generator, dtype=torch.float64)
    found = results(layer, x)
    weight = torch.zeros(shape, dtype=torch.float64)
    weight.view(-1)[indices] = layer.values.detach()
    expected = results(_Dense(weight, layer.bias.detach(), geometry), x)
    torch.testing.assert_close(found["y"], expected["y"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found["x"], expected["x"], rtol=1e-10, atol=1e-10)
    sampled = expected["weight"].flatten()[indices]
    torch.testing.assert_close(found["values"], sampled, rtol=1e-10, atol=1e-10)


class _Dense(torch.nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor, geometry: dict[str, Any]) -> None:
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, **self.geometry)


def test_only_lines_that_are_met_are_laid_out() -> None:
    outputs, channels = torch.tensor([0, 1, 2]), torch.tensor([5, 5, 63])
    at = torch.tensor([[0, 0], [0, 0], [1, -1]])
    found = Correlation(outputs, channels, at, (4, 64), (1, 1))
    assert (found.in_one_row, found.lines) == (True, 2)
    entries = torch.arange(4 * 64)
    whole = Correlation(entries // 64, entries % 64, torch.zeros(256, 2).long(), (4, 64), (1, 1))
    assert (whole.in_one_row, whole.lines, whole.picked) == (False, 64, None)


@pytest.mark.parametrize("side", [2, 9])  # images of 4 and of 81 pixels are laid out differently
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_kernels_of_one_place(side: int, stride: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(side)
    shape = (6, 8 // groups, 1, 1)
    indices = draw_support(math.prod(shape), 11, generator)
    layer = DensePlusSparseConv2d(
        8, 6, 1, indices, stride, groups=groups, offset="none", backend="transform", dtype=torch.float64
    )
    layer.values.data.normal_(generator=generator)
    x = torch.randn(3, 8, side, side, generator=generator, dtype=torch.float64)
    weight = torch.zeros(shape, dtype=torch.float64)
    weight.view(-1)[indices] = layer.values.detach()
    dense = _Dense(weight, layer.bias.detach(), {"stride": stride, "groups": groups})
    found, expected = results(layer, x), results(dense, x)
    expected["values"] = expected.pop("weight").flatten()[indices]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_same_sums_every_time() -> None:
    generator = torch.Generator().manual_seed(0)
    indices = draw_support(16 * 16 * 9, 300, generator)
    layer = DensePlusSparseConv2d(16, 16, 3, indices, padding=1, offset="none", backend="transform")
    layer.values.data.normal_(generator=generator)
    x = torch.randn(4, 16, 8, 8, generator=generator)
    first, second = results(layer, x), results(layer, x)
    assert all(torch.equal(first[name], second[name]) for name in first)
