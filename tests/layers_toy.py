"""Small Dense-plus-Sparse layers, and the ordinary layers that they must equal."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.layers import (
    DCTOffset,
    DensePlusSparse,
    DensePlusSparseConv1d,
    DensePlusSparseConv2d,
    DensePlusSparseConv3d,
    DensePlusSparseLinear,
    HadamardOffset,
    NoOffset,
    SignedDCTOffset,
    compact_layers,
    to_dense_,
)
from lightning_sparse.layers.support import draw_support

BACKENDS = ["materialize", "transform"]
OFFSETS = [DCTOffset(), DCTOffset("chw"), NoOffset(), SignedDCTOffset(1), HadamardOffset(1)]
CONVOLUTIONS = {1: DensePlusSparseConv1d, 2: DensePlusSparseConv2d, 3: DensePlusSparseConv3d}
SIDES = {1: (9,), 2: (9, 8), 3: (5, 6, 4)}
"""Of the inputs that tests give to convolutions."""


def filled(layer: Any, generator: torch.Generator) -> Any:
    for parameter in (layer.values, layer.bias):
        if parameter is not None:
            parameter.data.normal_(generator=generator)
    return layer


def linear(n: int = 20, m: int = 17, k: int = 60, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(n * m + k)
    layer = DensePlusSparseLinear(n, m, draw_support(n * m, k, generator), alpha=0.7, dtype=dtype, **options)
    return filled(layer, generator)


def convolution(
    density: float = 0.3, dtype: torch.dtype = torch.float64, dimensions: int = 2, **options: Any
) -> Any:
    given = options["kernel_size"]
    kernel = given if isinstance(given, tuple) else (given,) * dimensions
    size = 8 * (4 // options.get("groups", 1)) * math.prod(kernel)
    generator = torch.Generator().manual_seed(size)
    support = draw_support(size, math.ceil(density * size), generator)
    layer = CONVOLUTIONS[dimensions](4, 8, indices=support, alpha=0.7, dtype=dtype, **options)
    return filled(layer, generator)


def inputs_of(dimensions: int, batch: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, *SIDES[dimensions], generator=generator, dtype=dtype)


def dense_twin(layer: DensePlusSparse) -> nn.Module:
    net = nn.Sequential(copy.deepcopy(layer))
    to_dense_(net)
    return net[0]


def results(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output and gradients for a fixed functional of the output, by name."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(y)
    layer.zero_grad()
    (y * weights).sum().backward()
    grads = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **grads}


class Block(nn.Module):
    """A little of everything: groups, paddings, biases or none, attention, one layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same", padding_mode="circular")
        self.depthwise = nn.Conv2d(8, 8, (3, 5), stride=2, padding=(1, 2), groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 16, 1, dilation=2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.again = nn.Linear(16, 16)
        self.twice = nn.Sequential(self.again, nn.ReLU(), self.again)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.norm(self.depthwise(self.stem(x)))).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.twice(x).mean(1))


def fill_(net: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for layer in compact_layers(net).values():
        layer.values.data.normal_(generator=generator)
