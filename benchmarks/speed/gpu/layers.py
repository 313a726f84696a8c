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
BARS = {("fp32", 4096, 4096, 0.001): 0.35, ("bf16", 8192, 4096, 0.0001): 0.7}
"""What the transform may take of the dense time, by precision, features, rows and density."""


FEATURES = (4096, 8192, 1024, 16384, 2048)
ROWS = (4096, 128, 1024)
DENSITIES = (0.001, 0.0001, 0.01)
FULL = [Cell(q, rows, p) for q in FEATURES for rows in ROWS for p in DENSITIES if q <= 4096 or rows != 1024]
SMOKE = [Cell(16, 3, 0.1)]


def measure(bench: Bench) -> Iterator[Row]:
    """Yield each backend against the dense layer, the shapes with bars first."""
    held: dict[int, Tensor] = {}  # or the matrix would be made again for every cell
    for cell in SMOKE if bench.smoke else FULL:
        torch.manual_seed(0)
        dense = nn.Linear(cell.features, cell.features, device=bench.device)
        forms = linear_forms(cell.features, cell.density, bench.device)
        if cell.features not in held:
            held = {cell.features: dct_matrix(*dense.weight.shape, device=dense.weight.device)}
        yield from in_float32(bench, cell, dense, forms)
        yield from in_bfloat16(bench, cell, dense, forms)


def in_float32(
    bench: Bench, cell: Cell, dense: nn.Module, forms: dict[str, DensePlusSparse]
) -> Iterator[Row]:
    """Yield the rows of fp32 and TF32, which are timed in one go: the transform is the same in both."""
    xs, grads = (inputs_in_turn((cell.rows, cell.features), bench.device, torch.float32) for _ in range(2))
    turns = {name: Passes(form, xs, grads) for name, form in forms.items() if name != "auto"}
    turns["dense"] = Passes(dense, xs, grads)
    quick = {f"{name} in TF32": InTF32(turns[name]) for name in ("dense", "materialize")}
    samples = bench.in_turn({**turns, **quick})
    chosen = choice_of(forms["auto"], xs[0])
    for name in ("transform", "materialize"):
        yield against_dense(cell, "fp32", name, chosen, {"dense": samples["dense"], name: samples[name]})
    for name, ours in {"transform": "transform", "materialize": "materialize in TF32"}.items():
        pair = {"dense": samples["dense in TF32"], name: samples[ours]}
        yield against_dense(cell, "TF32", name, chosen, pair)


def in_bfloat16(
    bench: Bench, cell: Cell, dense: nn.Module, forms: dict[str, DensePlusSparse]
) -> Iterator[Row]:
    """Yield the rows of bf16."""
    xs, grads = (inputs_in_turn((cell.rows, cell.features), bench.device, torch.bfloat16) for _ in range(2))
    layers = {"dense": dense, **{name: form for name, form in forms.items() if name != "auto"}}
    turns = {name: Passes(deepcopy(layer).bfloat16(), xs, grads) for name, layer in layers.items()}
    samples = bench.in_turn(turns)
    chosen = choice_of(forms["auto"].bfloat16(), xs[0])
    for name in ("transform", "materialize"):
        yield against_dense(cell, "bf16", name, chosen, samples)


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


def against_dense(
    cell: Cell, precision: str, name: str, chosen: str, samples: dict[str, list[Sample]]
) -> Row:
    """Return the row of one backend."""
    what = f"{cell}, {precision}, {name}"
    bar = BARS.get((precision, *cell)) if name == "transform" else None
    if name != chosen:
        return row_of(what, samples, name, "dense", bar)
    return row_of(what, samples, name, "dense", min(bar or AUTO_AT_MOST, AUTO_AT_MOST), "auto takes this one")
