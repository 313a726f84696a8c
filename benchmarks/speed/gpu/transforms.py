"""The DCT, its adjoint and the Hadamard transform by kernels, against the plain way and the dense product.

Before a way is timed, all of its rows are held against float64. "plain" is what layers do without kernels: in
bf16 it casts to float32 and back. Several splits of one size are there to choose from.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.harness.device import tf32
from benchmarks.speed.gpu.passes import DTYPES, inputs_in_turn
from benchmarks.speed.gpu.products import Turns, in_turn, median_of
from benchmarks.speed.gpu.rows import Bench, Row, row_of, value_row
from lightning_sparse.functional.dct import dct_plan
from lightning_sparse.layers.kernels import dct_factored, dct_fused, hadamard
from lightning_sparse.layers.kernels.dct import KernelDCT
from lightning_sparse.layers.kernels.dct_factored import Factored, factored_shape
from lightning_sparse.layers.kernels.hadamard import hadamard_rows
from lightning_sparse.layers.kernels.language import runs_on
from lightning_sparse.layers.offsets import HadamardOffset, LinearMap
from lightning_sparse.layers.offsets.signs import random_signs

AT_MOST = {"fp32": 1e-5, "bf16": 1e-2}
"""Relative errors against float64."""

SHAPES = ((4096, 4096), (8192, 4096), (16384, 4096), (1024, 4096), (2048, 4096), (4096, 128))
SMOKE = [(256, 3, "fp32")]
OTHER_SPLITS = {
    ("bf16", 1024): [Factored(64, 16, 4, 4)],
    ("bf16", 2048): [Factored(64, 32, 2, 4)],
    ("bf16", 4096): [Factored(64, 64, 1, 4, 128), Factored(64, 64, 2, 4)],
    ("bf16", 8192): [Factored(128, 64, 1, 4), Factored(128, 64, 2, 8)],
    ("fp32", 4096): [Factored(64, 64, 1, 8)],
}
"""Beside those of the tables, by precision and size."""


class Way(NamedTuple):
    """A way to make one of the transforms.

    Args:
        transform: Which: ``"DCT"``, ``"DCT adjoint"`` or ``"Hadamard"``.
        name: Of the way.
        apply: It, for rows.
    """

    transform: str
    name: str
    apply: Callable[[Tensor], Tensor]

    def __str__(self) -> str:
        return f"{self.transform} {self.name}"


def measure(bench: Bench) -> Iterator[Row]:
    """Yield the errors of each way, then its time, shape by shape.

    Raises:
        AssertionError: At the end, if an error was above its bar; those ways were not timed.
        RuntimeError: If kernels cannot run, as on a CPU without ``TRITON_INTERPRET=1``.
    """
    if not runs_on(bench.device):
        raise RuntimeError("kernels need a GPU, or TRITON_INTERPRET=1 before Triton is imported")
    cells = SMOKE if bench.smoke else [(*shape, p) for shape in SHAPES for p in ("bf16", "fp32")]
    if bench.device.type == "cuda":
        compile_ahead(cells, bench.device)
    missed: list[str] = []
    for features, rows, precision in cells:
        torch.manual_seed(0)
        xs = inputs_in_turn((rows, features), bench.device, DTYPES[precision])
        size, right = f"{features}, {rows} rows, {precision}", []
        for way in ways(features, precision, bench.device):
            row = checked(size, way, xs[0], AT_MOST[precision])
            yield row
            (right if row.verdict == "met" else missed).append(way if row.verdict == "met" else row.what)
        yield from timed_rows(bench, size, features, right, xs)
    if missed:
        raise AssertionError(f"above their bars: {'; '.join(missed)}")


def ways(features: int, precision: str, device: torch.device) -> Iterator[Way]:
    """Yield all ways, the plain ones first."""
    plan, cast = dct_plan(features, torch.float32, device), DTYPES[precision]
    forms: dict[str, Any] = {"plain": Plain(plan, cast), "fused": KernelDCT(features, "fused")}
    first = factored_shape(features, cast)
    for shape in [*([] if first is None else [first]), *OTHER_SPLITS.get((precision, features), [])]:
        forms[named(shape)] = KernelDCT(features, "factored", shape)
    for name, form in forms.items():
        yield Way("DCT", name, partial(call, form.forward, features))
    for name, form in forms.items():
        yield Way("DCT adjoint", name, partial(call, form.adjoint, features))
    plain, shape = hadamard_map(features, torch.float32, device), torch.Size((features, features))
    yield Way("Hadamard", "plain", lambda x: plain(x.float()).to(x.dtype))
    signs = random_signs(features, 0, "inputs", shape, torch.float32, device)
    splits = hadamard.SHAPES if precision == "fp32" else hadamard.HALF_SHAPES
    for split in [splits[features], *OTHER_SPLITS.get((precision, features), [])[-1:]]:
        by_kernel = partial(hadamard_rows, signs=signs, features=features, size=features, shape=split)
        yield Way("Hadamard", named(split), by_kernel)


class Plain:
    """What layers do without kernels: all in float32.

    Args:
        plan: In float32.
        dtype: Of inputs and outputs.
    """

    def __init__(self, plan: Any, dtype: torch.dtype) -> None:
        self.plan, self.dtype = plan, dtype

    def forward(self, x: Tensor, features: int) -> Tensor:
        """Return the DCT."""
        result: Tensor = self.plan.forward(x.float(), features).to(self.dtype)
        return result

    def adjoint(self, x: Tensor, features: int) -> Tensor:
        """Return its adjoint."""
        result: Tensor = self.plan.adjoint(x.float(), features).to(self.dtype)
        return result


def call(function: Callable[[Tensor, int], Tensor], features: int, x: Tensor) -> Tensor:
    """Transform rows into as many numbers."""
    return function(x, features)


def named(shape: Factored) -> str:
    """Return a short name of a split."""
    limit = "" if shape.registers is None else f", {shape.registers} registers"
    return f"{shape.left} x {shape.right}, {shape.block} rows, {shape.warps} warps{limit}"


def hadamard_map(features: int, dtype: torch.dtype, device: torch.device) -> LinearMap:
    """Return the offset's own fast form."""
    found = HadamardOffset().transform(torch.Size((features, features)), None, dtype, device)
    assert found is not None
    return found


