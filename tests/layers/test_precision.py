from typing import Any

import pytest
import torch
from layers_toy import BACKENDS, CONVOLUTIONS, OFFSETS, convolution, dense_twin, inputs_of, linear, results
from torch import Tensor


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def compare_roughly(rough: dict[str, Tensor], exact: dict[str, Tensor], tolerance: float) -> None:
    for name, tensor in exact.items():
        scale = (
            tensor.norm() if name != "alpha" else exact["y"].norm()
        )  # alpha's gradient is a sum that cancels
        assert (rough[name] - tensor).norm() < tolerance * scale, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", OFFSETS, ids=str)
def test_autocast(backend: str, offset: Any) -> None:
    options: dict[str, Any] = {"dtype": torch.float32, "backend": backend, "offset": offset}
    for layer, x in [
        (linear(256, 256, 600, **options), torch.randn(8, 256)),
        *(
            (
                convolution(dimensions=d, kernel_size=3, padding=1, **options),
                inputs_of(d, dtype=torch.float32),
            )
            for d in CONVOLUTIONS
        ),
    ]:
        exact = results(layer, x)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
            assert y.dtype == torch.bfloat16
            rough = results(layer, x)
        for name in exact:
            assert rough[name].dtype == (torch.bfloat16 if name == "y" else torch.float32)
        compare_roughly(rough, exact, 0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_precision_with_a_scaler(backend: str) -> None:
    layer = linear(64, 64, 300, torch.float32, backend=backend)
    before, x = layer.values.detach().clone(), torch.randn(8, 64)
    layer(x).square().mean().backward()
    exact = layer.values.grad.clone()
    layer.zero_grad()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with torch.autocast("cpu", torch.float16):
        loss = layer(x).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    step = before - layer.values.detach()
    assert (step - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_is_that_of_a_dense_layer_with_masked_gradients(backend: str) -> None:
    layer = linear(backend=backend, alpha_requires_grad=False)
    dense, support = dense_twin(layer), layer.support()
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.1) for net in (layer, dense)]
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        x = torch.randn(6, 20, generator=generator, dtype=torch.float64)
        for net, optimizer in zip((layer, dense), optimizers, strict=True):
            optimizer.zero_grad()
            net(x).sin().sum().backward()
            if net is dense:
                dense.weight.grad.mul_(support)
            optimizer.step()
    torch.testing.assert_close(layer.weight, dense.weight)
    torch.testing.assert_close(layer.bias, dense.bias)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_layers(backend: str) -> None:
    layer = linear(256, 256, 600, torch.float32, backend=backend)
    x = torch.randn(8, 256).bfloat16()
    exact = results(layer, x.float())
    rough = results(layer.bfloat16(), x)
    assert {tensor.dtype for tensor in rough.values()} == {torch.bfloat16}
    compare_roughly(rough, exact, 0.03)
