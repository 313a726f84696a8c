"""What a compact linear layer, its gradients and Adam hold at the peak of a step, against a dense one."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.optim import Adam

from benchmarks.harness.device import peak_on
from benchmarks.harness.memory import MIB
from benchmarks.speed.gpu.passes import Cell, linear_forms
from benchmarks.speed.gpu.rows import Bench, Row, share_row

DTYPE = torch.bfloat16
FULL = (Cell(16384, 4096, 0.0001), Cell(16384, 128, 0.0001), Cell(4096, 4096, 0.0001))
SMOKE = (Cell(64, 3, 0.1),)
AT_MOST = {FULL[0]: 0.25}


def measure(bench: Bench) -> Iterator[Row]:
    """Yield the peaks of both backends."""
    first = torch.ones(8, 8, device=bench.device, dtype=DTYPE)
    two_steps(partial(nn.Linear, 8, 8, device=bench.device, dtype=DTYPE), first)  # what is held from then on
    for cell in SMOKE if bench.smoke else FULL:
        x = torch.randn(cell.rows, cell.features, device=bench.device).to(DTYPE)
        make = partial(nn.Linear, cell.features, cell.features, device=bench.device, dtype=DTYPE)
        dense = peak_on(bench.device, partial(two_steps, make, x))
        for backend in ("transform", "materialize"):
            compact = peak_on(bench.device, partial(two_steps, partial(form, backend, cell, x), x))
            if compact is None or not dense:  # where the system does not tell
                continue
            what = f"{cell}, bf16, Adam, {backend}"
            at_most = AT_MOST.get(cell) if backend == "transform" else None
            yield share_row(what, compact / MIB, dense / MIB, "MiB", "dense", at_most)


def form(backend: str, cell: Cell, x: torch.Tensor) -> nn.Module:
    """Return the compact layer that multiplies in this way; the others that are made with it go at once."""
    return linear_forms(cell.features, cell.density, x.device, DTYPE)[backend]


def two_steps(make: Callable[[], nn.Module], x: torch.Tensor) -> None:
    """Make a layer and train it for two steps, the second with all that Adam holds."""
    layer = make()
    optimizer = Adam(layer.parameters(), lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
