"""Products with a sparse matrix as sums of weighted rows of a table, one bag of rows for each output.

For S x the table is x with its features as rows, the batch innermost. Nothing on x86 that PyTorch has is
faster, on one condition: that the table fits a core's own cache, for which callers split their batches.
"""

import warnings
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Bags", "WeightedBags", "transposed"]

_HAS_MKL = bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]


class WeightedBags(NamedTuple):
    """Bags with their values, ready for any number of sums.

    Args:
        ids: Of the rows that are summed up, int32, bag by bag.
        starts: Where each bag starts among them, and where the last one ends.
        values: A factor for each.
    """

    ids: Tensor
    starts: Tensor
    values: Tensor

    def sum(self, table: Tensor) -> Tensor:
        """Return ``(bags, length)`` for a table ``(rows, length)``."""
        if table.shape[1] == 0:
            return table.new_zeros(len(self.starts) - 1, 0)
        # Not through `torch.nn.functional`, whose checks take as long as a small product.
        bags = torch.embedding_bag(
            table, self.ids, self.starts, False, 0, False, self.values, include_last_offset=True
        )
        return bags[0]


class Bags:
    """The positions of a sparse matrix, bag by bag.

    That is 2 bytes for each entry of a matrix of usual size, and 4 more where entries come in another order.

    Args:
        outputs: Row of each entry in the matrix, int64.
        ids: Its column, int64.
        shape: Of the matrix: number of bags, and of a table's rows.
    """

    def __init__(self, outputs: Tensor, ids: Tensor, shape: tuple[int, int]) -> None:
        self.shape, self.order = shape, None
        if bool((outputs.diff() < 0).any()):
            order = outputs.argsort(stable=True)
            outputs, ids, self.order = outputs[order], ids[order], order.int()
        numbers = torch.arange(shape[0] + 1, device=outputs.device)
        self.starts = torch.searchsorted(outputs, numbers, out_int32=True)
        self.ids = ids.to(torch.int16 if shape[1] <= 2**15 else torch.int32)

    def weighted(self, values: Tensor) -> WeightedBags:
        """Return the bags with values, which come in the order in which the entries came."""
        ordered = values if self.order is None else values.index_select(0, self.order)
        return WeightedBags(self.ids.int(), self.starts, ordered)

    def sample(self, grad: Tensor, table: Tensor, total: Tensor | None = None) -> Tensor:
        """Return the entries of ``grad @ table.T``, plus ``total``; for entries that came bag by bag.

        Args:
            grad: ``(bags, length)``.
            table: ``(rows, length)``.
            total: One number for each entry.
        """
        assert self.order is None
        if grad.device.type == "cpu" and not _HAS_MKL:
            sampled = self._sample_by_chunks(grad, table)
            return sampled if total is None else sampled.add_(total)
        _hear_beta_warning()
        beta, total = (0.0, grad.new_zeros(len(self.ids))) if total is None else (1.0, total)
        pattern = torch.sparse_csr_tensor(
            self.starts, self.ids.int(), total, self.shape, check_invariants=False
        )
        summed: Tensor = torch.sparse.sampled_addmm(pattern, grad, table.t(), beta=beta).values()
        return summed

    def _sample_by_chunks(self, grad: Tensor, table: Tensor) -> Tensor:
        """Do without MKL: gather a few rows at a time, about 4 MiB of them."""
        outputs = torch.repeat_interleave(self.starts.diff())
        chunk = max(1, 2**20 // max(1, grad.shape[1]))
        pairs = zip(torch.split(outputs, chunk), torch.split(self.ids.int(), chunk), strict=True)
        parts = [(grad.index_select(0, o) * table.index_select(0, i)).sum(1) for o, i in pairs]
        return torch.cat(parts)


def transposed(matrix: Tensor) -> Tensor:
    """Return the transpose, contiguous.

    On a CPU as PyTorch shuffles channels, by blocks of registers: two to four times as fast as a copy.

    >>> transposed(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    tensor([[1., 4.],
            [2., 5.],
            [3., 6.]])
    """
    (rows, columns), strides, size = matrix.shape, matrix.stride(), matrix.numel()
    if strides != (columns, 1) or rows == 1 or not size or matrix.device.type != "cpu":
        return matrix.t().contiguous()
    channels = matrix.as_strided((1, size, 1, 1), (size, 1, size, size))
    return torch.native_channel_shuffle(channels, rows).view(columns, rows)


@cache
def _hear_beta_warning() -> None:
    """Let PyTorch say once per process that CSR tensors are in beta, where nobody is alarmed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)
