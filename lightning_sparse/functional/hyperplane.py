"""A random basis of a hyperplane, drawn anew from its seed wherever it is not kept."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError

__all__ = ["KEEP_MIB", "LARGEST", "RandomBasis", "check_size", "is_kept", "size_in_words"]

BLOCK = 2**20
"""Entries that are drawn at once, about: 4 MiB. Bases depend on it, so it is the same for all of them."""


KEEP_MIB = 1024
"""U is kept if it takes at most so many MiB, unless somebody says otherwise."""

LARGEST = 10**9
"""Entries that U may have where it is not kept: about 8 s a step for its two products."""

SECONDS_TO_DRAW = 8e-9
"""For each entry of U in a step, where it is not kept; *measured* on one core of a CPU."""

_MIB = 2**20


class RandomBasis:
    r"""The matrix U of ``w = d + U theta``: dense, random, with columns of length one.

    Entries are normally distributed, then each column is divided by its length. So U is near to what a draw
    from all k-dimensional subspaces would give, and in theory a step of theta has the length that it has in
    weights. Draws come from a generator on the CPU in blocks of rows, one after the other: the same seed
    gives the same U on every device, in every process and dtype, whether it is kept or not. Generators of
    other PyTorch versions or other kinds of CPUs may round draws otherwise.

    A product takes O(n k) multiply-adds. What is not kept is drawn anew in each of them, which takes a block
    of memory, but about thirteen times as long (*measured* on one core: 4.0 against 0.3 ns an entry).

    Args:
        rows: Number n of weights.
        columns: Number k of trained numbers.
        seed: Of all draws.
        keep: Whether to keep U, ``4 n k`` bytes, rather than draw it for each product.
        device: Where it is kept.

    Attributes:
        lengths: Lengths of the columns as they were drawn, ``(k,)``, float64.

    Source:
        Li, Farkhoor, Liu and Yosinski, "Measuring the Intrinsic Dimension of Objective Landscapes", ICLR 2018
        (arXiv:1804.08838), section 2 and supplement S7.

    Examples:
        >>> basis = RandomBasis(rows=1000, columns=3, seed=0)
        >>> u = torch.stack([basis.times(e) for e in torch.eye(3, dtype=torch.float64)], dim=1)
        >>> u.shape, u.norm(dim=0).round(decimals=6).tolist()
        (torch.Size([1000, 3]), [1.0, 1.0, 1.0])
    """

    def __init__(
        self, rows: int, columns: int, seed: int, *, keep: bool = True, device: torch.device | str = "cpu"
    ) -> None:
        self.rows, self.columns, self.seed = rows, columns, seed
        self._kept: list[Tensor] = []
        squares = torch.zeros(columns, dtype=torch.float64)
        for block in self._drawn():
            squares += block.double().square_().sum(dim=0)
            if keep:
                self._kept.append(block.to(device, copy=True))
        self.lengths = squares.sqrt_()

    @property
    def kept(self) -> int:
        """Bytes of U that are kept; 0 where it is drawn for each product."""
        return sum(block.nbytes for block in self._kept)

    def forget_(self) -> None:
        """Free what is kept: products draw U anew from now on."""
        self._kept = []

    @torch.no_grad()
    def times(self, theta: Tensor) -> Tensor:
        """Return ``U theta``, ``(n,)``, on the device of ``theta`` and in its dtype.

        Args:
            theta: ``(k,)``, float32 or float64.
        """
        scaled = theta / self.lengths.to(theta)
        product, done = theta.new_empty(self.rows), 0
        for block in self._blocks():
            product[done : done + len(block)] = block.to(theta) @ scaled
            done += len(block)
        return product

    @torch.no_grad()
    def transposed_times(self, gradient: Tensor) -> Tensor:
        """Return ``U' g``, ``(k,)``: the gradient of theta, given that of the weights.

        Args:
            gradient: ``(n,)``, float32 or float64.
        """
        total, done = gradient.new_zeros(self.columns), 0
        for block in self._blocks():
            total += block.to(gradient).t() @ gradient[done : done + len(block)]
            done += len(block)
        return total / self.lengths.to(gradient)

    def __str__(self) -> str:
        size = 4 * self.rows * self.columns
        words = f"{size / _MIB:,.1f} MiB" if size >= _MIB else f"{size:,} bytes"
        return f"U: {words}, {'kept' if self._kept else 'drawn anew in both products of a step'}."

    def _blocks(self) -> Iterator[Tensor]:
        return iter(self._kept) if self._kept else self._drawn()

    def _drawn(self) -> Iterator[Tensor]:
        """Draw the blocks, before columns are divided by their lengths.

        All into the same memory: what the allocator makes of one new tensor after the other may come to as
        much as all of U.
        """
        draws = torch.Generator().manual_seed(self.seed)
        height = min(self.rows, max(1, BLOCK // self.columns))
        block = torch.empty(height, self.columns, dtype=torch.float32, device="cpu")
        for start in range(0, self.rows, height):
            yield block[: self.rows - start].normal_(generator=draws)


def check_size(dimension: int, weights: int, keep_mib: int) -> None:
    """Refuse a hyperplane of more dimensions than there are weights, or one that no step can compute.

    Args:
        dimension: Number k of trained numbers.
        weights: Number n of weights.
        keep_mib: U is kept if it takes at most so many MiB.

    Raises:
        SparsityError: It says how long a step would take.
    """
    if dimension > weights:
        raise SparsityError(
            f"`dimension` must be at most the number of weights, {weights:,}, got {dimension:,}. Lower it, "
            "or train the weights themselves."
        )
    entries = dimension * weights
    if entries > LARGEST and not is_kept(dimension, weights, keep_mib):
        raise SparsityError(
            f"`dimension` times the number of weights must be at most {LARGEST:,}, got {dimension:,} times "
            f"{weights:,}: drawing U twice a step would take about {entries * SECONDS_TO_DRAW:,.0f} s. Lower "
            f"it, `include` fewer weights, keep U (`keep_mib` {-(-4 * entries // _MIB):,}), or take "
            "DCTpSConversion, which is made for large nets."
        )


def is_kept(dimension: int, weights: int, keep_mib: int) -> bool:
    """Tell whether U fits into so many MiB."""
    return 4 * dimension * weights <= keep_mib * _MIB


def size_in_words(dimension: int, weights: int) -> str:
    """Say what is trained in the place of what.

    >>> size_in_words(30, 210)
    '30 numbers are trained in place of 210 weights (14.2857%).'
    """
    return f"{dimension:,} numbers are trained in place of {weights:,} weights ({dimension / weights:.4%})."
