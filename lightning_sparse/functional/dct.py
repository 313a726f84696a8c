"""The orthonormal DCT-II, cropped to a layer's shape: its matrix, the fast transform and the adjoint.

Of the transform of size ``q = max(out, in)`` the first ``out`` frequencies (rows) and the first ``in`` inputs
(columns) are used. The matrix is for those who need it; the fast transform costs ``q log q`` per vector and
never builds it.
"""

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.dct_factors import makhoul_order

__all__ = [
    "DCTPlan",
    "accumulation_dtype",
    "dct",
    "dct_adjoint",
    "dct_matrix",
    "dct_plan",
    "for_good",
    "shared",
]

_CHUNK = 2**20  # matrix entries made at a time: bounds the temporary indices
_SHARED: "WeakValueDictionary[Hashable, Tensor]" = WeakValueDictionary()


@contextmanager
def for_good() -> Iterator[None]:
    """Make constants that are kept: of use in training later, wherever they are made.

    They begin on the CPU. Lightning calls ``configure_model`` with the GPU as the default device, and a user
    may have set the meta device.
    """
    with torch.inference_mode(False), torch.device("cpu"):
        yield


def shared(key: Hashable, build: Callable[[], Tensor]) -> Tensor:
    """Return the one tensor of this key; it lives as long as anybody holds it. Do not write to it."""
    tensor = _SHARED.get(key)
    if tensor is None:
        with for_good():
            tensor = _SHARED[key] = build()
    return tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the precision to compute in: float64 for float64, else float32 (no FFT has bfloat16)."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def dct_matrix(
    out_features: int,
    in_features: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    r"""Return the orthonormal DCT-II of size ``q = max(out, in)``, cropped to ``(out, in)``.

    Row k holds frequency k: ``s_k cos(pi k (2 i + 1) / (2 q))`` with ``s_0 = sqrt(1 / q)`` and ``s_k = sqrt(2
    / q)``, so the lowest frequencies come first. The matrix is shared by all who ask for it and lives as long
    as one of them holds it: do not write to it.

    Args:
        out_features: Rows, the lowest frequencies.
        in_features: Columns, the length of the input.
        dtype: Floating-point type; each entry is rounded once, from float64.
        device: Where the matrix lies.

    Returns:
        Tensor of shape ``(out_features, in_features)``; its rows or its columns, whichever are fewer, are
        orthonormal.

    Raises:
        SparsityError: If a size is not positive.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 4.

    Examples:
        >>> dct_matrix(1, 4)
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    _check_sizes(out_features, in_features)
    key = ("dct", out_features, in_features, dtype, torch.device(device))
    return shared(key, lambda: _build_matrix(out_features, in_features, dtype, torch.device(device)))


def dct(x: Tensor, out_features: int) -> Tensor:
    """Apply the cropped DCT-II to the last dimension, by one real FFT: ``x @ dct_matrix(out, in).T``.

    Args:
        x: Tensor of shape ``(..., in)``, float32 or float64; lower precisions are computed in float32.
        out_features: Number of lowest frequencies to return.

    Returns:
        Tensor of shape ``(..., out_features)`` and the dtype of ``x``.

    Raises:
        SparsityError: If a size is not positive.

    Source:
        Makhoul, "A fast cosine transform in one and two dimensions", IEEE TASSP 28(1), 1980.
    """
    _check_sizes(out_features, x.shape[-1])
    rows = x.reshape(-1, x.shape[-1]).to(accumulation_dtype(x.dtype))
    plan = dct_plan(max(out_features, x.shape[-1]), rows.dtype, rows.device)
    return plan.forward(rows, out_features).to(x.dtype).reshape(*x.shape[:-1], out_features)


def dct_adjoint(y: Tensor, in_features: int) -> Tensor:
    """Apply the transposed matrix of ``dct`` to the last dimension: ``y @ dct_matrix(out, in)``.

    Args:
        y: Tensor of shape ``(..., out)``, float32 or float64; lower precisions are computed in float32.
        in_features: Length of the vectors that ``dct`` takes.

    Returns:
        Tensor of shape ``(..., in_features)`` and the dtype of ``y``.

    Raises:
        SparsityError: If a size is not positive.
    """
    _check_sizes(y.shape[-1], in_features)
    rows = y.reshape(-1, y.shape[-1]).to(accumulation_dtype(y.dtype))
    plan = dct_plan(max(in_features, y.shape[-1]), rows.dtype, rows.device)
    return plan.adjoint(rows, in_features).to(y.dtype).reshape(*y.shape[:-1], in_features)


@dataclass(frozen=True)
class DCTPlan:
    """What the FFT needs for one size q: index orders (int32) and twiddle factors, about 40 q bytes.

    ``order`` puts even inputs first and odd ones last in reverse, and is itself reversed: then the real FFT
    yields the conjugate spectrum V, whose product with ``s_k exp(i pi k / 2q)`` holds frequency k in its real
    and frequency q - k in its imaginary part.
    """

    size: int
    order: Tensor
    inverse_order: Tensor
    frequencies: Tensor
    mirrored: Tensor
    twiddle: Tensor
    untwiddle: Tensor

    def forward(self, x: Tensor, out_features: int) -> Tensor:
        """Return the lowest frequencies of every row, ``(rows, out)``, maybe with gaps in memory."""
        if not len(x):  # some versions of MKL refuse
            return x[:, :1].expand(0, out_features)
        spectrum = torch.fft.rfft(self._whole(x).index_select(1, self.order))
        if out_features <= self.twiddle.shape[0]:
            real: Tensor = (spectrum[:, :out_features] * self.twiddle[:out_features]).real
            return real
        pairs = torch.view_as_real(spectrum.mul_(self.twiddle)).flatten(1)
        return pairs.index_select(1, self.frequencies[:out_features])

    def adjoint(self, y: Tensor, in_features: int) -> Tensor:
        """Return the transposed matrix's product with every row, ``(rows, in)``."""
        if not len(y):
            return y[:, :1].expand(0, in_features)
        if y.shape[1] <= self.size // 2:  # frequency q - k is then zero for every k that is not
            spectrum = y * self.untwiddle[: y.shape[1]]
            spectrum[:, 0] *= 1 + 1j
        else:
            whole = self._whole(y)
            mirrored = whole.index_select(1, self.mirrored)
            spectrum = torch.complex(whole[:, : mirrored.shape[1]], mirrored).mul_(self.untwiddle)
        ordered: Tensor = torch.fft.irfft(spectrum, self.size)
        return ordered.index_select(1, self.inverse_order[:in_features])

    def _whole(self, rows: Tensor) -> Tensor:
        """Fill rows up to the size with zeros."""
        missing = self.size - rows.shape[1]
        return F.pad(rows, (0, missing)) if missing else rows


