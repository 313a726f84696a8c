"""A layer whose pretrained weight is frozen and changed by S, against the frozen one, full training and LoRA.

bf16 throughout; k is 0.4% of the weight, and LoRA of rank 8 trains as many numbers at 4096 features.
"""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.gpu.passes import Cell, Passes, inputs_in_turn
from benchmarks.speed.gpu.rows import Bench, Row, row_of
from lightning_sparse.layers import convert_
from lightning_sparse.layers.backends import BACKEND_ROWS
from lightning_sparse.layers.kernels.language import runs_on

FULL = (Cell(4096, 4096, 0.004), Cell(4096, 512, 0.004), Cell(1024, 4096, 0.004), Cell(8192, 4096, 0.004))
SMOKE = (Cell(16, 3, 0.1),)
RANK, DTYPE, SECONDS = 8, torch.bfloat16, 0.01
AT_MOST = {"frozen": 1.15, "full": 0.8}


def measure(bench: Bench) -> Iterator[Row]:
    """Yield each backend against what it is compared with."""
    for cell in SMOKE if bench.smoke else FULL:
        torch.manual_seed(0)
        xs, grads = (inputs_in_turn((cell.rows, cell.features), bench.device, DTYPE) for _ in range(2))
        layers = others(cell.features, bench.device)
        backends = [name for name in BACKEND_ROWS if name != "kernels" or runs_on(bench.device)]
        layers |= {name: tuned(layers["full"], cell.density, name) for name in backends}
        samples = bench.in_turn({name: Passes(layer, xs, grads) for name, layer in layers.items()}, SECONDS)
        for name in backends:
            for against in ("frozen", "full", "LoRA"):
                bar = AT_MOST.get(against) if cell == FULL[0] and name == "kernels" else None
                yield row_of(f"{cell}, bf16, {name}", samples, name, against, bar)
        yield row_of(f"{cell}, bf16, LoRA", samples, "LoRA", "frozen")


def others(features: int, device: torch.device) -> dict[str, nn.Module]:
    """Return a dense layer trained, frozen, and frozen beside a product of low rank."""
    full = nn.Linear(features, features, bias=False, device=device, dtype=DTYPE)
    frozen = deepcopy(full).requires_grad_(False)
    return {"full": full, "frozen": frozen, "LoRA": LowRank(frozen)}


def tuned(full: nn.Module, density: float, backend: str) -> nn.Module:
    """Return the layer with a sparse change of its weight."""
    net = nn.Sequential(deepcopy(full))
    convert_(net, density, offset="pretrained", backend=backend)
    layer: nn.Module = net[0]
    return layer


class LowRank(nn.Module):
    """``W0 x + B A x``.

    Args:
        frozen: The layer of W0.
    """

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        make = {"device": frozen.weight.device, "dtype": frozen.weight.dtype}
        self.frozen = frozen
        self.down = nn.Parameter(0.01 * torch.randn(RANK, frozen.in_features, **make))
        self.up = nn.Parameter(torch.zeros(frozen.out_features, RANK, **make))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        y: Tensor = self.frozen(x)
        return y + F.linear(F.linear(x, self.down), self.up)
