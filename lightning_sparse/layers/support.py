"""Where the entries of a sparse matrix lie: drawing a support, and checking one."""

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError

__all__ = ["check_indices", "draw_equal_rows", "draw_support", "index_dtype"]


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
