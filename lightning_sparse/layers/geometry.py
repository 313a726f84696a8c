"""Where a convolution's kernel meets the image, and the convolution by itself."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import grad as nn_grad

__all__ = ["Convolution"]


@dataclass(frozen=True)
class Convolution:
    """Geometry of a 2-d convolution: pairs (vertical, horizontal); ``padding`` is zeros on both sides."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_size(self, input_size: torch.Size, shape: torch.Size) -> tuple[int, int]:
        """Return height and width of the output for an input ``(..., H, W)`` and a weight's shape."""
        height, width = (
            (input_size[i - 2] + 2 * self.padding[i] - self.dilation[i] * (shape[i - 2] - 1) - 1) // step + 1
            for i, step in enumerate(self.stride)
        )
        return height, width

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve images ``(batch, channels, H, W)``."""
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

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
        return F.conv_transpose2d(grad, weight, None, *options)

    def gradients(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of images and weight for that of the output, as far as ``needs`` says.

        Both at once, as autograd has them: `torch.nn.grad` does without the images, which takes longer.
        """
        options = (None, self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
        d_x, d_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, *options, (*needs, False))
        return d_x, d_weight

    def weight_gradient(self, grad: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient of the weight for that of the output."""
        options = (self.stride, self.padding, self.dilation, self.groups)
        gradient = nn_grad.conv2d_weight(x, shape, grad, *options)  # type: ignore[no-untyped-call]
        return cast(Tensor, gradient)
