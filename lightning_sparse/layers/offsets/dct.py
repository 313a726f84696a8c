"""The DCT as an offset: computed, and stored nowhere."""

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_sparse.checks import check_choice
from lightning_sparse.functional.dct import DCTPlan, dct_matrix, shared
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.kernels.dct import KernelDCT, dct_rows
from lightning_sparse.layers.offsets.base import LinearMap, Offset, OffsetOptions, register_offset
from lightning_sparse.layers.offsets.pointwise import Pointwise

__all__ = ["DCTOffset", "PatchOrder", "dct_transform"]


PatchOrder: TypeAlias = Literal["hwc", "chw"]
"""In which order the DCT goes through a convolution's patch: "hwc" has the channel innermost, whatever the
number of spatial dimensions; "chw" is the order of the weight's own."""


# Of the DCT's part in a forward and backward pass, as explained in ``lightning_sparse/layers/backends``:
# for each call, and for each row and feature or channel; of larger kernels also product of channels.
LINEAR, POINTWISE, SPATIAL = (200, 0.0073), (81, 0.01), (670, 0.013, 0.00011)

# The layout in which small convolutions are fastest, by the number of spatial dimensions.
_LAYOUTS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


@register_offset
@dataclass(frozen=True)
class DCTOffset(Offset):
    """The orthonormal DCT-II of size ``max(out, patch)``, cropped to ``(out, patch)``.

    With groups, each group has its own frequencies: C has ``out`` rows in all and
    ``patch = in / groups * places`` columns, with as many places as the kernel has.

    Args:
        patch_order: How a convolution's patch is flattened: ``"hwc"``, as in the authors' code, with the
            channel innermost, or ``"chw"``, the order of the weight's own dimensions. So for sequences and
            volumes as well.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 4.
    """

    name = "dct"

    patch_order: PatchOrder = "hwc"

    def __post_init__(self) -> None:
        check_choice("patch_order", self.patch_order, get_args(PatchOrder))

    def options(self, shape: torch.Size) -> OffsetOptions:
        """Return the order of patches for kernels; for other weights it makes no difference."""
        return {"patch_order": self.patch_order} if math.prod(shape[2:]) > 1 else {}

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the cropped DCT in the shape of the weight."""
        if len(shape) == 2:
            return dct_matrix(*shape, dtype, device)
        key = ("kernel", shape, self.patch_order, dtype, device)
        return shared(key, lambda: _kernel(shape, self.patch_order, dtype, device))

    def transform(
        self, shape: torch.Size, geometry: Convolution | None, dtype: torch.dtype, device: torch.device
    ) -> LinearMap | None:
        """Return an FFT for linear layers and kernels of one place, a separable form for larger kernels."""
        return dct_transform(shape, geometry, self.patch_order, dtype, device)

    def transform_time(self, shape: torch.Size, rows: int, threads: int) -> float:
        """Return what was fitted; only matrix products are counted as shared among threads."""
        longer = max(shape[:2])
        if len(shape) == 2:
            return LINEAR[0] + LINEAR[1] * rows * longer
        if math.prod(shape[2:]) == 1:
            return POINTWISE[0] + POINTWISE[1] * rows * longer
        return SPATIAL[0] + rows * shape[0] * (SPATIAL[1] + SPATIAL[2] * shape[1] / threads)

    def norm(self, shape: torch.Size) -> float:
        """Return the square root of ``min(out, patch)``: that many orthonormal rows or columns."""
        return math.sqrt(min(shape[0], math.prod(shape[1:])))


def dct_transform(
    shape: torch.Size,
    geometry: Convolution | None,
    order: PatchOrder,
    dtype: torch.dtype,
    device: torch.device,
    signs: Tensor | None = None,
) -> LinearMap | None:
    """Return the fast form of the DCT for a weight, as `Offset.transform` does.

    Args:
        shape: Shape of the weight.
        geometry: Of the convolution; ``None`` for a linear layer.
        order: How a patch is flattened.
        dtype: float32 or float64.
        device: Where inputs will lie.
        signs: By which the matrix is multiplied, place by place of a kernel larger than 1: a tensor to be
            broadcast against the weight. ``None``: by 1.
    """
    if geometry is not None and math.prod(shape[2:]) > 1:
        return _SeparableDCT(shape, geometry, order, dtype, device, signs)
    rows = _DCTLinear(shape[0], dct_rows(max(shape[:2]), dtype, device))
    if geometry is None:
        return rows
    return Pointwise(rows, geometry) if geometry.groups == 1 else None


@dataclass(frozen=True)
class _DCTLinear(LinearMap):
    out_features: int
    plan: DCTPlan | KernelDCT

    @property
    def takes_half(self) -> bool:  # type: ignore[override]
        return isinstance(self.plan, KernelDCT)

    def __call__(self, x: Tensor) -> Tensor:
        return self.plan.forward(x, self.out_features)

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        return self.plan.adjoint(grad, input_size[1])


class _SeparableDCT(LinearMap):
    r"""The DCT of patches as small convolutions, exactly.

    With frequency ``t_o = pi o / 2q`` and patch index ``j = u c + v s`` (c: channel, s: place in the kernel;
    u, v: 1 and C with channels innermost, the number of places and 1 with places innermost)
    ``cos(t_o (2j + 1)) = cos(2 t_o u c) cos(t_o (2v s + 1)) - sin(2 t_o u c) sin(t_o (2v s + 1))``: a 1 x 1
    convolution to two channels per output, a kernel for each of them, and their sum. The channels of the
    cosines come first, then those of the sines, group by group: a kernel per channel is fast, one over two is
    not, and channels_last is the layout in which it is fastest.

    The 1 x 1 kernel has two entries for each row and channel, which would be 2/9 of a 3 x 3 weight. So it is
    not kept but multiplied out for each use, from two tables of about ``sqrt(channels)`` columns. Signs of
    places go into the kernels: they are multiplied by them once, and cost nothing later.
    """

    def __init__(
        self,
        shape: torch.Size,
        geometry: Convolution,
        order: PatchOrder,
        dtype: torch.dtype,
        device: torch.device,
        signs: Tensor | None,
    ) -> None:
        self.pointwise_geometry = Convolution.plain(geometry.dimensions, geometry.groups)
        self.spatial_geometry = replace(geometry, groups=2 * shape[0])
        places = math.prod(shape[2:])
        per_channel, per_place = (1, shape[1]) if order == "hwc" else (places, 1)
        self.shape, key = shape, (shape, geometry.groups, order, dtype, device)
        step, kind = math.isqrt(shape[1] - 1) + 1, torch.promote_types(dtype, torch.complex64)

        def waves(channels: Tensor) -> Tensor:
            """Return ``exp(-2i t_o u c)``: ``(out, channels)``."""
            angle = _frequencies(shape) * (2 * per_channel * channels)
            return torch.polar(torch.ones_like(angle), -angle).to(device, kind)

        def kernels() -> Tensor:
            """Return ``s_o cos(t_o (2v s + 1))`` and ``s_o sin(t_o (2v s + 1))``."""
            angle = _frequencies(shape) * (2 * per_place * _numbers(places) + 1)
            angle, scale = angle.view(-1, 1, *shape[2:]), _scales(shape).view(-1, *[1] * (len(shape) - 1))
            if signs is not None:
                scale = scale * signs.cpu()
            return self._pairs(scale * angle.cos(), scale * angle.sin()).to(device, dtype)

        self.coarse = shared(("coarse", *key), lambda: waves(_numbers(shape[1])[::step]))
        self.fine = shared(("fine", *key), lambda: waves(_numbers(step)))
        signed = () if signs is None else tuple(signs.flatten().tolist())
        self.spatial = shared(("spatial", *key, signed), kernels)

    def __call__(self, x: Tensor) -> Tensor:
        pairs = self.pointwise_geometry.convolve(_channels_last(x), self._pointwise())
        parts = self.spatial_geometry.convolve(pairs, self.spatial).chunk(
            2 * self.pointwise_geometry.groups, 1
        )
        sums = [cosines + sines for cosines, sines in zip(parts[::2], parts[1::2], strict=True)]
        return sums[0] if len(sums) == 1 else torch.cat(sums, 1)

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        parts = _channels_last(grad).chunk(self.pointwise_geometry.groups, 1)
        twice = torch.cat([part for part in parts for _ in range(2)], 1)
        pairs_size = torch.Size((input_size[0], 2 * self.shape[0], *input_size[2:]))
        pairs = self.spatial_geometry.transpose(twice, self.spatial, pairs_size)
        return self.pointwise_geometry.transpose(pairs, self._pointwise(), input_size)

    def _pointwise(self) -> Tensor:
        """Return ``cos(2 t_o u c)`` and ``-sin(2 t_o u c)``: ``(2 out, channels, 1, ...)``."""
        waves = (self.coarse[:, :, None] * self.fine[:, None, :]).flatten(1)[:, : self.shape[1]]
        waves = waves.view(*waves.shape, *[1] * (len(self.shape) - 2))
        return self._pairs(waves.real, waves.imag)

    def _pairs(self, cosines: Tensor, sines: Tensor) -> Tensor:
        """Lay two kernels per output out as the channels are: all of a group's first, then all its second."""
        groups = self.pointwise_geometry.groups
        pairs = [part.view(groups, -1, *part.shape[1:]) for part in (cosines, sines)]
        return torch.stack(pairs, 1).flatten(0, 2)


def _kernel(shape: torch.Size, order: PatchOrder, dtype: torch.dtype, device: torch.device) -> Tensor:
    out, channels, *places = shape
    matrix = dct_matrix(out, math.prod(shape[1:]), dtype, device)
    kernel = torch.empty(shape, dtype=dtype, device=device)  # contiguous() would keep odd strides for 1 x 1
    if order == "chw":
        return kernel.copy_(matrix.view(shape))
    return kernel.copy_(matrix.view(out, *places, channels).movedim(-1, 1))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=_LAYOUTS[x.dim() - 2])


def _frequencies(shape: torch.Size) -> Tensor:
    """Return the column of ``t_o = pi o / 2q``."""
    return _numbers(shape[0])[:, None] * (math.pi / (2 * max(shape[0], math.prod(shape[1:]))))


def _scales(shape: torch.Size) -> Tensor:
    """Return ``s_0 = sqrt(1 / q)``, ``s_o = sqrt(2 / q)``."""
    size = max(shape[0], math.prod(shape[1:]))
    scales = torch.full(shape[:1], math.sqrt(2 / size), dtype=torch.float64, device="cpu")
    scales[0] = math.sqrt(1 / size)
    return scales


def _numbers(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device="cpu")
