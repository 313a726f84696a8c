"""What is added to the sparse matrix of a layer: a fixed dense matrix that costs no memory, or nothing.

An offset is plain data without tensors, so layers share it, copy it and print it. It hands out its matrix,
and, where there is one, a `LinearMap` that multiplies by it faster than the matrix could.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_sparse.functional.dct import dct, dct_adjoint, dct_matrix, shared
from lightning_sparse.layers.geometry import Convolution

__all__ = ["DCTOffset", "LinearMap", "NoOffset", "Offset"]


class LinearMap(ABC):
    """A fixed matrix or convolution as two functions; inputs are float32 or float64."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to ``(rows, in)``, or to images ``(batch, channels, H, W)``."""

    @abstractmethod
    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        """Apply the transposed map, to a tensor shaped like the output; the result has ``input_size``."""


class Offset(ABC):
    """The dense part C of a layer ``alpha C + S``."""

    @property
    def is_zero(self) -> bool:
        """Whether there is no dense part, and hence no alpha."""
        return False

    @abstractmethod
    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """Return C in the shape of the layer's weight, shared and not to be written to; ``None`` if zero."""

    @abstractmethod
    def transform(
        self, shape: torch.Size, geometry: Convolution | None, dtype: torch.dtype, device: torch.device
    ) -> LinearMap | None:
        """Return the fast way to multiply by C, or ``None`` where there is none, or nothing to multiply.

        Args:
            shape: Shape of the layer's weight, ``(out, in)`` or ``(out, in / groups, height, width)``.
            geometry: Of the convolution; ``None`` for a linear layer.
            dtype: float32 or float64.
            device: Where inputs will lie.
        """

    @abstractmethod
    def norm(self, shape: torch.Size) -> float:
        """Return the Frobenius norm of C for a weight of that shape."""


