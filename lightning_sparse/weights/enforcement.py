"""What sets pruned entries of tensors to zero, the fastest way that their device has, and tells when it must.

On the CPU a mask is kept as a factor of the weight's type: a product runs ten times as fast as a masked fill.
Elsewhere the pruned positions are kept as booleans: a fill takes care of NaN without waiting for the device.
All of it in place: fused optimizers on CPU take a gradient whose strides differ from its weight's for
something else, without a word.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = [
    "all_finite",
    "divides_by_zero",
    "fill_pruned_",
    "keep_only_",
    "layout_mask",
    "mask_of",
    "versions_of",
]


def layout_mask(weight: Tensor, mask: Tensor) -> Tensor:
    """Return what masks ``weight`` fastest, laid out in memory like it: a factor, or what is pruned."""
    if weight.device.type == "cpu":
        return torch.empty_like(weight, requires_grad=False).copy_(mask)
    return torch.empty_like(weight, dtype=torch.bool, requires_grad=False).copy_(~mask)


def versions_of(tensors: Sequence[Tensor]) -> list[int]:
    """Return what changes when somebody writes to tensors in place, or puts others in their place.

    What is written through ``tensor.data`` or a NumPy view changes none of it.
    """
    return [number for tensor in tensors for number in (id(tensor), tensor._version, tensor.data_ptr())]


def mask_of(keep: Tensor) -> Tensor:
    """Return the boolean mask that ``keep``, made by ``layout_mask``, stands for; True where it is kept."""
    return keep != 0 if keep.is_floating_point() else ~keep


def divides_by_zero(optimizer: Optimizer, weights: list[Tensor]) -> bool:
    """Tell whether an epsilon is zero for some weight: Adam's usual one is in half precision."""
    epsilons = [group.get("eps") for group in optimizer.param_groups]  # Adafactor has a pair of another kind
    numbers = [epsilon for epsilon in epsilons if isinstance(epsilon, int | float)]
    dtypes = {weight.dtype for weight in weights}
    return any(not torch.tensor(n, dtype=dtype, device="cpu") for n in numbers for dtype in dtypes)


def keep_only_(tensors: list[Tensor], keeps: list[Tensor], check: bool = False) -> bool:
    """Set pruned entries to zero, the fast way; tell, if asked, whether what was multiplied is finite."""
    factors = [(t, k) for t, k in zip(tensors, keeps, strict=True) if k.is_floating_point()]
    if factors:
        multiplied = [tensor for tensor, _ in factors]
        torch._foreach_mul_(multiplied, [keep for _, keep in factors])
    for tensor, pruned in zip(tensors, keeps, strict=True) if len(factors) < len(tensors) else ():
        if not pruned.is_floating_point():
            tensor.masked_fill_(pruned, 0)
    return not check or not factors or all(map(all_finite, multiplied))


def fill_pruned_(tensors: list[Tensor], keeps: list[Tensor]) -> None:
    """Set pruned entries to zero whatever they are."""
    for tensor, keep in zip(tensors, keeps, strict=True):
        tensor.masked_fill_(~mask_of(keep), 0)


def all_finite(values: Tensor) -> bool:
    """Tell whether all values are finite."""
    # A finite sum says so without memory, but that of finite values may overflow.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
