"""Random signs, then the Walsh-Hadamard transform: sums and differences only, and a seed."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_sparse.checks import check_count
from lightning_sparse.functional.dct import for_good, shared
from lightning_sparse.functional.hadamard import sylvester
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.kernels.hadamard import hadamard_rows, runs_hadamard
from lightning_sparse.layers.offsets.base import LinearMap, Offset, OffsetOptions, register_offset
from lightning_sparse.layers.offsets.dct import DCTOffset
from lightning_sparse.layers.offsets.pointwise import Pointwise
from lightning_sparse.layers.offsets.signs import SignedMap, random_signs

__all__ = ["HadamardOffset"]


@register_offset
@dataclass(frozen=True)
class HadamardOffset(Offset):
    """A Walsh-Hadamard matrix behind a random sign on every input, cropped to ``(out, patch)``.

    ``C = H diag(signs)`` with H of size q, the next power of two from ``max(out, patch)`` on, in Sylvester's
    order, with entries of ``+-1 / sqrt(q)``. Where q is larger than the larger side, rows and columns are
    shorter than 1: the norm of C is ``sqrt(out patch / q)``.

    H is the Kronecker product of two that are about ``sqrt(q)`` large, so two small matrix products multiply
    by it; kernels larger than 1 have no fast form and are built.

    Args:
        seed: Of the signs; weights of different shapes have independent signs.

    Source:
        Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform and approximate nearest neighbors", SIAM
        J. Comput. 39(1), 2009; the rows kept are the first ones, not random ones as in Tropp, "Improved
        analysis of the subsampled randomized Hadamard transform", Adv. Adapt. Data Anal. 3(1-2), 2011.
    """

    name = "hadamard"

    seed: int = 0

    def __post_init__(self) -> None:
        check_count("seed", self.seed, 0)

    def options(self, shape: torch.Size) -> OffsetOptions:  # noqa: ARG002
        """Return the seed."""
        return {"seed": self.seed}

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the cropped matrix in the shape of the weight."""
        out, patch = shape[0], math.prod(shape[1:])

        def signed() -> Tensor:
            left, right = _factors(out, patch, dtype, device)
            matrix = torch.kron(left, right)[:out, :patch] * self._signs(shape, dtype, device)
            return matrix.view(shape)

        return shared(("hadamard", shape, self, dtype, device), signed)

    def transform(
        self, shape: torch.Size, geometry: Convolution | None, dtype: torch.dtype, device: torch.device
    ) -> LinearMap | None:
        """Return two small matrix products, for linear layers and 1 x 1 convolutions in one group."""
        if math.prod(shape[2:]) > 1 or (geometry is not None and geometry.groups > 1):
            return None
        out, patch = shape[0], shape[1]
        signs, size = self._signs(shape, dtype, device), _sizes(out, patch)[0]
        rows: LinearMap
        if runs_hadamard(size, dtype, device):
            rows = _ByKernel(out, size, signs)
        else:
            rows = SignedMap(_HadamardRows(out, *_factors(out, patch, dtype, device)), signs)
        return rows if geometry is None else Pointwise(rows, geometry)

    def transform_time(self, shape: torch.Size, rows: int, threads: int) -> float:
        """Return what was fitted for the DCT.

        Whole layers took 0.7 (a quarter as many outputs as inputs) to 1.1 (3000 x 3000) of the time that they
        take with the DCT, timed in turn for linear and 1 x 1 layers of 256 to 4096 inputs and 1 to 512 rows.
        """
        return math.inf if math.prod(shape[2:]) > 1 else DCTOffset().transform_time(shape, rows, threads)

    def norm(self, shape: torch.Size) -> float:
        """Return ``sqrt(out patch / q)``: all entries are ``+-1 / sqrt(q)``."""
        return math.sqrt(shape.numel() / _sizes(shape[0], math.prod(shape[1:]))[0])

    def _signs(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        return random_signs(math.prod(shape[1:]), self.seed, "inputs", shape, dtype, device)


@dataclass(frozen=True)
class _HadamardRows(LinearMap):
    """Multiply rows by the cropped product of ``left`` and ``right``, which is symmetric.

    A row, filled up with zeros and laid out as a matrix X with as many columns as ``right``, becomes ``left X
    right``; ``right`` comes where X has fewer rows.
    """

    out_features: int
    left: Tensor
    right: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        return self._apply(x, self.left)[:, : self.out_features]

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        """Multiply by the transpose."""
        return self._apply(grad, self.left.t())[:, : input_size[1]]

    def _apply(self, rows: Tensor, left: Tensor) -> Tensor:
        (after, before), side, count = left.shape, len(self.right), len(rows)
        padded = F.pad(rows, (0, before * side - rows.shape[1])).contiguous()
        filled, lefts = padded.view(count, before, side), left.expand(count, after, before)
        if after < before:
            mixed = torch.bmm(lefts, filled).view(count * after, side) @ self.right
        else:
            mixed = torch.bmm(lefts, (filled.view(count * before, side) @ self.right).view_as(filled))
        return mixed.view(count, after * side)


@dataclass(frozen=True)
class _ByKernel(LinearMap):
    """Multiply rows by signs and by the cropped matrix in one kernel; half precision stays what it is."""

    takes_half = True

    out_features: int
    size: int
    signs: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return hadamard_rows(x, self.signs, self.out_features, self.size)

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        return hadamard_rows(grad, self.signs, input_size[1], self.size, adjoint=True)


def _sizes(out: int, patch: int) -> tuple[int, int]:
    """Return q, the next power of two, and the size of the right factor: the largest up to ``sqrt(q)``."""
    exponent = (max(out, patch) - 1).bit_length()
    return 2**exponent, 2 ** (exponent // 2)


@for_good()
def _factors(out: int, patch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the two factors, the left one cropped and with the scale of both."""
    size, right = _sizes(out, patch)
    rows, columns = math.ceil(out / right), math.ceil(patch / right)
    left = sylvester(size // right)[:rows, :columns] / math.sqrt(size)
    return left.to(device, dtype), sylvester(right).to(device, dtype)
