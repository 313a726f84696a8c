"""Other masks on weights: what is dropped becomes zero, and so does what belongs to whatever has moved."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_sparse.functional.groups import computes_later, groups_of
from lightning_sparse.weights.enforcement import keep_only_, mask_of
from lightning_sparse.weights.optimizers import all_within, state_held_like, zero_at_
from lightning_sparse.weights.shards import here

__all__ = ["Changed", "Masked", "change_masks_"]

_MOST_WEIGHTS = 2**25  # of a group, which needs some twenty bytes for each


class Masked(NamedTuple):
    """A weight, what masks it, made by ``layout_mask``, and the mask it shall have: of what is held here."""

    weight: Tensor
    keep: Tensor
    mask: Tensor


class Changed(NamedTuple):
    """How many entries a weight keeps here, and whether they are others than before."""

    kept: int
    moved: bool


@torch.no_grad()
def change_masks_(masked: Sequence[Masked], optimizers: Sequence[Optimizer]) -> list[Changed]:
    """Change masks, weights, gradients, and what optimizers keep for entries that are or were pruned.

    On the CPU weight by weight; elsewhere many at once, and the device is waited for once for all of these.
    """
    changed: dict[int, Changed] = {}
    optimizers = all_within(optimizers)
    kinds = [(one.weight.device, one.keep.dtype) for one in masked]
    sizes = [one.mask.numel() for one in masked]
    for group in groups_of(sizes, kinds, _MOST_WEIGHTS, len(masked)):
        some = [masked[i] for i in group]
        if computes_later(some[0].weight.device):
            found = _change_together_(some, optimizers)
        else:
            found = [_change_(*one, optimizers) for one in some]
        changed |= zip(group, found, strict=True)
    return [changed[i] for i in range(len(masked))]


def _change_(weight: Tensor, keep: Tensor, mask: Tensor, optimizers: Sequence[Optimizer]) -> Changed:
    values = here(weight)
    pruned = ~mask.to(values.device)
    before = mask_of(keep)
    reset = pruned | ~before
    moved = not torch.equal(~pruned, before)
    if moved and weight.grad is not None:  # some optimizers begin a step with what is left of the last
        here(weight.grad).masked_fill_(reset, 0)  # new ones take their first step with the next gradient
    keep.copy_(pruned if keep.dtype == torch.bool else ~pruned)
    values.masked_fill_(pruned, 0)
    for _, value in state_held_like(weight, optimizers):
        zero_at_(value, reset)
    return Changed(int(mask.sum()), moved)


def _change_together_(masked: Sequence[Masked], optimizers: Sequence[Optimizer]) -> list[Changed]:
    """Do as `change_masks_` for weights of one device whose masks are kept in one way."""
    sizes = [one.mask.numel() for one in masked]
    device, keeps = masked[0].weight.device, [one.keep for one in masked]
    new = torch.cat([one.mask.to(device).reshape(-1) for one in masked])
    before = mask_of(torch.cat([keep.reshape(-1) for keep in keeps]))
    counts = torch.stack([_sums(new, sizes), _sums(new ^ before, sizes)]).tolist()
    shapes = [one.mask.shape for one in masked]
    reset = _parts((new & before).logical_not_(), shapes)
    stored = ~new if keeps[0].dtype == torch.bool else new
    for (weight, _, _), places, moved in zip(masked, reset, counts[1], strict=True):
        if moved and weight.grad is not None:
            here(weight.grad).masked_fill_(places, 0)
        for _, value in state_held_like(weight, optimizers):
            zero_at_(value, places)
    torch._foreach_copy_(keeps, _parts(stored, shapes))
    keep_only_([here(one.weight) for one in masked], keeps)
    return [Changed(kept, bool(moved)) for kept, moved in zip(*counts, strict=True)]


def _parts(entries: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return what is laid end to end in these shapes."""
    sizes = [shape.numel() for shape in shapes]
    return [part.view(shape) for part, shape in zip(torch.split(entries, sizes), shapes, strict=True)]


def _sums(entries: Tensor, sizes: Sequence[int]) -> Tensor:
    """Count what is True in each of the parts of so many entries."""
    ends = torch.tensor([0, *accumulate(sizes)]).to(entries.device, non_blocking=True)
    numbers = torch.int32 if len(entries) < 2**31 else torch.int64
    totals = torch.nn.functional.pad(entries.cumsum(0, dtype=numbers), (1, 0))
    return totals.index_select(0, ends).diff()
