"""What a converted net stores, and what outlives a training step."""

import gc
import io
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from layers_toy import CONVOLUTIONS
from torch import Tensor, nn

from lightning_sparse.functional import dct
from lightning_sparse.layers import (
    DensePlusSparseConv2d,
    DensePlusSparseLinear,
    compact_layers,
    convert_,
)
from lightning_sparse.layers.support import draw_support
from lightning_sparse.models import ResNet50

WEIGHTS = 23_520_842  # parameters of the dense ResNet-50, of 4 bytes each
DENSE = 4 * WEIGHTS


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all storages behind the tensors, each counted once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in tensors
        if t.layout == torch.strided
    }
    return sum(storages.values())


def living_tensors() -> list[Tensor]:
    gc.collect()
    real = (Tensor, nn.Parameter)  # the compiler leaves others without memory
    return [thing for thing in gc.get_objects() if type(thing) in real and not thing.is_meta]


def trained(backend: Any, images: Tensor) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = ResNet50()
    convert_(net, 1e-3, backend=backend)
    optimizer = torch.optim.Adam(net.parameters())
    net(images).logsumexp(1).sum().backward()
    optimizer.step()
    return net, optimizer


def test_resnet50_stores_two_percent() -> None:
    dct.dct_plan.cache_clear()
    before = num_bytes(living_tensors())
    images = torch.randn(2, 3, 8, 8)
    net, optimizer = trained("transform", images)
    parameters = num_bytes(net.parameters())
    gradients = num_bytes(p.grad for p in net.parameters())
    state = num_bytes(t for s in optimizer.state.values() for t in s.values())
    buffers = num_bytes(net.buffers())
    checkpoint = io.BytesIO()
    torch.save(net.state_dict(), checkpoint)
    whole = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, whole)
    assert parameters + buffers <= 0.02 * DENSE
    assert gradients <= 0.02 * DENSE
    assert state <= 0.02 * 2 * DENSE
    assert checkpoint.tell() <= 0.02 * DENSE
    assert whole.tell() <= 0.02 * 3 * DENSE
    outlives = num_bytes(living_tensors()) - before - num_bytes([images])
    # Of what outlives a step in the dense net: parameters, gradients and Adam's two; 0.8% with BatchNorm.
    assert parameters + gradients + state <= outlives <= 0.01 * 4 * DENSE


def test_auto_keeps_at_most_one_offset_per_shape() -> None:
    dct.dct_plan.cache_clear()
    before = num_bytes(living_tensors())
    images = torch.randn(2, 3, 8, 8)
    net, optimizer = trained("auto", images)
    outlives = num_bytes(living_tensors()) - before - num_bytes([images])
    shapes = {layer.shape for layer in compact_layers(net).values()}
    assert outlives <= 4 * sum(s.numel() for s in shapes) + 0.02 * 4 * DENSE
    taken = {backend for layer in compact_layers(net).values() for backend, _ in layer._products}
    assert taken == {"materialize", "transform"}  # the docs say so: between the two
    assert optimizer.state


@pytest.mark.parametrize("backend", ["materialize", "transform"])
@pytest.mark.parametrize("kind", ["linear", "convolution", "pointwise", "sequences", "volumes"])
def test_only_the_input_is_kept_for_backward(backend: Any, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    if kind == "linear":
        layer: Any = DensePlusSparseLinear(64, 96, draw_support(64 * 96, 200, generator), backend=backend)
        x = torch.randn(5, 64)
    else:
        dimensions = {"sequences": 1, "volumes": 3}.get(kind, 2)
        size = 1 if kind == "pointwise" else 3
        support = draw_support(24 * 16 * size**dimensions, 100, generator)
        layer = CONVOLUTIONS[dimensions](16, 24, size, support, backend=backend)
        x = torch.randn(2, 16, *[6] * dimensions)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x.requires_grad_())
    assert sorted(t.numel() for t in saved) == sorted([x.numel(), layer.nnz, 1])
    saved.clear()
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
        torch.no_grad(),
    ):
        layer(x)
    assert saved == []


def test_layers_of_one_shape_share_their_constants() -> None:
    for backend, kernel in [("materialize", None), ("materialize", 3), ("transform", 3)]:
        before = num_bytes(living_tensors())
        sizes = []
        layers = []
        for seed in range(3):
            support = draw_support(9216, 40, torch.Generator().manual_seed(seed))
            if kernel is None:
                layer: Any = DensePlusSparseLinear(96, 96, support, bias=False, backend=backend)
                layer(torch.zeros(1, 96))
            else:
                layer = DensePlusSparseConv2d(32, 32, 3, support, bias=False, backend=backend)
                layer(torch.zeros(1, 32, 3, 3))
            layers.append(layer)
            sizes.append(num_bytes(living_tensors()) - before)
        first, second, third = sizes[0], sizes[1] - sizes[0], sizes[2] - sizes[1]
        assert first > 6_000
        assert max(second, third) < 2_500, (backend, sizes)
        del layer, layers, support
        assert num_bytes(living_tensors()) == before  # they go with the last layer


def test_the_transform_of_one_large_kernel_keeps_little() -> None:
    before = num_bytes(living_tensors())
    support = draw_support(9 * 512 * 512, 100, torch.Generator().manual_seed(0))
    layer = DensePlusSparseConv2d(512, 512, 3, support, bias=False, backend="transform")
    layer(torch.zeros(1, 512, 3, 3)).sum().backward()
    assert num_bytes(living_tensors()) - before <= 0.02 * 4 * 4 * math.prod(layer.shape)


def test_constants_are_in_no_state_dict() -> None:
    layer = DensePlusSparseConv2d(32, 32, 3, torch.arange(40), backend="materialize")
    names = list(layer.state_dict())
    layer(torch.zeros(1, 32, 3, 3))
    assert list(layer.state_dict()) == names == ["values", "alpha", "bias", "indices", "_extra_state"]
    assert [n for n, _ in layer.named_parameters()] == ["values", "alpha", "bias"]
