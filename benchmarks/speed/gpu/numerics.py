"""Whether what runs on the device is right: layers against float64, masks against those of the CPU."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness.device import tf32
from benchmarks.speed.dctps_forms import Case, compact_form, conv_case, linear_case
from benchmarks.speed.gpu.passes import DTYPES
from benchmarks.speed.gpu.rows import Bench, Row, value_row
from lightning_sparse.functional.growth.moves import drop_and_grow
from lightning_sparse.functional.masks import global_masks
from lightning_sparse.layers import DensePlusSparse

AT_MOST = {"fp32": 1e-5, "TF32": 3e-3, "bf16": 2e-2}
"""Relative errors: TF32 that nobody asked for would show as 3e-4."""

DENSITY = 0.01
FULL = (
    linear_case(1024, 1024, rows=512),
    linear_case(4096, 1000, rows=128),
    linear_case(1009, 2047, rows=33),
    conv_case(64, 64, 3, 32),
    conv_case(256, 512, 1, 8),
)
SMOKE = (linear_case(24, 17, rows=3), conv_case(4, 6, 3, 4))


def measure(bench: Bench) -> Iterator[Row]:
    """Yield the largest error of each layer, and the entries of masks that differ.

    Raises:
        AssertionError: At the end, if one is above its bar.
    """
    missed = []
    for row in rows(bench):
        yield row
        if row.verdict != "met":
            missed.append(row.what)
    if missed:
        raise AssertionError(f"above their bars: {'; '.join(missed)}")


def rows(bench: Bench) -> Iterator[Row]:
    """Yield what ``measure`` does."""
    torch.manual_seed(0)
    for case in SMOKE if bench.smoke else FULL:
        for backend in ("materialize", "transform"):
            for precision, at_most in AT_MOST.items():
                found = errors_of(case, backend, precision, bench.device)
                note = ", ".join(f"{name} {error:.1e}" for name, error in found._asdict().items())
                what = f"{case.name}, {backend}, {precision}, against float64"
                yield value_row(what, worst(found), "relative error", at_most, note)
    size = 2**10 if bench.smoke else 2**20
    yield value_row("global ranking, against the CPU's", ranked(size, bench.device), "entries differ", 0)
    yield value_row("RigL's update, against the CPU's", moved(size, bench.device), "entries differ", 0)


class Errors(NamedTuple):
    """Norms of the errors over those of what they are errors of."""

    y: float
    x: float
    values: float
    alpha: float


def worst(errors: Errors) -> float:
    """Return the largest error; NaN if there is one, which is below no bar.

    Of alpha's a tenth counts: its gradient is one sum over all entries, in which roundings add up.
    """
    return math.nan if any(map(math.isnan, errors)) else max(*errors[:3], errors.alpha / 10)


def errors_of(case: Case, backend: str, precision: str, device: torch.device) -> Errors:
    """Return the errors of a forward and backward pass."""
    layer = compact_form(case.make, DENSITY).to(device, DTYPES[precision])
    layer.backend = backend
    exact = deepcopy(layer).double()
    exact.backend = "materialize"
    x = torch.randn(case.input_size, device=device).to(DTYPES[precision])
    grad = torch.randn(layer.output_size(x), device=device).to(DTYPES[precision])
    with tf32(precision == "TF32"):
        ours = passed(layer, x, grad)
    theirs = passed(exact, x.double(), grad.double())
    off = [float((a.double() - b).norm() / b.norm()) for a, b in zip(ours[:3], theirs[:3], strict=True)]
    # alpha's gradient is a sum of terms of both signs; its error is held against the size that such a sum has
    size = max(float(theirs[3].abs()), float(x.double().norm() * theirs[1].norm()) / math.sqrt(x.numel()))
    return Errors(*off, alpha=float((ours[3].double() - theirs[3]).abs()) / size)


def passed(layer: DensePlusSparse, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of input, values and alpha."""
    x = x.detach().requires_grad_()
    y = layer(x)
    wanted: list[nn.Parameter | Tensor] = [x, layer.values, layer.alpha]
    return [y.detach(), *torch.autograd.grad(y, wanted, grad)]


def ranked(size: int, device: torch.device) -> int:
    """Count the entries of global masks that differ from the CPU's, with ties and without."""
    scores = {"random": torch.rand(size), "tied": (torch.rand(size) * 64).round() / 64}
    rank: Callable[..., dict[str, Tensor]] = partial(global_masks, k=size // 10)
    ours, theirs = rank({name: s.to(device) for name, s in scores.items()}), rank(scores)
    return sum(int((ours[name].cpu() != theirs[name]).sum()) for name in scores)


def moved(size: int, device: torch.device) -> int:
    """Count the entries of a mask after RigL's update that differ from the CPU's."""
    mask, drop, grow = torch.rand(size) < 0.1, torch.rand(size), torch.rand(size)
    ours = drop_and_grow(mask.to(device), drop.to(device), grow.to(device), 0.3)
    return int((ours.cpu() != drop_and_grow(mask, drop, grow, 0.3)).sum())
