"""Products with a sparse matrix by kernels: ``S x``, ``S' g`` and the gradient of the values.

Inputs and outputs are views ``(items, rows, features)``: a linear layer has one item, a convolution one for
each image. Supports are sorted twice, by outputs and by inputs. Nothing here waits for the device.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_sparse.layers.kernels import sparse_code
from lightning_sparse.layers.kernels.blocks import SLAB, Blocks, blocks_to_sample, blocks_to_sum
from lightning_sparse.layers.kernels.launching import launch

__all__ = ["Positions", "Support", "as_table", "sample", "sums", "turned"]

_TURNED = 64  # rows and columns of a tile, and what the rows of a transpose are a multiple of


class Positions(NamedTuple):
    """The entries of a sparse matrix, bag by bag, all int32.

    Args:
        starts: Where each bag starts among them, and where the last one ends.
        ids: Which feature of the input each meets.
        order: Where its value is; ``None`` if values come in this order.
    """

    starts: Tensor
    ids: Tensor
    order: Tensor | None


class Support:
    """Where the values are, sorted as kernels take them.

    Args:
        outputs: Output of each value, ascending.
        inputs: Its input.
        shape: Number of outputs and of inputs.
    """

    def __init__(self, outputs: Tensor, inputs: Tensor, shape: tuple[int, int]) -> None:
        self.outputs, self.inputs, self.shape = outputs.int(), inputs.int(), shape

    def __len__(self) -> int:
        return len(self.outputs)

    @cached_property
    def by_output(self) -> Positions:
        """What ``S x`` takes."""
        return Positions(_starts(self.outputs, self.shape[0]), self.inputs, None)

    @cached_property
    def by_input(self) -> Positions:
        """What ``S' g`` takes."""
        inputs, order = self.inputs.sort(stable=True)
        return Positions(_starts(inputs, self.shape[1]), self.outputs[order], order.int())


def as_table(rows: Tensor, turn: bool) -> Tensor:
    """Return ``(rows, features)`` as one item; transposed in memory, if it is to be and is not yet."""
    return turned(rows) if turn and rows.stride(0) != 1 else rows[None]


def turned(rows: Tensor) -> Tensor:
    """Return a copy of ``(rows, features)`` whose rows are innermost, as one item.

    Some more rows, of zeros, make the number of rows a multiple of 64, so that loads are wide.
    """
    count, features = rows.shape
    pitch = -(-count // _TURNED) * _TURNED
    out = rows.new_empty(features, pitch)
    launch(
        sparse_code.transpose,
        (pitch // _TURNED * -(-features // _TURNED),),
        rows,
        out,
        *(count, features, pitch),
        *rows.stride(),
        block_rows=_TURNED,
        block_columns=_TURNED,
        num_warps=8,
    )
    return out.t()[None]


def sums(
    table: Tensor,
    positions: Positions,
    values: Tensor,
    out: Tensor,
    *,
    offset: Tensor | None = None,
    alpha: Tensor | None = None,
    bias: Tensor | None = None,
    against: Tensor | None = None,
    blocks: Blocks | None = None,
) -> Tensor | None:
    """Write ``alpha offset + S table + bias`` into ``out``, summed up in float32.

    Args:
        table: ``(items, rows or more, inputs)``.
        positions: Of the entries, by outputs.
        values: Their values.
        out: ``(items, rows, outputs)``, of any strides.
        offset: Shaped like ``out``.
        alpha: A scalar for it.
        bias: A number for each output.
        against: Shaped like ``out``: what the inner product of the offset is wanted with.
        blocks: The shares of one program; by default those found by counting.

    Returns:
        The inner product in float32; ``None`` without ``against``.
    """
    items, rows, bags = out.shape
    blocks = blocks or blocks_to_sum(rows, table.dtype)
    innermost = table.stride(1) == 1
    rows_last = innermost and out.stride(2) != 1
    tiles = -(-bags // blocks.features)
    each = max(1, min(blocks.each, tiles))
    groups = -(-tiles // each)
    programs = groups * -(-rows // blocks.rows) * items
    products = out.new_empty(programs, dtype=torch.float32) if against is not None else None
    ids, values = _never_empty(positions.ids), _never_empty(values.contiguous())
    shaped = [out, table if offset is None else offset, table if against is None else against]
    strided = (argument for tensor in shaped for argument in (tensor, *tensor.stride()))
    bias = None if bias is None else bias.contiguous()
    others = [values if t is None else t for t in (alpha, bias, products)]
    launch(
        sparse_code.sums,
        (programs,),
        table,
        *table.stride(),
        *strided,
        *others,
        positions.starts,
        ids,
        ids if positions.order is None else _never_empty(positions.order),
        values,
        rows,
        table.shape[1],
        bags,
        each,
        has_offset=offset is not None,
        has_bias=bias is not None,
        has_products=products is not None,
        has_order=positions.order is not None,
        rows_innermost=innermost,
        turned=innermost and not rows_last,
        block_rows=blocks.rows,
        block_bags=blocks.features,
        num_warps=blocks.warps,
    )
    return None if products is None else products.sum()


def sample(
    grad: Tensor,
    table: Tensor,
    support: Support,
    dtype: torch.dtype,
    blocks: Blocks | None = None,
) -> Tensor:
    """Return the entries of ``grad' table`` on a support, summed up in float32.

    Args:
        grad: ``(items, rows, outputs)``.
        table: ``(items, rows, inputs)``. If one of them has more rows, they count for nothing.
        support: Where the entries are.
        dtype: Of the result.
        blocks: The shares of one program; by default those found by counting.
    """
    items, rows = len(grad), min(grad.shape[1], table.shape[1])
    innermost = grad.stride(1) == table.stride(1) == 1
    blocks = blocks or blocks_to_sample(innermost)
    tiles = -(-rows // blocks.rows) * items
    if not len(support) or not tiles:
        return table.new_zeros(len(support), dtype=dtype)
    each = min(blocks.each or _tiles_in_cache((grad, table), blocks.rows), tiles)
    parts = -(-tiles // each)
    out = table.new_empty(parts, len(support), dtype=dtype if parts == 1 else torch.float32)
    launch(
        sparse_code.sample,
        (-(-len(support) // blocks.features) * parts,),
        grad,
        *grad.stride(),
        table,
        *table.stride(),
        out,
        support.outputs,
        support.inputs,
        len(support),
        rows,
        items,
        each,
        rows_innermost=innermost,
        block_rows=blocks.rows,
        block_entries=blocks.features,
        num_warps=blocks.warps,
    )
    return out[0] if parts == 1 else out.sum(0, dtype=torch.float32).to(dtype)


def _tiles_in_cache(tables: Sequence[Tensor], rows: int) -> int:
    """Return of how many blocks of so many rows the tables fit half of a GPU's last cache."""
    features = sum(table.shape[2] * table.element_size() for table in tables)
    return max(1, SLAB // (features * rows))


def _starts(sorted_bags: Tensor, bags: int) -> Tensor:
    numbers = torch.arange(bags + 1, device=sorted_bags.device, dtype=torch.int32)
    return torch.searchsorted(sorted_bags, numbers, out_int32=True)


def _never_empty(tensor: Tensor) -> Tensor:
    """Return the tensor, or one entry that nobody reads: a kernel's pointers have to lead somewhere."""
    return tensor if math.prod(tensor.shape) else tensor.new_zeros(1)