@lru_cache(maxsize=256)
@for_good()
def dct_plan(size: int, dtype: torch.dtype, device: torch.device) -> DCTPlan:
    """Return the one plan of this size, for float32 or float64 rows on ``device``."""
    half = size // 2 + 1
    index = torch.arange(size)
    order = makhoul_order(size)[-index % size]
    frequencies = torch.where(index < half, 2 * index, 2 * (size - index) + 1)
    mirrored = -index[:half] % size
    angle = index[:half].double() * (math.pi / (2 * size))
    scale = torch.full_like(angle, math.sqrt(2 / size))
    scale[0] = math.sqrt(1 / size)
    twiddle, untwiddle = torch.polar(scale, angle), torch.polar(1 / scale, -angle)
    untwiddle[0] *= (1 - 1j) / 2  # the mirror of frequency 0 is itself: (1 + i)(1 - i) / 2 = 1
    orders = [order, order.argsort(), frequencies, mirrored]
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    factors = [twiddle.to(device, complex_dtype), untwiddle.to(device, complex_dtype)]
    return DCTPlan(size, *(o.to(device, torch.int32) for o in orders), *factors)


def _build_matrix(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Look every entry up in the 4q values of the cosine: angles are exact integers, however large."""
    size = max(rows, columns)
    matrix = torch.empty(rows, columns, dtype=dtype, device=device)
    if matrix.is_meta:
        return matrix
    angles = torch.arange(4 * size, dtype=torch.float64) * (math.pi / 2 / size)
    cosine = (math.sqrt(2 / size) * torch.cos(angles)).to(device, dtype)  # cosines of the CPU, everywhere
    odd = 2 * torch.arange(columns, device=device) + 1
    for part in torch.split(matrix, max(1, _CHUNK // columns)):
        done = part.storage_offset() // columns
        k = torch.arange(done, done + len(part), device=device)
        places = (k[:, None] * odd).remainder_(4 * size)
        torch.index_select(cosine, 0, places.view(-1), out=part.view(-1))
    matrix[0] = math.sqrt(1 / size)
    return matrix


def _check_sizes(out_features: int, in_features: int) -> None:
    if min(out_features, in_features) < 1:
        raise SparsityError(
            f"`out_features` and `in_features` must be 1 or more, got {out_features}, {in_features}."
        )
