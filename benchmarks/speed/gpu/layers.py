"""Compact linear layers by both backends against dense ones: forward and backward, in each precision.

bf16 is that of parameters, inputs and gradients alike, so the dense layer has nothing to cast. TF32 is a
setting of matrix products: transforms have none. What "auto" takes has to be within its bar everywhere.
"""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from benchmarks.harness.device import tf32
from benchmarks.harness.runner import Sample
from benchmarks.speed.dctps_forms import choice_of
from benchmarks.speed.gpu.passes import Cell, Passes, inputs_in_turn, linear_forms
from benchmarks.speed.gpu.rows import Bench, Row, row_of
from lightning_sparse.functional.dct import dct_matrix
from lightning_sparse.layers import DensePlusSparse

AUTO_AT_MOST = 1.05
BARS = {("dct", "fp32", 4096, 4096, 0.001): 0.35, ("dct", "bf16", 8192, 4096, 0.0001): 0.7}
"""What may be taken of the dense time, by offset, precision, features, rows and density."""


SHAPES = (
    *((4096, 4096), (8192, 4096), (1024, 4096), (4096, 128), (2048, 4096), (16384, 4096), (1024, 128)),
    *((8192, 128), (4096, 1024), (4096, 8192), (2048, 128), (16384, 128), (1024, 1024)),
)
DENSITIES = (0.001, 0.0001, 0.01)
OFFSETS = ("dct", "none")
FULL = [Cell(q, rows, p) for q, rows in SHAPES for p in DENSITIES]
SMOKE = [Cell(16, 3, 0.1)]
LARGEST_IN_FLOAT32 = 8192**2 * 4096  # products of a pass: others take too long
SECONDS = 0.006  # of a sample


def measure(bench: Bench) -> Iterator[Row]:
    """Yield each backend against the dense layer, the shapes with bars first."""
    held: dict[int, Tensor] = {}  # or the matrix would be made again for every cell
    for cell in SMOKE if bench.smoke else FULL:
        torch.manual_seed(0)
        dense = nn.Linear(cell.features, cell.features, device=bench.device)
        if cell.features not in held:
            held = {cell.features: dct_matrix(*dense.weight.shape, device=dense.weight.device)}
        for offset in OFFSETS:
            forms = linear_forms(cell.features, cell.density, bench.device, offset=offset)
            what = f"{cell}, {offset}"
            if cell.features**2 * cell.rows <= LARGEST_IN_FLOAT32:
                yield from in_float32(bench, cell, what, dense, forms)
            yield from in_bfloat16(bench, cell, what, dense, forms)


def in_float32(
    bench: Bench, cell: Cell, what: str, dense: nn.Module, forms: dict[str, DensePlusSparse]
) -> Iterator[Row]:
    """Yield the rows of fp32 and TF32, which are timed in one go: only whole weights are multiplied so."""
    xs, grads = (inputs_in_turn((cell.rows, cell.features), bench.device, torch.float32) for _ in range(2))
    turns = {name: Passes(form, xs, grads) for name, form in forms.items() if name != "auto"}
    turns["dense"] = Passes(dense, xs, grads)
    quick = {f"{name} in TF32": InTF32(turns[name]) for name in ("dense", "materialize")}
    samples = bench.in_turn({**turns, **quick}, SECONDS)
    chosen = choice_of(forms["auto"], xs[0])
    for name in [name for name in turns if name != "dense"]:
        pair = {"dense": samples["dense"], name: samples[name]}
        yield against_dense(cell, f"{what}, fp32, {name}", name, chosen, pair)
    for name in [name for name in turns if name != "dense"]:
        ours = samples["materialize in TF32" if name == "materialize" else name]
        pair = {"dense": samples["dense in TF32"], name: ours}
        yield against_dense(cell, f"{what}, TF32, {name}", name, chosen, pair)


def in_bfloat16(
    bench: Bench, cell: Cell, what: str, dense: nn.Module, forms: dict[str, DensePlusSparse]
) -> Iterator[Row]:
    """Yield the rows of bf16."""
    xs, grads = (inputs_in_turn((cell.rows, cell.features), bench.device, torch.bfloat16) for _ in range(2))
    layers = {"dense": dense, **{name: form for name, form in forms.items() if name != "auto"}}
    turns = {name: Passes(deepcopy(layer).bfloat16(), xs, grads) for name, layer in layers.items()}
    samples = bench.in_turn(turns, SECONDS)
    chosen = choice_of(forms["auto"].bfloat16(), xs[0])
    for name in [name for name in layers if name != "dense"]:
        yield against_dense(cell, f"{what}, bf16, {name}", name, chosen, samples)


class InTF32:
    """A turn whose matrix products are made in TF32.

    Args:
        turn: What it does.
    """

    def __init__(self, turn: Passes) -> None:
        self.turn = turn

    def __call__(self) -> None:
        """Do it."""
        with tf32():
            self.turn()


def against_dense(cell: Cell, what: str, name: str, chosen: str, samples: dict[str, list[Sample]]) -> Row:
    """Return the row of one backend."""
    bar = BARS.get((*what.split(", ")[-3:-1], *cell)) if name != "materialize" else None
    if name != chosen:
        return row_of(what, samples, name, "dense", bar)
    return row_of(what, samples, name, "dense", min(bar or AUTO_AT_MOST, AUTO_AT_MOST), "auto takes this one")
