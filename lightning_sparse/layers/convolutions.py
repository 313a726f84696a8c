"""Convolutions whose kernel is a fixed dense one plus a trainable sparse one."""

from abc import abstractmethod
from operator import index
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_choice, check_count
from lightning_sparse.layers.backends import Backend
from lightning_sparse.layers.base import DensePlusSparse
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets import Offset, OffsetName

__all__ = [
    "DensePlusSparseConv",
    "DensePlusSparseConv1d",
    "DensePlusSparseConv2d",
    "DensePlusSparseConv3d",
    "PaddingMode",
]

PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
_Sides: TypeAlias = tuple[int, ...]
_SIDES = {1: "L", 2: "H, W", 3: "D, H, W"}  # what PyTorch calls them


class DensePlusSparseConv(DensePlusSparse):
    """Convolve with the kernel ``alpha C + S`` and add the bias; its children fix how many dimensions it has.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Sides of the kernel, or one number for all.
        indices: Flat positions of the values in the weight ``(out, in / groups, *kernel)``: distinct
            integers, in any order.
        stride: As in the ordinary layer, ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``.
        padding: As there; ``"same"`` and ``"valid"`` too.
        dilation: As there.
        groups: As there.
        bias: Whether there is a bias.
        padding_mode: As there.
        offset: The fixed kernel C: a name such as ``"dct"``, the cropped DCT, or an `Offset`.
        alpha: Scale of C at the start.
        alpha_requires_grad: Whether alpha is trained.
        backend: ``"materialize"`` builds the weight in each step, ``"transform"`` does not where C has a fast
            form (it has none for grouped kernels of one place), ``"kernels"`` is for GPUs and kernels of one
            place, ``"auto"`` takes what is faster.
        device: Of all tensors.
        dtype: Of the parameters.

    Raises:
        SparsityError: If a size is not positive, ``groups`` does not divide the channels, ``"same"`` padding
            meets a stride, ``indices`` are not distinct positions of the weight, or a name is unknown.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | _Sides,
        indices: Tensor,
        stride: int | _Sides = 1,
        padding: int | _Sides | str = 0,
        dilation: int | _Sides = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        *,
        offset: Offset | OffsetName = "dct",
        alpha: float = 1.0,
        alpha_requires_grad: bool = True,
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_channels(in_channels, out_channels, groups)
        check_choice("padding_mode", padding_mode, get_args(PaddingMode))
        kernel = _sides("kernel_size", kernel_size, self.dimensions)
        strides = _sides("stride", stride, self.dimensions)
        dilations = _sides("dilation", dilation, self.dimensions)
        before, after = _pads(padding, kernel, strides, dilations)
        nothing = (0,) * self.dimensions
        inside = before if before == after and padding_mode == "zeros" else nothing
        super().__init__(
            (out_channels, in_channels // groups, *kernel),
            indices,
            bias,
            Convolution(strides, inside, dilations, groups),
            offset=offset,
            alpha=alpha,
            alpha_requires_grad=alpha_requires_grad,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = kernel, strides, dilations
        self.padding = padding if isinstance(padding, str) else before
        self.padding_mode = padding_mode
        # F.pad counts from the last dimension; what the convolution pads itself is not padded here.
        pairs = zip(before[::-1], after[::-1], strict=True)
        outside = tuple(pad for pair in pairs for pad in pair)
        self._outer_padding = outside if inside == nothing else nothing * 2

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """Number of spatial dimensions."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that the ordinary layer gives it)
        """Map ``(N, in_channels, *sides)`` to ``(N, out_channels, *sides)``; N may be missing."""
        whole = self.dimensions + 2
        if input.dim() not in (whole - 1, whole) or input.shape[1 - whole] != self.in_channels:
            size = f"{self.in_channels}, {_SIDES[self.dimensions]}"
            raise SparsityError(f"`input` must be (N, {size}) or ({size}), got {tuple(input.shape)}.")
        x = self._cast(input if input.dim() == whole else input.unsqueeze(0))
        if any(self._outer_padding):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._outer_padding, mode)
        self._check_size(x)
        y = self._multiply(x)
        return y if input.dim() == whole else y.squeeze(0)

    def output_size(self, x: Tensor) -> tuple[int, ...]:
        """Return ``(N, out_channels, *sides)``."""
        assert self._geometry is not None
        return x.shape[0], self.out_channels, *self._geometry.output_size(x.shape, self.shape)

    def _sizes(self) -> str:
        """Return the sizes, and the other arguments that differ from the default."""
        options = {
            "stride": (1,) * self.dimensions,
            "padding": (0,) * self.dimensions,
            "dilation": (1,) * self.dimensions,
            "groups": 1,
            "padding_mode": "zeros",
        }
        told = [
            f"{key}={getattr(self, key)!r}" for key, usual in options.items() if getattr(self, key) != usual
        ]
        head = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        return ", ".join([head, *told])

    def _check_size(self, x: Tensor) -> None:
        if min(self.output_size(x)[2:]) < 1:
            raise SparsityError(
                f"`input` must be at least as large as the kernel, got {tuple(x.shape[2:])} after padding "
                f"for a kernel of {self.kernel_size} with dilation {self.dilation}."
            )


