"""Where the entries of a sparse matrix lie: drawing a support, and products that touch nothing else."""

import warnings
from functools import cache, cached_property

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError

__all__ = ["SparsePattern", "check_indices", "draw_equal_rows", "draw_support", "index_dtype"]

_HAS_MKL = bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
# Entries per row or column up to which planes are best taken one by one: added up, and multiplied with others
ADD_PLANES_UP_TO, SAMPLE_PLANES_UP_TO = 1, 0.5
INDEX_ADD_UP_TO = 0.5  # entries per row or column up to which adding them one by one is fastest


def index_dtype(size: int) -> torch.dtype:
    """Return int32 where it can number ``size`` positions, else int64."""
    return torch.int32 if size <= 2**31 else torch.int64


def check_indices(indices: Tensor, size: int) -> None:
    """Refuse anything but ascending, distinct positions in ``[0, size)``.

    Raises:
        SparsityError: If the tensor is no vector of integers, or a position is out of range or repeated.
    """
    if indices.dim() != 1 or indices.dtype not in (torch.int32, torch.int64):
        raise SparsityError(
            f"`indices` must be a vector of int32 or int64, got {tuple(indices.shape)} of {indices.dtype}."
        )
    if indices.is_meta or not len(indices):
        return
    if int(indices[0]) < 0 or int(indices[-1]) >= size or bool((indices.diff() <= 0).any()):
        raise SparsityError(
            f"`indices` must be distinct positions from 0 to {size - 1}, got {len(indices)} from "
            f"{int(indices.min())} to {int(indices.max())}, {len(set(indices.tolist()))} of them distinct. "
            "Do they belong to a layer of another shape?"
        )


def draw_support(size: int | torch.Size, k: int, generator: torch.Generator) -> Tensor:
    """Draw k distinct positions out of ``size``, every subset with the same chance, in memory for k.

    Positions already drawn are drawn again until k differ. No batch of draws is larger than what is missing,
    so this is drawing one by one. Above one half, what is left out is drawn instead.

    Args:
        size: Number of positions N, or the shape of the weight.
        k: Number of positions to draw, from 0 to N.
        generator: On the CPU, so that its draws are the same on every machine.

    Returns:
        Sorted int64 tensor of k positions in [0, N), on the CPU.

    Raises:
        SparsityError: If k is out of range, or the generator is not on the CPU.

    Examples:
        >>> draw_support(10**12, 3, torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """
    size = size.numel() if isinstance(size, torch.Size) else size
    _check_draw(size, k, generator)
    if 2 * k > size:
        return _others(draw_support(size, size - k, generator), size)
    drawn = torch.empty(0, dtype=torch.int64, device="cpu")
    while len(drawn) < k:
        uniform = torch.rand(k - len(drawn), generator=generator, dtype=torch.float64, device="cpu")
        new = (uniform * size).long()  # `randint` draws differently in some versions of PyTorch
        drawn = torch.unique(torch.cat([drawn, new]))
    return drawn


def _others(positions: Tensor, size: int) -> Tensor:
    """Return all positions of so many but these."""
    others = torch.ones(size, dtype=torch.bool, device="cpu")  # whatever the default is
    others[positions] = False
    return others.nonzero().flatten()


