"""Forward and backward passes of layers, on several inputs in turn."""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness.device import cache_of
from benchmarks.speed.dctps_forms import compact_form
from lightning_sparse.layers import DensePlusSparse, Offset
from lightning_sparse.layers.backends import BACKEND_ROWS
from lightning_sparse.layers.kernels.language import runs_on

MOST_INPUTS = 256
DTYPES = {"fp32": torch.float32, "TF32": torch.float32, "bf16": torch.bfloat16}


class Cell(NamedTuple):
    """A square layer, the rows of its inputs, and its density."""

    features: int
    rows: int
    density: float

    def __str__(self) -> str:
        return f"{self.features}^2, {self.rows} rows, {self.density:.2%}"


class Passes:
    """One forward and backward pass per call: gradients of the input and of all parameters.

    Args:
        layer: Any layer.
        inputs: Its inputs, taken in turn.
        grads: The gradients of its outputs.
    """

    def __init__(self, layer: nn.Module, inputs: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        self.layer, self.parameters = layer, list(layer.parameters())
        self.turns = cycle([(x.detach().requires_grad_(), g) for x, g in zip(inputs, grads, strict=True)])

    def __call__(self) -> None:
        """Make the gradients anew."""
        x, grad = next(self.turns)
        for leaf in (x, *self.parameters):
            leaf.grad = None
        self.layer(x).backward(grad)
        x.grad = None  # or those of all inputs would lie about


def inputs_in_turn(size: Sequence[int], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return random tensors that together are twice as large as the device's last cache, two at least."""
    first = torch.randn(size, device=device).to(dtype)
    count = min(MOST_INPUTS, max(2, -(-2 * cache_of(device) // first.nbytes)))
    return [first, *(torch.randn(size, device=device).to(dtype) for _ in range(count - 1))]


def linear_forms(
    size: int,
    density: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    offset: Offset | str = "dct",
) -> dict[str, DensePlusSparse]:
    """Return a square Dense-plus-Sparse layer by each backend that runs there; all have the same support."""
    layer = compact_form(partial(nn.Linear, size, size), density, "auto", offset).to(device, dtype)
    names = [name for name in BACKEND_ROWS if name != "kernels" or runs_on(device)]
    forms = {name: deepcopy(layer) for name in names}
    for name, form in forms.items():
        form.backend = name
    return {**forms, "auto": layer}
