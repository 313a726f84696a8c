"""Linear and Conv2d layers whose weight is a fixed dense matrix plus a trainable sparse one."""

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

__all__ = ["DensePlusSparseConv2d", "DensePlusSparseLinear", "PaddingMode"]

PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
_Pair: TypeAlias = tuple[int, int]


class DensePlusSparseLinear(DensePlusSparse):
    """Apply ``y = (alpha C + S) x + b``.

    Args:
        in_features: Length of an input vector.
        out_features: Length of an output vector.
        indices: Flat positions of the values in the weight ``(out, in)``: distinct integers, in any order.
        bias: Whether there is a bias b.
        offset: The fixed matrix C: a name such as ``"dct"``, the cropped DCT, or an `Offset`.
        alpha: Scale of C at the start.
        alpha_requires_grad: Whether alpha is trained.
        backend: ``"materialize"`` builds the weight in each step, ``"transform"`` never does, ``"auto"``
            takes what is faster.
        device: Of all tensors.
        dtype: Of the parameters.

    Raises:
        SparsityError: If a size is not positive, ``indices`` are not distinct positions of the weight, or
            ``backend`` is unknown.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 4.

    Examples:
        >>> layer = DensePlusSparseLinear(784, 300, indices=torch.arange(100))
        >>> sum(p.numel() for p in layer.parameters()), layer.weight.shape
        (401, torch.Size([300, 784]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        indices: Tensor,
        bias: bool = True,
        *,
        offset: Offset | OffsetName = "dct",
        alpha: float = 1.0,
        alpha_requires_grad: bool = True,
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_positive(in_features=in_features, out_features=out_features)
        super().__init__(
            (out_features, in_features),
            indices,
            bias,
            None,
            offset=offset,
            alpha=alpha,
            alpha_requires_grad=alpha_requires_grad,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.in_features, self.out_features = in_features, out_features

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.Linear gives it)
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        if input.dim() < 1 or input.shape[-1] != self.in_features:
            raise SparsityError(
                f"`input` must end in {self.in_features} features, got shape {tuple(input.shape)}. Does the "
                "net ask `isinstance(layer, nn.Linear)` before? A converted layer is none: `exclude` it."
            )
        rows = self._cast(input).reshape(-1, self.in_features)
        return self._multiply(rows).reshape(*input.shape[:-1], self.out_features)

    def output_size(self, x: Tensor) -> tuple[int, ...]:
        """Return ``(rows, out_features)``."""
        return x.shape[0], self.out_features

    def _sizes(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class DensePlusSparseConv2d(DensePlusSparse):
    """Convolve with the kernel ``alpha C + S`` and add the bias.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel, or one number for both.
        indices: Flat positions of the values in the weight ``(out, in / groups, height, width)``: distinct
            integers, in any order.
        stride: As in ``nn.Conv2d``.
        padding: As in ``nn.Conv2d``; ``"same"`` and ``"valid"`` too.
        dilation: As in ``nn.Conv2d``.
        groups: As in ``nn.Conv2d``.
        bias: Whether there is a bias.
        padding_mode: As in ``nn.Conv2d``.
        offset: The fixed kernel C: a name such as ``"dct"``, the cropped DCT, or an `Offset`.
        alpha: Scale of C at the start.
        alpha_requires_grad: Whether alpha is trained.
        backend: ``"materialize"`` builds the weight in each step, ``"transform"`` does not where C has a fast
            form (it has none for grouped 1 x 1 kernels), ``"auto"`` takes what is faster.
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
        kernel_size: int | _Pair,
        indices: Tensor,
        stride: int | _Pair = 1,
        padding: int | _Pair | str = 0,
        dilation: int | _Pair = 1,
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
        _check_positive(in_channels=in_channels, out_channels=out_channels, groups=groups)
        _check_positive(kernel_size=kernel_size, stride=stride, dilation=dilation)
        if in_channels % groups or out_channels % groups:
            raise SparsityError(
                f"`groups` must divide {in_channels} input and {out_channels} output channels, got {groups}."
            )
        check_choice("padding_mode", padding_mode, get_args(PaddingMode))
        kernel, strides, dilations = _pair(kernel_size), _pair(stride), _pair(dilation)
        before, after = _pads(padding, kernel, strides, dilations)
        inside = before if before == after and padding_mode == "zeros" else (0, 0)
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
        outside = (before[1], after[1], before[0], after[0])
        self._outer_padding = outside if inside == (0, 0) else (0, 0, 0, 0)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.Conv2d gives it)
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``; N may be missing."""
        if input.dim() not in (3, 4) or input.shape[-3] != self.in_channels:
            raise SparsityError(
                f"`input` must be (N, {self.in_channels}, H, W) or ({self.in_channels}, H, W), got "
                f"{tuple(input.shape)}."
            )
        x = self._cast(input if input.dim() == 4 else input.unsqueeze(0))
        if any(self._outer_padding):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._outer_padding, mode)
        self._check_size(x)
        y = self._multiply(x)
        return y if input.dim() == 4 else y.squeeze(0)

    def output_size(self, x: Tensor) -> tuple[int, ...]:
        """Return ``(N, out_channels, H', W')``."""
        assert self._geometry is not None
        return x.shape[0], self.out_channels, *self._geometry.output_size(x.shape, self.shape)

    def _sizes(self) -> str:
        """Return the sizes, and the other arguments that differ from the default."""
        options = {
            "stride": (1, 1),
            "padding": (0, 0),
            "dilation": (1, 1),
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


def _pair(value: int | _Pair) -> _Pair:
    return (value, value) if isinstance(value, int) else (index(value[0]), index(value[1]))


def _pads(padding: int | _Pair | str, kernel: _Pair, stride: _Pair, dilation: _Pair) -> tuple[_Pair, _Pair]:
    """Return the padding before and after, each (vertical, horizontal)."""
    if not isinstance(padding, str):
        pads = _pair(padding)
        for pad in pads:
            check_count("padding", pad, 0)
        return pads, pads
    if padding not in ("same", "valid"):
        raise SparsityError(f"`padding` must be 'same', 'valid' or numbers, got {padding!r}.")
    if padding == "valid":
        return (0, 0), (0, 0)
    if stride != (1, 1):
        raise SparsityError(f"`padding='same'` must come with `stride=1`, got {stride}.")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    before = (total[0] // 2, total[1] // 2)
    return before, (total[0] - before[0], total[1] - before[1])


def _check_positive(**sizes: int | _Pair) -> None:
    for name, size in sizes.items():
        for side in _pair(size):
            check_count(name, side)