def draw_equal_rows(shape: torch.Size, k: int, generator: torch.Generator) -> Tensor:
    """Draw k distinct positions of a weight, as many in each row: ``k / rows``, rounded down or up.

    Which rows have the one more is drawn, and within a row every subset has the same chance. Positions
    already drawn are drawn again, as by `draw_support`.

    Args:
        shape: Of a weight whose first dimension are the outputs: a row is a filter.
        k: Number of positions to draw, from 0 to all.
        generator: On the CPU.

    Returns:
        Sorted int64 tensor of k flat positions, on the CPU.

    Raises:
        SparsityError: If k is out of range, or the generator is not on the CPU.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", 2021 (arXiv:2102.07655v1), appendix A.2.

    Examples:
        >>> support = draw_equal_rows(torch.Size([4, 100]), 10, torch.Generator().manual_seed(0))
        >>> sorted((support // 100).bincount().tolist())
        [2, 2, 3, 3]
    """
    size = shape.numel()
    _check_draw(size, k, generator)
    if 2 * k > size:
        return _others(draw_equal_rows(shape, size - k, generator), size)
    rows, per_row = shape[0], size // max(shape[0], 1)
    wanted = torch.full((rows,), k // max(rows, 1), device="cpu")
    wanted[draw_support(rows, k % max(rows, 1), generator)] += 1
    drawn = torch.empty(0, dtype=torch.int64, device="cpu")
    while len(drawn) < k:
        missing = wanted - torch.bincount(drawn // per_row, minlength=rows)
        row = torch.arange(rows, device="cpu").repeat_interleave(missing)
        uniform = torch.rand(len(row), generator=generator, dtype=torch.float64, device="cpu")
        drawn = torch.unique(torch.cat([drawn, row * per_row + (uniform * per_row).long()]))
    return drawn


def _check_draw(size: int, k: int, generator: torch.Generator) -> None:
    if not 0 <= k <= size:
        raise SparsityError(f"`k` must be between 0 and the {size} positions, got {k}.")
    if generator.device.type != "cpu":
        raise SparsityError(
            f"`generator` must be on the CPU, where draws are the same everywhere, got {generator.device}."
        )


class SparsePattern:
    """The positions of an ``(m, n)`` sparse matrix S, in the forms that fast products need.

    Args:
        rows: Row of each entry, int32, ascending.
        cols: Column of each entry, int32, ascending within a row.
        shape: ``(m, n)``.
    """

    def __init__(self, rows: Tensor, cols: Tensor, shape: tuple[int, int]) -> None:
        self.rows, self.cols, self.shape = rows, cols, shape

    @property
    def is_tiny(self) -> bool:
        """Whether there are so few entries that a gather and an ``index_add_`` beat all else."""
        return len(self.rows) <= INDEX_ADD_UP_TO * max(self.shape)

    def multiply(self, values: Tensor, columns: Tensor) -> Tensor:
        """Return ``S @ columns``: ``(m, p)`` for ``(n, p)``."""
        return _bag_sum(self.cols, self._row_starts, columns, values)

    def multiply_adjoint(self, values: Tensor, grad: Tensor) -> Tensor:
        """Return ``S.T @ grad``: ``(n, p)`` for ``(m, p)``."""
        order, rows, starts = self._by_column
        return _bag_sum(rows, starts, grad, values.index_select(0, order))

    def sample(self, grad: Tensor, columns: Tensor) -> Tensor:
        """Return the entries of ``grad @ columns.T`` on the support: (k,) for ``(m, p)`` and ``(n, p)``."""
        if grad.device.type == "cpu" and not _HAS_MKL:
            return _sample_by_chunks(grad, columns, self.rows, self.cols)
        _hear_beta_warning()
        placeholder = grad.new_zeros(len(self.rows))
        pattern = torch.sparse_csr_tensor(
            self._row_starts, self.cols, placeholder, self.shape, check_invariants=False
        )
        sampled: Tensor = torch.sparse.sampled_addmm(pattern, grad, columns.t(), beta=0.0).values()
        return sampled

    def add_(self, out: Tensor, values: Tensor, planes: Tensor) -> None:
        """Add ``S @ planes`` to ``out``: ``(m, ...)`` for ``(n, ...)``."""
        if len(values) <= ADD_PLANES_UP_TO * self.shape[0]:
            out.index_add_(0, self.rows, _weighted(planes.index_select(0, self.cols), values))
        else:
            out += self.multiply(values, planes.flatten(1)).view(out.shape)

    def add_adjoint_(self, out: Tensor, values: Tensor, planes: Tensor) -> None:
        """Add ``S.T @ planes`` to ``out``: ``(n, ...)`` for ``(m, ...)``."""
        if len(values) <= ADD_PLANES_UP_TO * self.shape[1]:
            out.index_add_(0, self.cols, _weighted(planes.index_select(0, self.rows), values))
        else:
            out += self.multiply_adjoint(values, planes.flatten(1)).view(out.shape)

    def sample_planes(self, grad: Tensor, planes: Tensor) -> Tensor:
        """Return the entries of ``grad @ planes.T`` on the support, (k,), for ``(m, ...)``, ``(n, ...)``."""
        if len(self.rows) <= SAMPLE_PLANES_UP_TO * max(self.shape):
            products = grad.index_select(0, self.rows) * planes.index_select(0, self.cols)
            return products.flatten(1).sum(1)
        return self.sample(grad.flatten(1), planes.flatten(1))

    def add_rows_(self, out: Tensor, values: Tensor, x: Tensor) -> Tensor:
        """Add ``x @ S.T`` to ``out``: ``(p, m)`` for ``(p, n)``; for tiny supports."""
        return out.index_add_(1, self.rows, x.index_select(1, self.cols) * values)

    def add_rows_adjoint_(self, out: Tensor, values: Tensor, grad: Tensor) -> Tensor:
        """Add ``grad @ S`` to ``out``: ``(p, n)`` for ``(p, m)``; for tiny supports."""
        return out.index_add_(1, self.cols, grad.index_select(1, self.rows) * values)

    def sample_rows(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return the entries of ``grad.T @ x`` on the support; for tiny supports."""
        return (grad.index_select(1, self.rows) * x.index_select(1, self.cols)).sum(0)

    @cached_property
    def _row_starts(self) -> Tensor:
        return _starts(self.rows, self.shape[0])

    @cached_property
    def _by_column(self) -> tuple[Tensor, Tensor, Tensor]:
        """The entries in column order: their places in row order, their rows, and where columns start."""
        order = self.cols.argsort(stable=True)
        return order.int(), self.rows[order], _starts(self.cols[order], self.shape[1])


def _weighted(planes: Tensor, values: Tensor) -> Tensor:
    return planes.mul_(values.view(-1, *[1] * (planes.dim() - 1)))


@cache
def _hear_beta_warning() -> None:
    """Let PyTorch say once per process that CSR tensors are in beta, where nobody is alarmed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


def _starts(sorted_ids: Tensor, count: int) -> Tensor:
    ids = torch.arange(count + 1, dtype=sorted_ids.dtype, device=sorted_ids.device)
    return torch.searchsorted(sorted_ids, ids, out_int32=True)


def _bag_sum(ids: Tensor, starts: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted rows of a table, bag by bag; the fastest sparse product there is on x86."""
    if table.shape[1] == 0:
        return table.new_zeros(len(starts) - 1, 0)
    # Not through `torch.nn.functional`, whose checks take as long as a small product.
    bags = torch.embedding_bag(table, ids, starts, False, 0, False, weights, include_last_offset=True)
    return bags[0]


def _sample_by_chunks(grad: Tensor, columns: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Do without MKL: gather a few rows at a time, about 4 MiB of them."""
    chunk = max(1, 2**20 // max(1, grad.shape[1]))
    pairs = zip(torch.split(rows, chunk), torch.split(cols, chunk), strict=True)
    parts = [(grad.index_select(0, r) * columns.index_select(0, c)).sum(1) for r, c in pairs]
    return torch.cat(parts)
