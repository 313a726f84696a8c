"""Triton kernels for S against cuSPARSE and bag sums, then whole layers by them against dense ones.

Every product goes from rows to rows: what it takes to lay inputs out and results back counts. Ours are
compared with float64 first. Notes say what was counted beforehand, at 3 TB/s of memory and 8 TB/s of the last
cache. cuSPARSE and bag sums cast to fp32 and back where they have no bf16, as a layer would have to.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness.device import tf32
from benchmarks.harness.runner import Sample
from benchmarks.speed.dctps_forms import compact_form, conv_case, linear_case
from benchmarks.speed.gpu.layers import InTF32
from benchmarks.speed.gpu.numerics import AT_MOST, errors_of, worst
from benchmarks.speed.gpu.passes import DTYPES, Cell, Passes, inputs_in_turn
from benchmarks.speed.gpu.products import in_turn, median_of
from benchmarks.speed.gpu.rows import Bench, Row, row_of, value_row
from lightning_sparse.layers.bags import Bags, transposed
from lightning_sparse.layers.kernels.blocks import Blocks
from lightning_sparse.layers.kernels.language import runs_on
from lightning_sparse.layers.kernels.sparse import Positions, Support, as_table, sample, sums, turned
from lightning_sparse.layers.support import draw_support

SECONDS = 0.004  # of a sample
Turns = dict[str, Callable[[], Any]]

SUMS = {
    "transposed": Blocks(128, 32),
    "transposed, 128 x 64": Blocks(128, 64, warps=8),
    "rows as they are": Blocks(8, 128, turn=False),
    "rows as they are, at length": Blocks(4, 256, turn=False, each=16),
}
SAMPLES = {
    "transposed": Blocks(128, 16, each=0),
    "transposed, 256 x 16": Blocks(256, 16, warps=8, each=0),
    "transposed, all rows": Blocks(128, 16, each=2**20),
    "rows as they are": Blocks(32, 32, turn=False, each=0),
}
ONE_OF_EACH_LAYOUT = ("transposed", "rows as they are")
FIRST = (
    (Cell(4096, 4096, 0.001), "fp32"),
    (Cell(4096, 4096, 0.001), "bf16"),
    (Cell(8192, 4096, 0.0001), "bf16"),
)
THEN = tuple(
    (cell, precision)
    for cell in (
        Cell(4096, 4096, 0.01),
        Cell(1024, 4096, 0.01),
        Cell(16384, 4096, 0.0001),
        Cell(4096, 128, 0.001),
        Cell(4096, 8192, 0.001),
    )
    for precision in ("bf16", "fp32")
)
SMOKE = ((Cell(16, 3, 0.1), "bf16"),)
CASES = (linear_case(1024, 1024, rows=512), linear_case(1009, 2047, rows=33), conv_case(256, 512, 1, 8))
SMOKE_CASES = (linear_case(24, 17, rows=3), conv_case(8, 12, 1, 4))


def measure(bench: Bench) -> Iterator[Row]:
    """Yield errors first, then times, the shapes with bars before others.

    Raises:
        AssertionError: At the end, if an error is above its bar.
    """
    missed = []
    for row in rows(bench):
        yield row
        if row.unit == "relative error" and row.verdict != "met":
            missed.append(row.what)
    if missed:
        raise AssertionError(f"above their bars: {'; '.join(missed)}")


def rows(bench: Bench) -> Iterator[Row]:
    """Yield what ``measure`` does."""
    torch.manual_seed(0)
    device = bench.device if runs_on(bench.device) else torch.device("cuda")
    for case in SMOKE_CASES if bench.smoke else CASES:
        for precision in ("fp32", "bf16"):
            found = errors_of(case, "kernels", precision, device)
            note = ", ".join(f"{name} {error:.1e}" for name, error in found._asdict().items())
            what = f"{case.name}, kernels, {precision}, against float64"
            yield value_row(what, worst(found), "relative error", AT_MOST[precision], note)
    for group in (SMOKE,) if bench.smoke else (FIRST, THEN):
        for cell, precision in group:
            yield from of_products(bench, device, cell, precision, group is FIRST)
        for cell, precision in group:
            yield from of_layers(bench, device, cell, precision)


class Operands(NamedTuple):
    """A support with its values, inputs in turn, and what they are multiplied by in dense form."""

    support: Support
    values: Tensor
    xs: list[Tensor]
    grads: list[Tensor]
    weight: Tensor


def operands_of(cell: Cell, device: torch.device, dtype: torch.dtype) -> Operands:
    """Return them for a square weight."""
    q = cell.features
    flat = draw_support(q * q, round(cell.density * q * q), torch.Generator().manual_seed(0)).to(device)
    support, values = Support(flat // q, flat % q, (q, q)), torch.randn(len(flat), device=device)
    xs, grads = (inputs_in_turn((cell.rows, q), device, dtype) for _ in range(2))
    return Operands(support, values, xs, grads, torch.randn(q, q, device=device).to(dtype))


def of_products(
    bench: Bench, device: torch.device, cell: Cell, precision: str, all_blocks: bool
) -> Iterator[Row]:
    """Yield errors and times of each product by itself."""
    given = operands_of(cell, device, DTYPES[precision])
    size, e = f"{cell}, {precision}", given.weight.element_size()
    x, grad = given.xs[0], given.grads[0]
    exact = exact_products(given.support, given.values, x, grad)
    for name, (ours, others, inputs, expected) in products_of(given, exact).items():
        if not all_blocks:
            ours = {key: ours[key] for key in ONE_OF_EACH_LAYOUT}
        errors = {key: relative(turn(inputs[0]), expected) for key, turn in ours.items()}
        note = ", ".join(f"{key}: {error:.1e}" for key, error in errors.items())
        worst_error = max(errors.values(), key=lambda error: float("inf") if error != error else error)
        yield value_row(f"{size}, {name}", worst_error, "relative error", AT_MOST[precision], note)
        others = {key: turn for key, turn in others.items() if works(turn, inputs[0])}
        against = next(iter(others), "dense")
        turns = {key: in_turn(turn, inputs) for key, turn in {**ours, **others}.items()}
        turns["dense"] = in_turn(lambda tensor: tensor @ given.weight, inputs)
        samples = bench.in_turn(turns, SECONDS)
        counted = f"counted: {counted_ms(name, cell, len(given.support), e):.3f} ms"
        for key in [*ours, *list(others)[1:]]:
            share = median_of(samples[key]) / median_of(samples["dense"])
            note = f"{share:.2f} of dense, {counted}"
            yield row_of(f"{size}, {name}, {key}", samples, key, against, note=note)
    turns = {
        "transpose": in_turn(turned, given.xs),
        "PyTorch's": in_turn(lambda t: t.t().contiguous(), given.xs),
    }
    yield row_of(f"{size}, transpose", bench.in_turn(turns, SECONDS), "transpose", "PyTorch's")


class Products(NamedTuple):
    """One product by our kernels and by others, its inputs, and what comes out for the first of them."""

    ours: dict[str, Callable[[Tensor], Tensor]]
    others: dict[str, Callable[[Tensor], Tensor]]
    inputs: list[Tensor]
    expected: Tensor


def products_of(given: Operands, exact: tuple[Tensor, Tensor, Tensor]) -> dict[str, Products]:
    """Return the three products; "cuSPARSE" comes first among the others."""
    support, values, x = given.support, given.values, given.xs[0]
    outputs, inputs = support.outputs.long(), support.inputs.long()
    forward, backward = Bags(outputs, inputs, support.shape), Bags(inputs, outputs, support.shape[::-1])

    def both(positions: Positions, bags: Bags) -> tuple[dict[str, Any], dict[str, Any]]:
        weighted = bags.weighted(values)
        csr = torch.sparse_csr_tensor(
            weighted.starts, weighted.ids, weighted.values, bags.shape, check_invariants=False
        )
        ours = {
            key: partial(by_kernel, positions, values, bags.shape[0], blocks) for key, blocks in SUMS.items()
        }
        others = {
            "cuSPARSE": as_it_can(lambda m, t: (m @ t.t()).t().contiguous(), csr, x),
            "bag sum": lambda t: transposed(weighted.sum(transposed(t.float()))).to(t.dtype),
        }
        return ours, others

    samples = {key: partial(sampled_by_kernel, support, x, blocks) for key, blocks in SAMPLES.items()}
    plain = {"cuSPARSE": lambda g: forward.sample(transposed(g.float()), transposed(x.float()))}
    return {
        "S x": Products(*both(support.by_output, forward), given.xs, exact[0]),
        "S' g": Products(*both(support.by_input, backward), given.grads, exact[1]),
        "gradient of values": Products(samples, plain, given.grads, exact[2]),
    }


def by_kernel(positions: Positions, values: Tensor, features: int, blocks: Blocks, x: Tensor) -> Tensor:
    """Return the product of a sparse matrix with rows."""
    y = x.new_empty(len(x), features)
    sums(as_table(x, blocks.turn), positions, values, y[None], blocks=blocks)
    return y


def sampled_by_kernel(support: Support, x: Tensor, blocks: Blocks, grad: Tensor) -> Tensor:
    """Return the gradient of the values."""
    return sample(as_table(grad, blocks.turn), as_table(x, blocks.turn), support, torch.float32, blocks)


def works(turn: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Return whether PyTorch has this for such tensors."""
    try:
        turn(x)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def as_it_can(
    multiply: Callable[[Tensor, Tensor], Tensor], csr: Tensor, x: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return a product in the dtype of ``x``, or in fp32 with casts where PyTorch has it in that only."""
    try:
        short = csr.to(x.dtype)
        multiply(short, x)
    except (RuntimeError, NotImplementedError):
        return lambda t: multiply(csr, t.float()).to(t.dtype)
    return partial(multiply, short)


def exact_products(
    support: Support, values: Tensor, x: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return all three in float64, by the dense matrix."""
    matrix = torch.zeros(support.shape, dtype=torch.float64, device=x.device)
    places = support.outputs.long(), support.inputs.long()
    matrix[places] = values.double()
    x, grad = x.double(), grad.double()
    return x @ matrix.t(), grad @ matrix, (grad.t() @ x)[places]


def relative(found: Tensor, exact: Tensor) -> float:
    """Return the norm of the error over that of what is exact."""
    return float((found.double() - exact).norm() / exact.norm())


def counted_ms(name: str, cell: Cell, k: int, e: int) -> float:
    """Return the milliseconds that moving the bytes takes, with inputs transposed first."""
    table = cell.rows * cell.features * e
    passes, gathered = (4, 2) if name == "gradient of values" else (3, 1)
    return 1e3 * (passes * table / 3e12 + gathered * k * cell.rows * e / 8e12)


def of_layers(bench: Bench, device: torch.device, cell: Cell, precision: str) -> Iterator[Row]:
    """Yield forward and backward of whole layers, without an offset and with the DCT."""
    dtype, size = DTYPES[precision], (cell.rows, cell.features)
    xs, grads = (inputs_in_turn(size, device, dtype) for _ in range(2))
    make = partial(nn.Linear, cell.features, cell.features)
    layers = {
        f"kernels, {offset}": compact_form(make, cell.density, "kernels", offset).to(device, dtype)
        for offset in ("none", "dct")
    }
    turns: Turns = {name: Passes(layer, xs, grads) for name, layer in layers.items()}
    turns["dense"] = dense = Passes(make(device=device, dtype=dtype), xs, grads)
    if precision == "fp32":
        turns["dense in TF32"] = InTF32(dense)
    with tf32(False):
        samples: dict[str, list[Sample]] = bench.in_turn(turns, SECONDS)
    for name in layers:
        for theirs in turns.keys() - layers.keys():
            yield row_of(f"layer, {cell}, {precision}, {name}", samples, name, theirs)
