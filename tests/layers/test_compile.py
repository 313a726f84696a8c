from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from lightning_sparse.layers import compact_layers, convert_
from lightning_sparse.models import LeNet5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Net(nn.Module):
    """More layers of one class than the compiler would compile one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding="same", padding_mode="circular")
        self.fcs = nn.Sequential(*(nn.Linear(96 + i, 97 + i) for i in range(12)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fcs(self.conv(x).flatten(1))


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(2, 6, 4, padding="same"), nn.Conv1d(6, 4, 1, stride=2))
        self.fcs = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fcs(self.conv(x.flatten(2)[..., :4]).flatten(1))


class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv3d(2, 6, (1, 3, 2), padding=1, groups=2), nn.Conv3d(6, 4, 1))
        self.fcs = nn.Linear(240, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fcs(self.conv(x[:, :, None]).flatten(1))


def net_with(backend: Any, make: Any = Net) -> nn.Module:
    torch.manual_seed(0)
    net = make()
    convert_(net, 0.02 if make is Net else 0.3, backend=backend)
    for layer in compact_layers(net).values():
        nn.init.normal_(layer.values)
    return net.double()


def gradients(net: nn.Module, x: torch.Tensor, run: Any) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    net.zero_grad()
    y = run(x)
    y.sin().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("make", [Net, Sequences, Volumes])
@pytest.mark.parametrize("backend", ["materialize", "transform", "auto"])
def test_one_graph_without_breaks_and_without_recompiling(backend: str, make: Any) -> None:
    torch._dynamo.reset()
    net = net_with(backend, make)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for seed in range(3):
        x = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(gradients(net, x, compiled), gradients(net, x, net))
        with torch.no_grad():  # what an optimizer does
            for p in net.parameters():
                p.add_(0.1)
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="an older PyTorch cannot be told")
def test_cuda_graphs_leave_the_operators_out() -> None:
    """A replay would write to constants that the warm-up made, and never be asked for a dense gradient."""
    operators = torch.ops.lightning_sparse
    for operator in (operators.multiply, operators.multiply_backward):
        assert torch.Tag.cudagraph_unsafe in operator.default.tags


def test_inductor_trains_a_net() -> None:
    torch._dynamo.reset()
    net = LeNet5()
    convert_(net, 0.05, backend="transform")
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(
        gradients(net, x, torch.compile(net)), gradients(net, x, net), rtol=1e-4, atol=1e-5
    )
    torch._dynamo.reset()


def test_frozen_inputs_autocast_and_the_dense_gradient() -> None:
    torch._dynamo.reset()
    net = net_with("transform").float()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 2, 4, 4)
    layer = compact_layers(net)["fcs.3"]
    layer.ask_for_dense_grad()
    with torch.autocast("cpu", torch.bfloat16):
        y = compiled(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    found = layer.dense_grad().flatten()[layer.indices.long()]
    torch.testing.assert_close(found.float(), layer.values.grad, rtol=0.05, atol=0.05)
    torch._dynamo.reset()


def test_the_weight_may_be_read_in_compiled_code() -> None:
    torch._dynamo.reset()
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    convert_(attention, 0.5)
    x = torch.randn(2, 3, 8)
    run = torch.compile(lambda x: attention(x, x, x)[0], backend="aot_eager")
    torch.testing.assert_close(
        gradients(attention, x, run), gradients(attention, x, lambda x: attention(x, x, x)[0])
    )
    torch._dynamo.reset()
