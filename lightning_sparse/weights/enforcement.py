"""What sets pruned entries of tensors to zero, the fastest way that their device has, and tells when it must.

On the CPU a mask is kept as a factor of the weight's type: a product runs ten times as fast as a masked fill.
Elsewhere it is a factor too, of integers as wide as the weight's entries, by which their bits are multiplied:
one call for all weights, and what was NaN is zero after it, so nobody has to look and wait for the device. Of
large weights the pruned positions are kept there as booleans, and filled one weight after the other.
All of it in place: fused optimizers on CPU take a gradient whose strides differ from its weight's for
something else, without a word.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = [
    "all_finite",
    "all_finite_together",
    "as_bit_factor",
    "divides_by_zero",
    "fill_pruned_",
    "keep_only_",
    "layout_mask",
    "mask_of",
    "versions_of",
]

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their bytes."""

_version: Callable[[Tensor], int] = attrgetter("_version")

_LARGE = 2**22  # entries from which on a fill of one weight takes a GPU longer than its launch


def layout_mask(weight: Tensor, mask: Tensor) -> Tensor:
    """Return what masks ``weight`` fastest, laid out in memory like it: a factor, or what is pruned."""
    if weight.device.type == "cpu":
        return torch.empty_like(weight, requires_grad=False).copy_(mask)
    if weight.numel() < _LARGE and weight.is_floating_point() and weight.element_size() in _BITS:
        return as_bit_factor(weight, mask)
    return torch.empty_like(weight, dtype=torch.bool, requires_grad=False).copy_(~mask)


def as_bit_factor(weight: Tensor, mask: Tensor) -> Tensor:
    """Return a mask as the factor of a weight's bits: integers as wide as its entries."""
    bits = _BITS[weight.element_size()]
    return torch.empty_like(weight, dtype=bits, requires_grad=False).copy_(mask)


def versions_of(tensors: Sequence[Tensor]) -> list[int]:
    """Return what changes when somebody writes to tensors in place, or puts others in their place.

    What is written through ``tensor.data`` or a NumPy view changes none of it.
    """
    return [
        *map(id, tensors),
        *map(_version, tensors),
        *map(Tensor.data_ptr, tensors),
    ]  # at every step: no loop


def mask_of(keep: Tensor) -> Tensor:
    """Return the boolean mask that ``keep``, made by ``layout_mask``, stands for; True where it is kept."""
    return ~keep if keep.dtype == torch.bool else keep != 0


def divides_by_zero(optimizer: Optimizer, weights: list[Tensor]) -> bool:
    """Tell whether an epsilon is zero for some weight: Adam's usual one is in half precision."""
    epsilons = [group.get("eps") for group in optimizer.param_groups]  # Adafactor has a pair of another kind
    numbers = [epsilon for epsilon in epsilons if isinstance(epsilon, int | float)]
    dtypes = {weight.dtype for weight in weights}
    return any(not torch.tensor(n, dtype=dtype, device="cpu") for n in numbers for dtype in dtypes)


def keep_only_(tensors: list[Tensor], keeps: list[Tensor], check: bool = False) -> bool:
    """Set pruned entries to zero, the fast way; tell, if asked, whether what was multiplied is finite.

    Where bits are multiplied nothing is left of NaN, and finite or not makes no difference.
    """
    numbers: list[Tensor] = []
    kinds = [keep.dtype for keep in keeps]
    for kind in dict.fromkeys(kinds):
        some, factors = tensors, keeps
        if len(set(kinds)) > 1:
            some = [tensor for tensor, other in zip(tensors, kinds, strict=True) if other == kind]
            factors = [keep for keep in keeps if keep.dtype == kind]
        if kind.is_floating_point:
            torch._foreach_mul_(some, factors)
            numbers += some
        elif kind != torch.bool and all(tensor.itemsize == kind.itemsize for tensor in some):
            torch._foreach_mul_([tensor.view(kind) for tensor in some], factors)
        else:  # large weights; or `half()` after masks were laid out, or gradients of a type of their own
            fill_pruned_(some, factors)
    return not check or all(map(all_finite, numbers))


def fill_pruned_(tensors: list[Tensor], keeps: list[Tensor]) -> None:
    """Set pruned entries to zero whatever they are."""
    for tensor, keep in zip(tensors, keeps, strict=True):
        tensor.masked_fill_(keep if keep.dtype == torch.bool else keep == 0, 0)


def all_finite(values: Tensor) -> bool:
    """Tell whether all values are finite."""
    # A finite sum says so without memory, but that of finite values may overflow.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def all_finite_together(tensors: list[Tensor]) -> bool:
    """Tell whether all values of tensors, none of them empty, are finite; each device is waited for once."""
    norms = torch._foreach_norm(tensors, 1)  # a finite one says so; that of finite values may overflow
    devices = dict.fromkeys(norm.device for norm in norms)
    together = (torch.stack([norm for norm in norms if norm.device == device]) for device in devices)
    return all(bool(some.isfinite().all()) for some in together) or all(map(all_finite, tensors))