@dataclass(frozen=True)
class NoOffset(Offset):
    """Nothing: a plain sparse layer, stored compactly. It has no alpha."""

    @property
    def is_zero(self) -> bool:
        """True."""
        return True

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        """Return ``None``."""

    def transform(
        self,
        shape: torch.Size,
        geometry: Convolution | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Return ``None``."""

    def norm(self, shape: torch.Size) -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0


@dataclass(frozen=True)
class DCTOffset(Offset):
    """The orthonormal DCT-II of size ``max(out, patch)``, cropped to ``(out, patch)``.

    A convolution's patch is flattened in the order (height, width, channel). With groups, each group has its
    own frequencies: C has ``out`` rows in all and ``patch = in / groups * height * width`` columns.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 4;
        the patch order is that of their code.
    """

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the cropped DCT in the shape of the weight."""
        if len(shape) == 2:
            return dct_matrix(*shape, dtype, device)
        return shared(("kernel", shape, dtype, device), lambda: _kernel(shape, dtype, device))

    def transform(
        self, shape: torch.Size, geometry: Convolution | None, dtype: torch.dtype, device: torch.device
    ) -> LinearMap | None:
        """Return an FFT for linear layers and 1 x 1 convolutions, a separable form for larger kernels."""
        if geometry is None:
            return _DCTLinear(shape[0])
        if math.prod(shape[2:]) > 1:
            return _SeparableDCT(shape, geometry, dtype, device)
        return _DCTPointwise(shape[0], geometry) if geometry.groups == 1 else None

    def norm(self, shape: torch.Size) -> float:
        """Return the square root of ``min(out, patch)``: that many orthonormal rows or columns."""
        return math.sqrt(min(shape[0], math.prod(shape[1:])))


@dataclass(frozen=True)
class _DCTLinear(LinearMap):
    out_features: int

    def __call__(self, x: Tensor) -> Tensor:
        return dct(x, self.out_features)

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        return dct_adjoint(grad, input_size[-1])


@dataclass(frozen=True)
class _DCTPointwise(LinearMap):
    """A 1 x 1 convolution is a linear layer on the channels of every pixel that the stride meets."""

    out_channels: int
    geometry: Convolution

    def __call__(self, x: Tensor) -> Tensor:
        pixels = self._pixels(F.pad(x, self._pads())).permute(0, 2, 3, 1)
        return dct(pixels, self.out_channels).permute(0, 3, 1, 2)

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        (top, left), (height, width) = self.geometry.padding, input_size[2:]
        padded = grad.new_zeros(*input_size[:2], height + 2 * top, width + 2 * left)
        self._pixels(padded).copy_(dct_adjoint(grad.permute(0, 2, 3, 1), input_size[1]).permute(0, 3, 1, 2))
        return padded[:, :, top : top + height, left : left + width]

    def _pads(self) -> list[int]:
        vertical, horizontal = self.geometry.padding
        return [horizontal, horizontal, vertical, vertical]

    def _pixels(self, x: Tensor) -> Tensor:
        vertical, horizontal = self.geometry.stride
        return x[:, :, ::vertical, ::horizontal]


class _SeparableDCT(LinearMap):
    r"""The DCT of patches as two small convolutions, exactly.

    With frequency ``t_o = pi o / 2q`` and patch index ``j = s C + c`` (s: place in the kernel, c: channel)
    ``cos(t_o (2j + 1)) = cos(2 t_o C s) cos(t_o (2c + 1)) - sin(2 t_o C s) sin(t_o (2c + 1))``: a 1 x 1
    convolution to two channels per output, then a kernel over these two.

    The 1 x 1 kernel has two entries for each row and channel, which would be 2/9 of a 3 x 3 weight. So it is
    not kept but multiplied out for each use, from two tables of about ``sqrt(channels)`` columns.
    """

    def __init__(
        self, shape: torch.Size, geometry: Convolution, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.pointwise_geometry = Convolution(groups=geometry.groups)
        self.spatial_geometry = replace(geometry, groups=shape[0])
        self.shape, key = shape, (shape, dtype, device)
        step, kind = math.isqrt(shape[1] - 1) + 1, torch.promote_types(dtype, torch.complex64)
        self.coarse = shared(("coarse", *key), lambda: _coarse_factor(shape, step).to(device, kind))
        self.fine = shared(("fine", *key), lambda: _fine_factor(shape, step).to(device, kind))
        self.spatial = shared(("spatial", *key), lambda: _spatial_factor(shape).to(device, dtype))

    def __call__(self, x: Tensor) -> Tensor:
        pairs = self.pointwise_geometry.convolve(x, self._pointwise())
        return self.spatial_geometry.convolve(pairs, self.spatial)

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        pairs_size = torch.Size((input_size[0], 2 * self.shape[0], *input_size[2:]))
        pairs = self.spatial_geometry.input_gradient(grad, self.spatial, pairs_size)
        return self.pointwise_geometry.input_gradient(pairs, self._pointwise(), input_size)

    def _pointwise(self) -> Tensor:
        """Return ``s_o cos(t_o (2c + 1))`` and ``-s_o sin(t_o (2c + 1))``: ``(2 out, channels, 1, 1)``."""
        out, channels = self.shape[:2]
        waves = (self.coarse[:, :, None] * self.fine[:, None, :]).flatten(1)[:, :channels]
        return torch.stack([waves.real, waves.imag], 1).view(2 * out, channels, 1, 1)


def _kernel(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    out, channels, height, width = shape
    matrix = dct_matrix(out, math.prod(shape[1:]), dtype, device)
    kernel = torch.empty(shape, dtype=dtype, device=device)  # contiguous() would keep odd strides for 1 x 1
    return kernel.copy_(matrix.view(out, height, width, channels).permute(0, 3, 1, 2))


def _coarse_factor(shape: torch.Size, step: int) -> Tensor:
    """Return ``s_o exp(-2i t_o c)`` for every ``step``-th channel c: ``(out, channels / step)``."""
    size = max(shape[0], math.prod(shape[1:]))
    scale = torch.full((shape[0], 1), math.sqrt(2 / size), dtype=torch.float64)
    scale[0] = math.sqrt(1 / size)
    angle = _frequencies(shape) * (2 * torch.arange(0, shape[1], step, dtype=torch.float64))
    return torch.polar(scale.expand_as(angle), -angle)


def _fine_factor(shape: torch.Size, step: int) -> Tensor:
    """Return ``exp(-i t_o (2c + 1))`` for the first ``step`` channels c: ``(out, step)``."""
    angle = _frequencies(shape) * (2 * torch.arange(step, dtype=torch.float64) + 1)
    return torch.polar(torch.ones_like(angle), -angle)


def _spatial_factor(shape: torch.Size) -> Tensor:
    """Return ``cos(2 t_o C s)`` and ``sin(2 t_o C s)``: ``(out, 2, height, width)``."""
    out, channels, height, width = shape
    places = torch.arange(height * width, dtype=torch.float64)
    angle = _frequencies(shape) * (2 * channels * places)
    return torch.stack([angle.cos(), angle.sin()], 1).view(out, 2, height, width)


def _frequencies(shape: torch.Size) -> Tensor:
    """Return the column of ``t_o = pi o / 2q``."""
    size = max(shape[0], math.prod(shape[1:]))
    return torch.arange(shape[0], dtype=torch.float64)[:, None] * (math.pi / (2 * size))