def checked(size: str, way: Way, x: Tensor, at_most: float) -> Row:
    """Hold a way against float64, where what nobody has written is most likely NaN."""
    features = x.shape[1]
    plan = dct_plan(features, torch.float64, x.device)
    exact = {"DCT": plan.forward, "DCT adjoint": plan.adjoint}
    if way.transform in exact:
        expected = exact[way.transform](x.double(), features)
    else:
        expected = hadamard_map(features, torch.float64, x.device)(x.double())
    poison = torch.full_like(x, torch.nan)
    del poison  # its memory is the next that is asked for
    error = float((way.apply(x).double() - expected).norm() / expected.norm())
    return value_row(f"{size}, {way}, against float64", error, "relative error", at_most)


def timed_rows(bench: Bench, size: str, features: int, right: list[Way], xs: list[Tensor]) -> Iterator[Row]:
    """Yield a row per way: against dense, with the rate of memory that one read and one write make."""
    turns: Turns = {str(way): in_turn(way.apply, xs) for way in right}
    weight = torch.randn(features, features, device=bench.device).to(xs[0].dtype)
    turns["dense"] = in_turn(lambda x: x @ weight, xs)
    if xs[0].dtype == torch.float32:
        turns["TF32"] = in_turn(partial(in_tf32, weight), xs)
    samples = bench.in_turn(turns)
    for way in right:
        seconds = median_of(samples[str(way)])
        plain = samples.get(f"{way.transform} plain")
        notes = [f"{2 * xs[0].nbytes / seconds / 1e12:.2f} TB/s"]
        notes += [] if plain is None else [f"{seconds / median_of(plain):.2f} of plain"]
        notes += [f"{seconds / median_of(samples['TF32']):.2f} of TF32"] if "TF32" in samples else []
        yield row_of(f"{size}, {way}", samples, str(way), "dense", note=", ".join(notes))


def in_tf32(weight: Tensor, x: Tensor) -> Tensor:
    """Multiply in TF32."""
    with tf32():
        return x @ weight


def compile_ahead(cells: list[tuple[int, int, str]], device: torch.device) -> None:
    """Compile all kernels in threads, side by side: one after the other they take longer than all else."""
    import triton

    if not hasattr(triton, "AsyncCompileMode"):
        return
    modules: list[Any] = [dct_factored, dct_fused, hadamard]
    launches = [module.launch for module in modules]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            for module in modules:
                module.launch = only_compile
            with triton.AsyncCompileMode(threads, ignore_errors=True):
                for features, rows, precision in cells:
                    x = torch.empty(rows, features, device=device, dtype=DTYPES[precision])
                    for way in ways(features, precision, device):
                        if way.name != "plain":
                            way.apply(x)
        finally:
            for module, launch in zip(modules, launches, strict=True):
                module.launch = launch


def only_compile(kernel: Any, grid: tuple[int, ...], x: Tensor, *arguments: Any, **options: Any) -> None:
    """Stand in for `launch`."""
    kernel.warmup(x, *arguments, grid=grid, **options)
