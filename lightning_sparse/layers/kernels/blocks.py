"""How much of a product one program of a kernel makes.

Chosen by counting. Timed was one shape, on an H200 in float32: 4096 features, 4096 rows, four values for an
output. Of four ways to make ``S x`` the chosen one took 0.127 ms; others took 0.147 (more outputs in a tile),
0.472 and 0.535 (from rows as they are).
"""

from dataclasses import dataclass

import torch

__all__ = ["Blocks", "blocks_to_sample", "blocks_to_sum"]

FEW_ROWS = 256  # up to which gathering from rows as they are beats the launch of a transpose
SLAB = 24 * 2**20  # bytes of both tables that programs under way read: about half of an H100's last cache


@dataclass(frozen=True)
class Blocks:
    """The shares of one program; all sizes are powers of two.

    Args:
        rows: Rows of a tile.
        features: Outputs of a tile; entries when gradients of values are sampled.
        warps: Of 32 threads, for one program.
        turn: Whether inputs are transposed first, so that what is gathered is contiguous.
        each: Tiles for one program, one after the other: of outputs in sums, of rows in samples. Zero, for
            samples: as many rows as fit a GPU's last cache.
    """

    rows: int
    features: int
    warps: int = 4
    turn: bool = True
    each: int = 1


def blocks_to_sum(rows: int, dtype: torch.dtype) -> Blocks:
    """Return the blocks of ``S x``: with few rows from rows as they are, else from transposed ones.

    A tile's outputs are stored next to each other, at least 128 bytes of each row.
    """
    if rows <= FEW_ROWS:
        return Blocks(8, 128, turn=False)
    return Blocks(128, 32) if dtype == torch.float32 else Blocks(128, 64, warps=8)


def blocks_to_sample(rows_innermost: bool) -> Blocks:
    """Return the blocks of the gradient of the values."""
    return Blocks(128, 16, each=0) if rows_innermost else Blocks(32, 32, turn=False, each=0)