class DensePlusSparseConv1d(DensePlusSparseConv):
    """Convolve sequences ``(N, in_channels, L)`` with the kernel ``alpha C + S``, as ``nn.Conv1d`` does.

    For arguments and errors see `DensePlusSparseConv`.

    >>> DensePlusSparseConv1d(4, 8, 3, indices=torch.arange(10))(torch.ones(2, 4, 9)).shape
    torch.Size([2, 8, 7])
    """

    dimensions = 1


class DensePlusSparseConv2d(DensePlusSparseConv):
    """Convolve images ``(N, in_channels, H, W)`` with the kernel ``alpha C + S``, as ``nn.Conv2d`` does.

    For arguments and errors see `DensePlusSparseConv`.

    >>> DensePlusSparseConv2d(4, 8, 3, indices=torch.arange(10))(torch.ones(2, 4, 9, 8)).shape
    torch.Size([2, 8, 7, 6])
    """

    dimensions = 2


class DensePlusSparseConv3d(DensePlusSparseConv):
    """Convolve volumes ``(N, in_channels, D, H, W)`` with the kernel ``alpha C + S``, as ``nn.Conv3d`` does.

    For arguments and errors see `DensePlusSparseConv`.

    >>> DensePlusSparseConv3d(4, 8, (1, 3, 3), indices=torch.arange(10))(torch.ones(2, 4, 5, 9, 8)).shape
    torch.Size([2, 8, 5, 7, 6])
    """

    dimensions = 3


def _check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    for name, size in {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}.items():
        check_count(name, size)
    if in_channels % groups or out_channels % groups:
        raise SparsityError(
            f"`groups` must divide {in_channels} input and {out_channels} output channels, got {groups}."
        )


def _sides(name: str, value: int | _Sides, dimensions: int, least: int = 1) -> _Sides:
    """Return a number for each dimension."""
    sides = (value,) * dimensions if isinstance(value, int) else tuple(index(side) for side in value)
    if len(sides) != dimensions:
        raise SparsityError(
            f"`{name}` must be one number, or one for each of {dimensions} sides, got {value}."
        )
    for side in sides:
        check_count(name, side, least)
    return sides


def _pads(
    padding: int | _Sides | str, kernel: _Sides, stride: _Sides, dilation: _Sides
) -> tuple[_Sides, _Sides]:
    """Return the padding before and after, each with a number for each dimension."""
    if not isinstance(padding, str):
        pads = _sides("padding", padding, len(kernel), least=0)
        return pads, pads
    if padding not in ("same", "valid"):
        raise SparsityError(f"`padding` must be 'same', 'valid' or numbers, got {padding!r}.")
    if padding == "valid":
        return (0,) * len(kernel), (0,) * len(kernel)
    if any(step != 1 for step in stride):
        raise SparsityError(f"`padding='same'` must come with `stride=1`, got {stride}.")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    before = tuple(pad // 2 for pad in total)
    return before, tuple(pad - first for pad, first in zip(total, before, strict=True))
