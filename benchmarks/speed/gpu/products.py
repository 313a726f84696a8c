"""Each product of a compact layer by itself, against the dense layer's one product of the same size.

The transform has rows as the layer has them; the products with S take them as columns, as the layer lays
them out: "transposed copy" is what that costs. CSR is cuSPARSE's through ``torch.sparse``.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.device import tf32
from benchmarks.harness.runner import Sample
from benchmarks.speed.gpu.passes import inputs_in_turn, linear_forms
from benchmarks.speed.gpu.rows import Bench, Row, row_of
from lightning_sparse.layers import DensePlusSparse
from lightning_sparse.layers.bags import Bags, transposed
from lightning_sparse.layers.transformed import Transformed
from lightning_sparse.layers.transformed_linear import TransformedFew, TransformedLinear

DENSITIES = (0.001, 0.0001, 0.01)
SHAPES = ((4096, 4096), (8192, 4096), (1024, 4096), (4096, 128), (16384, 4096))
SMOKE_SHAPES, SMOKE_DENSITIES = ((16, 3),), (0.1, 0.02)

Turns = dict[str, Callable[[], Any]]


def measure(bench: Bench) -> Iterator[Row]:
    """Yield the products, shape by shape."""
    for features, rows in SMOKE_SHAPES if bench.smoke else SHAPES:
        torch.manual_seed(0)
        xs = inputs_in_turn((rows, features), bench.device, torch.float32)
        size = f"{features}^2, {rows} rows"
        for number, density in enumerate(SMOKE_DENSITIES if bench.smoke else DENSITIES):
            layer = linear_forms(features, density, bench.device)["transform"]
            dense = dense_turns(features, xs)
            if not number:
                turns = of_offset(layer, xs)
                yield from compared(f"{size}, fp32", bench.in_turn({**turns, **dense}), turns)
            turns = of_support(layer, xs)
            yield from compared(f"{size}, {density:.2%}, fp32", bench.in_turn({**turns, **dense}), turns)


def dense_turns(features: int, xs: list[Tensor]) -> Turns:
    """Return the dense product in each precision."""
    weight = torch.randn(features, features, device=xs[0].device)
    halves, half = [x.bfloat16() for x in xs], weight.bfloat16()

    def in_tf32(x: Tensor) -> Tensor:
        with tf32():
            return x @ weight

    return {
        "dense": in_turn(lambda x: x @ weight, xs),
        "TF32": in_turn(in_tf32, xs),
        "bf16": in_turn(lambda x: x @ half, halves),
    }


def of_offset(layer: DensePlusSparse, xs: list[Tensor]) -> Turns:
    """Return the products that do not depend on the support."""
    transform, columns = product_of(layer, xs[0]).transform, [x.t().contiguous() for x in xs]
    assert transform is not None
    return {
        "DCT": in_turn(transform, xs),
        "its adjoint": in_turn(partial(transform.adjoint, input_size=xs[0].shape), xs),
        "transposed copy": in_turn(lambda x: x.t().contiguous(), xs),
        "and back": in_turn(lambda x: x.t().contiguous(), columns),
    }


def of_support(layer: DensePlusSparse, xs: list[Tensor]) -> Turns:
    """Return the products with S: those of the layer and, beside them, cuSPARSE's."""
    parts, values = (layer.shape, None, layer.indices, None), layer.values.detach()
    bags, few = TransformedLinear(*parts), TransformedFew(*parts)
    columns = [transposed(x) for x in xs]
    csr = csr_of(bags._bags, values)
    turns = {
        "bag sum, S x": in_turn(lambda c: bags._ready(values).sum(c), columns),
        "bag sum, S' g": in_turn(lambda c: bags._ready_adjoint(values).sum(c), columns),
        "sampled_addmm": in_turn(lambda c: bags._bags.sample(c, c), columns),
        "CSR, S x": in_turn(lambda c: csr @ c, columns),
    }
    if isinstance(product_of(layer, xs[0]), TransformedFew):
        turns |= {
            "index_add, S x": in_turn(partial(few._plus_sparse, None, None, values), xs),
            "gathered gradient": in_turn(lambda x: few._sample(x, x), xs),
        }
    return turns


def product_of(layer: DensePlusSparse, x: Tensor) -> Transformed:
    """Return what multiplies by fast transforms."""
    product = layer.product_for(x)
    assert isinstance(product, Transformed)
    return product


def csr_of(bags: Bags, values: Tensor) -> Tensor:
    """Return S as PyTorch's own sparse matrix."""
    return torch.sparse_csr_tensor(bags.starts, bags.ids.int(), values, bags.shape, check_invariants=False)


def in_turn(function: Callable[[Tensor], Any], tensors: list[Tensor]) -> Callable[[], Any]:
    """Return what applies a function to the next of some tensors."""
    following = cycle(tensors)
    return lambda: function(next(following))


def compared(size: str, samples: dict[str, list[Sample]], turns: Turns) -> Iterator[Row]:
    """Yield a row per product; against dense ones in TF32 and bf16 in its note."""
    for name in turns:
        ours, *theirs = (median_of(samples[key]) for key in (name, "TF32", "bf16"))
        note = ", ".join(f"{ours / t:.2f} of {key}" for key, t in zip(("TF32", "bf16"), theirs, strict=True))
        yield row_of(f"{size}, {name}", samples, name, "dense", note=note)


def median_of(samples: list[Sample]) -> float:
    """Return the median wall clock."""
    return statistics.median(sample.wall for sample in samples)
