"""Layers on every device and in every precision, against the same layers on the CPU in float64."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from devices import DEVICES
from layers_toy import BACKENDS, OFFSETS, convolution, dense_twin, inputs_of, linear, results
from torch import Tensor, nn

from lightning_sparse.functional.dct import dct_plan
from lightning_sparse.layers import DensePlusSparse, compact_layers, convert_, lsuv_, to_dense_
from lightning_sparse.layers.support import draw_support
from lightning_sparse.layers.transformed_linear import add_in_order_

DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}
GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "groups": 2, "padding": 1, "dilation": (1, 2)},
    {"kernel_size": 3, "padding": "same", "padding_mode": "circular"},
    {"kernel_size": 1},
    {"dimensions": 1, "kernel_size": 5, "padding": 2, "stride": 2},
    {"dimensions": 3, "kernel_size": (2, 1, 3), "padding": 1},
]


@pytest.fixture(autouse=True)
def exactly():
    """Convolutions on a GPU are in TF32 otherwise."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def compare(layer: DensePlusSparse, x: Tensor, device: str, dtype: torch.dtype) -> None:
    """What is rounded before it is multiplied is rounded in what it is compared with as well."""
    rounded, x = deepcopy(layer).to(dtype), x.to(dtype)
    expected = results(deepcopy(rounded).double(), x.double())
    found = results(rounded.to(device), x.to(device))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].device.type, found[name].dtype) == (device, dtype), name
        # Alpha's gradient is a sum that cancels: what is rounded are its terms.
        size = expected["y"].norm() * 10 if name == "alpha" else tensor.norm()
        error = (found[name].cpu().double() - tensor).norm() / size.clamp(min=1)
        assert error < DTYPES[dtype], (name, float(error))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", OFFSETS, ids=str)
def test_linear_layers(offset: Any, backend: str, dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for inputs, outputs, k in [(20, 17, 0), (20, 17, 1), (20, 17, 60), (64, 96, 6000), (300, 100, 2000)]:
        layer = linear(inputs, outputs, k, backend=backend, offset=offset)
        for rows in (1, 7, 33):
            compare(layer, torch.randn(rows, inputs, generator=generator).double(), device, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", OFFSETS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolutions(
    geometry: dict[str, Any], offset: Any, backend: str, dtype: torch.dtype, device: str
) -> None:
    layer = convolution(backend=backend, offset=offset, **geometry)
    compare(layer, inputs_of(layer.dimensions), device, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", OFFSETS, ids=str)
def test_constants_are_right_whatever_the_default_device_is(offset: Any, backend: str) -> None:
    """As in `configure_model`, which Lightning calls with the GPU as the default."""
    for layer, x in (
        (linear(backend=backend, offset=offset), torch.randn(3, 20, dtype=torch.float64)),
        (convolution(backend=backend, offset=offset, kernel_size=3), inputs_of(2)),
        (convolution(backend=backend, offset=offset, kernel_size=1), inputs_of(2)),
    ):
        dct_plan.cache_clear()
        with torch.device("meta"):
            found = layer(x)
        torch.testing.assert_close(found, dense_twin(layer)(x))


@pytest.mark.parametrize("offset", ["dct", "signed_dct", "hadamard", "none", "pretrained"])
def test_conversion_under_another_default_device(offset: str) -> None:
    ours, usual = net(), net()
    dct_plan.cache_clear()
    with torch.device("meta"):
        convert_(ours, 0.1, offset=offset)
    convert_(usual, 0.1, offset=offset)
    torch.testing.assert_close(ours.state_dict(), usual.state_dict())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", OFFSETS, ids=str)
def test_results_do_not_change_from_run_to_run(offset: Any, backend: str, device: str) -> None:
    """Or a resumed run would not be the one that was not interrupted; many values meet one output."""
    generator = torch.Generator().manual_seed(1)
    for layer, x in (
        (linear(200, 4, 51, torch.float32, backend=backend, offset=offset), (300, 200)),
        (linear(200, 40, 900, torch.float32, backend=backend, offset=offset), (300, 200)),
        (convolution(dtype=torch.float32, backend=backend, offset=offset, kernel_size=3), (9, 4, 16, 16)),
        (convolution(dtype=torch.float32, backend=backend, offset=offset, kernel_size=1), (9, 4, 16, 16)),
    ):
        some = torch.randn(x, generator=generator).to(device)
        first = results(layer.to(device), some)
        first = {name: tensor.clone() for name, tensor in first.items()}
        for _ in range(3):
            again = results(layer, some)
            assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_columns_are_added_on_a_gpu_as_on_a_cpu() -> None:
    places, columns = torch.randint(5, (40,), dtype=torch.int32), torch.randn(7, 40, dtype=torch.float64)
    for y in (torch.randn(7, 5, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64).t()):
        for some in (slice(None), slice(0)):
            expected = y.clone().index_add_(1, places[some], columns[:, some])
            assert add_in_order_(y, places[some], columns[:, some]) is y
            torch.testing.assert_close(y, expected)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    return nn.Sequential(*layers).double()


def images() -> Tensor:
    return torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


def place_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", ["pretrained", "none"])
def test_layers_that_start_from_the_weight(offset: str, backend: str, device: str) -> None:
    converted = [net().to(place) for place in ("cpu", device)]
    for module in converted:
        convert_(module, 0.1, offset=offset, backend=backend, generator=0)
    theirs, ours = (results(module, images().to(place_of(module))) for module in converted)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].cpu(), tensor, rtol=1e-10, atol=1e-10)
    for module in converted:
        to_dense_(module)
    assert all(parameter.device.type == device for parameter in converted[1].parameters())
    torch.testing.assert_close(converted[1].cpu().state_dict(), converted[0].state_dict())


@pytest.mark.parametrize("device", DEVICES)
def test_scales_from_a_batch(device: str) -> None:
    scales = []
    for place in ("cpu", device):
        module, x = net().to(place), images().to(place)
        convert_(module, 0.1, offset="signed_dct", generator=0)
        lsuv_(module, lambda module=module, x=x: module(x))
        scales.append([layer.alpha.item() for layer in compact_layers(module).values()])
    assert scales[1] == pytest.approx(scales[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_supports_that_have_moved(backend: str, device: str) -> None:
    """Products are built anew for them, on the device of the layer."""
    module = net()
    convert_(module, 0.1, offset="none", backend=backend, generator=0)
    twin = deepcopy(module).to(device)
    for place, some in (("cpu", module), (device, twin)):
        some(images().to(place)).sum().backward()  # whatever is kept for the old support is there
        for layer in compact_layers(some).values():
            size = layer.shape.numel()
            layer.move_(draw_support(size, layer.nnz, torch.Generator().manual_seed(size)).to(place))
            layer.values.data.copy_(torch.linspace(-1, 1, layer.nnz))
    theirs, ours = results(module, images()), results(twin, images().to(device))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].cpu(), tensor, rtol=1e-10, atol=1e-10)
