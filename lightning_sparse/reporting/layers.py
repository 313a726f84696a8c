"""What a net looks like: per layer its shape, its weights, and how many of them are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_sparse.selection import layer_name
from lightning_sparse.weights.base import SparseWeight

__all__ = [
    "OF_LAYERS",
    "LayerCount",
    "count_layers",
    "count_weight",
    "not_counted",
    "render_table",
    "sparsity_metrics",
    "sparsity_table",
]

OF_LAYERS = "_layers"
"""Ends the name of a group of charts, one for each layer: ``sparsity_layers/<layer>``."""


@dataclass(frozen=True)
class LayerCount:
    """Weights of one layer, and how many of them are kept."""

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int

    @property
    def density(self) -> float:
        """Share of the weights kept."""
        return self.kept / self.weights


def count_weight(weight: SparseWeight) -> LayerCount:
    """Count what is kept of a weight, however it is stored."""
    return LayerCount(layer_name(weight.name), tuple(weight.shape), weight.shape.numel(), weight.nnz)


def count_layers(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> list[LayerCount]:
    """Count what is kept: by a weight's mask where it has one, else by its entries that are not zero."""
    return [
        LayerCount(layer_name(name), tuple(weight.shape), weight.numel(), _count(masks.get(name, weight)))
        for name, weight in weights.items()
    ]


def sparsity_metrics(
    layers: Sequence[LayerCount], kind: str = "sparsity", per_layer: bool = True
) -> dict[str, float]:
    """Return ``sparsity/total``, and of every layer ``sparsity_layers/<layer>``.

    TensorBoard groups charts by what stands before the first slash: totals are in a group of their own.

    Args:
        layers: What is kept of each.
        kind: Another word than sparsity.
        per_layer: Whether layers are wanted, or the total alone.

    >>> sparsity_metrics([LayerCount("a", (2, 2), 4, 1), LayerCount("b", (2, 3), 6, 3)])
    {'sparsity/total': 0.6, 'sparsity_layers/a': 0.75, 'sparsity_layers/b': 0.5}
    """
    total = sum(layer.weights for layer in layers)
    kept = sum(layer.kept for layer in layers)
    each = {f"{kind}{OF_LAYERS}/{layer.name}": 1 - layer.density for layer in layers if per_layer}
    return {f"{kind}/total": (total - kept) / total, **each}


def sparsity_table(
    layers: Sequence[LayerCount], counted: tuple[str, str, str] = ("weights", "kept", "density")
) -> str:
    """Return the table of a net: layer, shape, weights, kept, density (or other words), and totals."""
    rows = [_cells(layer) for layer in layers]
    total = LayerCount(
        "total", (), sum(layer.weights for layer in layers), sum(layer.kept for layer in layers)
    )
    return render_table(("layer", "shape", *counted), rows, _cells(total))


def not_counted(sizes: Mapping[str, int], counted: int) -> str:
    """Return the line below a table about what is large and dense, the largest first; "" if nothing is.

    Args:
        sizes: Size of every other weight of two or more dimensions.
        counted: Size of all that the table counts.

    >>> print(not_counted({"rnn.w": 48, "embed.weight": 352}, 1600).strip())
    Dense and not counted: 400 of 2,000 weights (20.0%): embed (352), rnn.w (48). `include` can take them in.
    """
    if not sizes:
        return ""
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)
    names = ", ".join(f"{layer_name(name)} ({sizes[name]:,})" for name in largest[:3])
    rest, more = sum(sizes.values()), ", ..." if len(sizes) > 3 else ""
    total = counted + rest
    return (
        f"\nDense and not counted: {rest:,} of {total:,} weights ({rest / total:.1%}): {names}{more}. "
        "`include` can take them in."
    )


def render_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None
) -> str:
    """Return a text table, by rich where it is installed, else in plain characters.

    The first two columns are text, the others numbers.
    """
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:
        return _plain_table(header, [*rows, *([total] if total else [])])
    table = Table(box=SIMPLE_HEAD, show_footer=total is not None)
    for index, title in enumerate(header):
        table.add_column(
            title,
            footer=total[index] if total else "",
            justify="left" if index < 2 else "right",
            no_wrap=True,
        )
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, width=10_000)  # never cut: names are what users search for
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip())


def _count(tensor: Tensor) -> int:
    return int(torch.count_nonzero(tensor.detach()))


def _cells(layer: LayerCount) -> tuple[str, ...]:
    shape = " x ".join(map(str, layer.shape))
    return layer.name, shape, f"{layer.weights:,}", f"{layer.kept:,}", f"{layer.density:.4%}"


def _plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    aligned = ["<" if i < 2 else ">" for i in range(len(header))]
    return "\n".join(
        "  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(line, aligned, widths, strict=True)).rstrip()
        for line in lines
    )
