"""What the benchmark of Dense-plus-Sparse layers compares: layers in all their forms, and their turns."""

import argparse
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness.runner import Sample, interleave, timed_at_length
from lightning_sparse.layers import (
    DensePlusSparse,
    DensePlusSparseConv2d,
    Offset,
    compact_layers,
    convert_,
)
from lightning_sparse.layers.backends import Backend
from lightning_sparse.layers.kernels.product import ByKernels
from lightning_sparse.layers.products import Materialized

AUTHORS = "authors'"
BACKENDS = ("auto", "materialize", "transform")  # what there is on a CPU


@dataclass(frozen=True)
class Case:
    """A layer and its input.

    Args:
        name: How tables call it.
        make: Makes the dense layer; takes ``device``.
        input_size: Size of a batch.
        bars: How much of the dense time ``auto`` may take, by density; elsewhere the general bar holds.
        features: The larger side of a linear layer; 0 for a convolution.
    """

    name: str
    make: Callable[..., nn.Module]
    input_size: tuple[int, ...]
    bars: Mapping[float, float] = field(default_factory=dict)
    features: int = 0


def linear_case(
    inputs: int, outputs: int, bars: Mapping[float, float] | None = None, rows: int = 128
) -> Case:
    """Return a linear layer."""
    make, features = partial(nn.Linear, inputs, outputs), max(inputs, outputs)
    return Case(f"{inputs} -> {outputs}", make, (rows, inputs), bars or {}, features)


def conv_case(
    inputs: int, outputs: int, kernel: int, size: int, bars: Mapping[float, float] | None = None
) -> Case:
    """Return a convolution of 32 images that keeps their size, without a bias."""
    name = f"{kernel}x{kernel} {inputs} -> {outputs} @ {size}"
    make = partial(nn.Conv2d, inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return Case(name, make, (32, inputs, size, size), bars or {})


class AuthorsForm(nn.Module):
    """A layer as the authors' code has it: two dense products, with a stored offset and a masked dense S.

    Args:
        layer: The compact layer whose weight, support, alpha and bias it takes over.

    Source:
        https://github.com/IlanPrice/DCTpS, code/modules.py.
    """

    def __init__(self, layer: DensePlusSparse) -> None:
        super().__init__()
        matrix, mask = (
            layer.offset.matrix(layer.shape, layer.values.dtype, layer.values.device),
            layer.support(),
        )
        self.register_buffer("matrix", matrix.clone())
        self.register_buffer("mask", mask.to(matrix))
        self.sparse = nn.Parameter(torch.zeros_like(matrix).masked_scatter(mask, layer.values.detach()))
        self.alpha, self.bias = deepcopy(layer.alpha), deepcopy(layer.bias)
        self.apply_weight = F.linear
        if isinstance(layer, DensePlusSparseConv2d):
            options = ("stride", "padding", "dilation", "groups")
            self.apply_weight = partial(F.conv2d, **{name: getattr(layer, name) for name in options})

    def forward(self, x: Tensor) -> Tensor:
        """Return ``alpha C x + S x + b``."""
        offset = self.alpha * self.apply_weight(x, self.matrix)
        return offset + self.apply_weight(x, self.sparse * self.mask, bias=self.bias)


class ForwardBackward:
    """One forward and backward pass: gradients of the input and of all parameters.

    Args:
        layer: Any layer.
        x: Its input.
    """

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        self.layer, self.x = layer, x.detach().requires_grad_()
        with torch.no_grad():
            self.grad = torch.randn_like(layer(x))
        self.leaves = [self.x, *layer.parameters()]

    def __call__(self) -> None:
        """Make the gradients anew."""
        self.forget()
        self.layer(self.x).backward(self.grad)

    def forget(self) -> None:
        """Let go of the gradients."""
        for leaf in self.leaves:
            leaf.grad = None


def forms_of(
    make: Callable[..., nn.Module], density: float, offset: Offset | str = "dct"
) -> dict[str, nn.Module]:
    """Return a layer dense, as the authors have it, and compact with each backend: all with one support."""
    compact = {backend: compact_form(make, density, backend, offset) for backend in BACKENDS}
    authors = {AUTHORS: AuthorsForm(compact["auto"])} if offset == "dct" else {}
    return {"dense": make(), **authors, **compact}


def compact_form(
    make: Callable[..., nn.Module], density: float, backend: Backend = "auto", offset: Offset | str = "dct"
) -> DensePlusSparse:
    """Return a Dense-plus-Sparse layer as the conversion makes it, with values other than zero."""
    net = nn.Sequential(make(device="cpu" if offset == "pretrained" else "meta"))
    convert_(net, density, backend=backend, offset=offset)
    nn.init.normal_(net[0].values, std=0.01)
    return net[0]


def net_forms(make: Callable[[], nn.Module], density: float) -> dict[str, nn.Module]:
    """Return a net dense, converted, and converted as the authors have it; supports are the same."""
    dense = make()
    compact = deepcopy(dense)
    convert_(compact, density)
    authors = deepcopy(compact)
    for name, layer in compact_layers(authors).items():
        authors.set_submodule(name, AuthorsForm(layer))
    return {"dense": dense, "dense again": deepcopy(dense), AUTHORS: authors, "auto": compact}


def choice_of(layer: DensePlusSparse, x: Tensor) -> str:
    """Return the backend that a layer takes for an input."""
    product = layer.product_for(x)
    if isinstance(product, Materialized):
        return "materialize"
    return "kernels" if isinstance(product, ByKernels) else "transform"


def take_turns(
    turns: Mapping[str, Callable[[], object]], options: argparse.Namespace
) -> dict[str, list[Sample]]:
    """Return samples of all, each of as many calls as fill 20 ms."""
    seconds = 0.0 if options.smoke else 0.02
    alternatives = {name: timed_at_length(turn, seconds) for name, turn in turns.items()}
    return interleave(alternatives, options.rounds)
