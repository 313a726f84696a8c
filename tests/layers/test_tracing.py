"""What ``torch.jit.trace`` and the old exporter to ONNX write down of converted layers."""

import pytest
import torch
from torch import nn

from lightning_sparse.layers import convert_

OFFSETS = ["dct", "none", "pretrained", "hadamard"]
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
    "ignore::torch.jit.TracerWarning",
)


def converted(offset, backend="auto"):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2, padding="same", padding_mode="reflect"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    convert_(net, 0.2, offset=offset, backend=backend)
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)
    return net.eval()


def images(batch):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_trace_computes_the_same(offset):
    net = converted(offset, "transform")
    traced = torch.jit.trace(net, images(2))
    torch.testing.assert_close(traced(images(5)), net(images(5)))


def test_a_trace_reads_values_and_is_differentiable():
    net = converted("dct", "materialize").train()
    traced = torch.jit.trace(net, images(2))
    gradients = []
    for one in (net, traced):
        net.zero_grad()
        one(images(3)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        net[5].values.mul_(2)
        net[5].alpha.fill_(0.5)
    torch.testing.assert_close(traced(images(3)), net(images(3)))


def test_constants_are_not_traced_and_a_layer_stays_as_it_was():
    """The first product of a layer may be built while it is traced."""
    traced, net = torch.jit.trace(converted("dct"), images(2)), converted("dct")
    assert "scatter" in str(traced.inlined_graph)
    assert "cos" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(images(4)), net(images(4)))
    net(images(4)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_attention_reads_the_weight_itself():
    net = nn.Sequential(nn.MultiheadAttention(8, 2))
    convert_(net, 0.5, include=["0.out_proj.weight"])

    class Self(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = net[0].train()

        def forward(self, x):
            return self.attention(x, x, x)[0]

    x = torch.randn(5, 3, 8)
    torch.testing.assert_close(torch.jit.trace(Self(), x)(x), Self()(x))


@pytest.mark.parametrize("offset", ["dct", "none"])
def test_the_old_exporter_writes_the_same(offset, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    net, path = converted(offset), str(tmp_path / "net.onnx")
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(net, (images(2),), path, dynamo=False, **names)
    (out,) = runtime.InferenceSession(path).run(None, {"x": images(5).numpy()})
    torch.testing.assert_close(torch.from_numpy(out), net(images(5)).detach(), atol=1e-5, rtol=1e-5)
