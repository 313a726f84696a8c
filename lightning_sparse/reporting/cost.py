"""What a sparse layer will store, and what it costs in theory, by the formulas of the DCTpS paper.

None of this is measured. Bytes are those of the tensors that there will be. Multiply-adds are those of a
perfect implementation: PyTorch multiplies masked weights as it does dense ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, prod

from torch import Tensor

from lightning_sparse.functional.dct import accumulation_dtype
from lightning_sparse.layers.offsets import Offset
from lightning_sparse.layers.support import index_dtype
from lightning_sparse.layers.work import fast_transform_work
from lightning_sparse.reporting.layers import render_table

__all__ = ["LayerCost", "cost_table", "planned_bytes", "planned_storage"]


@dataclass(frozen=True)
class LayerCost:
    """Theoretical cost of one layer, which applies an m x n matrix to vectors.

    A convolution is the matrix that it applies at every position: m filters, n = patch size.

    Args:
        name: The layer.
        shape: Shape of its weight, ``(out, in / groups, *kernel)``.
        kept: Number of weights kept, or ``None`` where only scores will decide.
        storage: What it will be stored as.
        stored: Bytes that it will take, as from `planned_bytes`; ``None`` where only scores will decide.
        times: How often the matrix is applied: once, or in a forward pass, at all positions of a convolution
            and for all items of a batch.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 5.4.
    """

    name: str
    shape: tuple[int, ...]
    kept: int | None
    storage: str = "masked"
    stored: int | None = None
    times: float = 1

    @property
    def weights(self) -> int:
        """Number of entries of the matrix, mn."""
        return prod(self.shape)

    @property
    def dense(self) -> float:
        """Multiply-adds of the dense layer: mn each time."""
        return self.times * self.weights

    @property
    def sparse(self) -> float | None:
        """Multiply-adds with what is kept: pmn each time."""
        return None if self.kept is None else self.times * self.kept

    @property
    def dctps(self) -> float | None:
        """Multiply-adds of DCT plus sparse: q log2 q + pmn each time, q = max(m, n), without constants."""
        return None if self.kept is None else self.times * (fast_transform_work(self.shape) + self.kept)

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


def planned_storage(offset: Offset | None) -> str:
    """Return what weights will be stored as: ``None`` is for masks, else the dense part of compact layers.

    Examples:
        >>> from lightning_sparse.layers.offsets import DCTOffset, NoOffset
        >>> planned_storage(None), planned_storage(NoOffset()), planned_storage(DCTOffset())
        ('masked', 'compact', 'dct + compact')
    """
    return "masked" if offset is None else offset.layer_storage


def planned_bytes(weight: Tensor, kept: int | None, offset: Offset | None, on_cpu: bool) -> int | None:
    """Return the bytes that a weight will take: values, positions or a mask, and a stored dense part.

    Args:
        weight: The dense weight.
        kept: Number of entries kept; ``None`` where only scores will decide.
        offset: ``None`` for masks, else the dense part of a compact layer.
        on_cpu: Whether training takes place there: a mask is as large as its weight then, else a byte per
            entry.
    """
    size, item = weight.numel(), weight.element_size()
    if offset is None:
        return size * (item + (item if on_cpu else 1))
    if kept is None:
        return None
    value = accumulation_dtype(weight.dtype).itemsize if offset.is_stored else item
    return kept * (value + index_dtype(size).itemsize) + size * item * offset.is_stored


def cost_table(costs: Sequence[LayerCost], kept: int) -> str:
    """Return the table of a plan; ``kept`` is the total, known even where the layers' shares are not."""
    header = ("layer", "shape", "weights", "kept", "density", "stored as", "bytes", "dense", "sparse")
    weights = sum(cost.weights for cost in costs)
    storages = ", ".join(dict.fromkeys(cost.storage for cost in costs))
    total = (
        *("total", "", f"{weights:,}", f"{kept:,}", f"{kept / weights:.4%}", storages),
        *(_number(_sum(costs, name)) for name in ("stored", "dense", "sparse", "dctps")),
        "",
    )
    return render_table((*header, "DCTpS", "DCTpS floor"), [_cells(c) for c in costs], total)


def _sum(costs: Sequence[LayerCost], name: str) -> float | None:
    """Return the sum of an attribute over all layers; ``None`` if it is not known of one."""
    values = [getattr(cost, name) for cost in costs]
    return None if None in values else sum(values)


def _number(value: float | None) -> str:
    return "by score" if value is None else f"{value:,.0f}"


def _cells(cost: LayerCost) -> tuple[str, ...]:
    shape, floor = " x ".join(map(str, cost.shape)), f"{cost.density_floor:.2%}"
    density = "" if cost.kept is None else f"{cost.kept / cost.weights:.4%}"
    numbers = [_number(value) for value in (cost.stored, cost.dense, cost.sparse, cost.dctps)]
    return cost.name, shape, f"{cost.weights:,}", _number(cost.kept), density, cost.storage, *numbers, floor
