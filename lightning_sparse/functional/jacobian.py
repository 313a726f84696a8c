"""The input-output Jacobian of a net, and its singular values."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["input_jacobians", "singular_values"]


def input_jacobians(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    r"""Return :math:`J_{ij} = \partial f_i / \partial x_j` of every item of a batch.

    It takes one pass forward, and one back for each output.

    Exact to rounding, in the type of ``inputs``. Items must not know of each other, as in a net without batch
    statistics: what an output has of another item would be added to that item's row.

    Args:
        forward: Takes the batch, and returns outputs with the batch first; all else is flattened.
        inputs: The batch, ``(N, ...)``.

    Returns:
        ``(N, outputs, inputs)``, zero where no path leads from an input to an output.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 6.

    Examples:
        The Jacobian of a linear net is the product of its matrices, whatever the input:

        >>> first, second = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 3.0]])
        >>> input_jacobians(lambda x: x @ first.t() @ second.t(), torch.randn(1, 2))
        tensor([[[0., 6.]]])
    """
    x = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = forward(x)
    by_item = outputs.reshape(len(x), -1)
    if not by_item.requires_grad:  # nothing of the input is left in it
        return x.new_zeros(len(x), by_item.shape[1], x[0].numel())
    sums = by_item.sum(dim=0)
    rows = [_row(total, x) for total in sums]
    return torch.stack([row.reshape(len(x), -1) for row in rows], dim=1)


def singular_values(jacobians: Tensor) -> Tensor:
    """Return the singular values of each Jacobian, the largest first; of a zero matrix all are exactly zero.

    They are taken of the matrices, not of their products with themselves, which would lose half the digits.
    What is only a rounding error is set to zero: values below ``max(outputs, inputs)`` times the precision
    of the type, relative to the largest. That is how numerical ranks are counted.

    Args:
        jacobians: ``(N, outputs, inputs)``.

    Returns:
        ``(N, min(outputs, inputs))``.

    Examples:
        >>> singular_values(torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]])).tolist()
        [[5.0, 2.0]]
    """
    # Deep sparse nets have entries below 1e-300 in all that is there: scaled to 1, none is rounded to zero.
    largest = jacobians.abs().amax(dim=(1, 2), keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    values: Tensor = torch.linalg.svdvals(jacobians / scale)
    rounding = values[:, :1] * max(jacobians.shape[1:]) * torch.finfo(values.dtype).eps
    return values.masked_fill_(values <= rounding, 0.0) * scale[:, :, 0]


def _row(total: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of one output, summed over the batch, with respect to every item."""
    (gradient,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient.detach()
