"""Where a convolution's kernel meets its input, and the convolution by itself."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import grad as nn_grad

__all__ = ["Convolution"]

# By the number of spatial dimensions.
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_WEIGHT_GRADIENT = {1: nn_grad.conv1d_weight, 2: nn_grad.conv2d_weight, 3: nn_grad.conv3d_weight}


@dataclass(frozen=True)
class Convolution:
    """Geometry of a convolution of one to three spatial dimensions; ``padding`` is zeros on both sides.

    Defaults are those of two dimensions; `plain` has them for any number.

    Args:
        stride: A number for each dimension, in the order of the weight's: of images (vertical, horizontal).
        padding: The same.
        dilation: The same.
        groups: Into which channels are parted.
    """

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    @classmethod
    def plain(cls, dimensions: int, groups: int = 1) -> "Convolution":
        """Return the geometry of a convolution without stride, padding and dilation."""
        return cls((1,) * dimensions, (0,) * dimensions, (1,) * dimensions, groups)

    @property
    def dimensions(self) -> int:
        """Number of spatial dimensions."""
        return len(self.stride)

    @property
    def padding_from_last(self) -> list[int]:
        """The padding as ``F.pad`` takes it: before and after, from the last dimension to the first."""
        return [pad for pad in reversed(self.padding) for _ in range(2)]

    def output_size(self, input_size: torch.Size, shape: torch.Size) -> tuple[int, ...]:
        """Return the sides of the output for an input ``(..., *sides)`` and a weight's shape.

        >>> Convolution((2,), (1,), (1,)).output_size(torch.Size((4, 3, 8)), torch.Size((6, 3, 3)))
        (4,)
        """
        first = -len(self.stride)
        return tuple(
            (input_size[first + i] + 2 * self.padding[i] - self.dilation[i] * (shape[first + i] - 1) - 1)
            // step
            + 1
            for i, step in enumerate(self.stride)
        )

    def met_pixels(self, x: Tensor) -> Tensor:
        """Return the pixels of ``(batch, channels, *sides)`` that a kernel of one place meets: a view."""
        met = (slice(None), slice(None), *(slice(None, None, step) for step in self.stride))
        return x[met]

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve ``(batch, channels, *sides)``."""
        convolve = _CONVOLVE[len(self.stride)]
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, grad: Tensor, weight: Tensor, input_size: torch.Size) -> Tensor:
        """Apply the adjoint of `convolve`; for small groups faster than what autograd does."""
        shortest = (
            (size - 1) * step - 2 * pad + gap * (kernel - 1) + 1
            for size, step, pad, gap, kernel in zip(
                grad.shape[2:], self.stride, self.padding, self.dilation, weight.shape[2:], strict=True
            )
        )
        missing = [size - least for size, least in zip(input_size[2:], shortest, strict=True)]
        options = (self.stride, self.padding, missing, self.groups, self.dilation)
        return _TRANSPOSE[len(self.stride)](grad, weight, None, *options)

    def gradients(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of input and weight for that of the output, as far as ``needs`` says.

        Both at once, as autograd has them: `torch.nn.grad` does without the input, which takes longer.
        """
        no_more = (0,) * len(self.stride)
        options = (None, self.stride, self.padding, self.dilation, False, no_more, self.groups)
        d_x, d_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, *options, (*needs, False))
        return d_x, d_weight

    def weight_gradient(self, grad: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient of the weight for that of the output."""
        options = (self.stride, self.padding, self.dilation, self.groups)
        gradient = _WEIGHT_GRADIENT[len(self.stride)](x, shape, grad, *options)  # type: ignore[no-untyped-call]
        return cast(Tensor, gradient)
