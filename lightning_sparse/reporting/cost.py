"""What a sparse layer costs in theory, by the formulas of the DCTpS paper.

None of this is measured: PyTorch multiplies masked weights as it does dense ones. The figures say what a
perfect implementation would store and compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, prod

from lightning_sparse.reporting.layers import render_table

__all__ = ["LayerCost", "cost_table"]


@dataclass(frozen=True)
class LayerCost:
    """Theoretical cost of applying one layer's m x n matrix to one vector.

    A convolution is the matrix that it applies at every position: m filters, n = patch size.

    Args:
        name: The layer.
        shape: Shape of its weight, ``(out, in / groups, *kernel)``.
        kept: Number of weights kept, or ``None`` where only scores will decide.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 5.4.
    """

    name: str
    shape: tuple[int, ...]
    kept: int | None

    @property
    def dense(self) -> int:
        """Multiply-adds of the dense layer, mn; also the numbers it stores."""
        return prod(self.shape)

    @property
    def dctps(self) -> float | None:
        """Multiply-adds of DCT plus sparse, q log2 q + pmn with q = max(m, n), constants left out."""
        q = max(self._m, self._n)
        return None if self.kept is None else q * log2(q) + self.kept if q > 1 else float(self.kept)

    @property
    def density_floor(self) -> float:
        """The density p = log2(q) / r, r = min(m, n), below which the DCT is the larger part of DCTpS."""
        return min(1.0, log2(max(self._m, self._n)) / min(self._m, self._n))

    @property
    def _m(self) -> int:
        return self.shape[0]

    @property
    def _n(self) -> int:
        return prod(self.shape[1:])


def cost_table(costs: Sequence[LayerCost], kept: int) -> str:
    """Return the table of a plan; ``kept`` is the total, known even where the layers' shares are not."""
    header = ("layer", "shape", "weights", "kept", "density", "dense", "sparse", "DCTpS", "DCTpS floor")
    known = all(cost.dctps is not None for cost in costs)
    dense, dctps = sum(cost.dense for cost in costs), sum(cost.dctps or 0 for cost in costs)
    total = ("total", "", f"{dense:,}", f"{kept:,}", f"{kept / dense:.4%}", f"{dense:,}", f"{kept:,}")
    return render_table(header, [_cells(c) for c in costs], (*total, f"{dctps:,.0f}" if known else "", ""))


def _cells(cost: LayerCost) -> tuple[str, ...]:
    shape, dense, floor = " x ".join(map(str, cost.shape)), f"{cost.dense:,}", f"{cost.density_floor:.2%}"
    if cost.kept is None or cost.dctps is None:
        return cost.name, shape, dense, "by score", "", dense, "by score", "", floor
    kept = f"{cost.kept:,}"
    return (
        cost.name,
        shape,
        dense,
        kept,
        f"{cost.kept / cost.dense:.4%}",
        dense,
        kept,
        f"{cost.dctps:,.0f}",
        floor,
    )
