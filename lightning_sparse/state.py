"""The masks of one module, and what keeps its pruned weights at zero.

A masked weight is an ordinary dense ``nn.Parameter`` whose pruned entries are zeros. Before each optimizer
step the gradients of pruned weights are set to zero, after it the weights are; in between, whatever the
optimizer keeps per weight stays zero as well. Nothing is planted in the module: the state is found through
a registry that forgets a module when the program does.
"""

import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_sparse.functional.masks import pack_bits, unpack_bits
from lightning_sparse.selection import plain_name
from lightning_sparse.types import Masks

__all__ = ["SparseState", "pack_masks", "state_of", "unpack_masks"]

AfterStep = Callable[[Optimizer], None]


@dataclass
class _Plan:
    """What one optimizer holds of the masked weights."""

    size: int
    """Number of parameters the optimizer had when the plan was made: it may be given more later."""
    weights: list[Tensor]
    keep: list[Tensor]


class SparseState:
    """Masks of one module, their owner, and their enforcement.

    Attributes:
        masks: Boolean mask per weight, True where the weight is kept, on the weight's device.
        weights: The masked weights by name.
    """

    def __init__(self) -> None:
        self.masks: Masks = {}
        self.weights: dict[str, nn.Parameter] = {}
        self._owner: weakref.ReferenceType[object] | None = None
        self._keep: dict[int, Tensor] = {}
        self._plans: dict[int, _Plan] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def owner(self) -> object | None:
        """The callback that made the masks and may change them."""
        return self._owner() if self._owner is not None else None

    def install_(
        self,
        module: nn.Module,
        masks: Mapping[str, Tensor],
        owner: object,
        optimizers: Iterable[Optimizer] = (),
    ) -> None:
        """Take over ``masks`` and set the pruned weights of ``module``, and their optimizer state, to zero.

        Raises:
            ValueError: If the module has no such weight, or one of another shape.
        """
        parameters = {plain_name(name): parameter for name, parameter in module.named_parameters()}
        for name, mask in masks.items():
            found = parameters[name].shape if name in parameters else None
            if found != mask.shape:
                raise ValueError(
                    f"The mask of {name!r} is for a weight of shape {tuple(mask.shape)}, but the module has "
                    + ("none of that name." if found is None else f"one of shape {tuple(found)}.")
                    + " Build the module as it was when the masks were made."
                )
        self.weights = {name: parameters[name] for name in masks}
        self.masks = {name: mask.to(parameters[name].device, torch.bool) for name, mask in masks.items()}
        self._owner = weakref.ref(owner)
        self._keep = {id(w): _keeper(w, self.masks[name]) for name, w in self.weights.items()}
        self._plans.clear()
        self.zero_pruned_(optimizers)

    @torch.no_grad()
    def zero_pruned_(self, optimizers: Iterable[Optimizer] = ()) -> None:
        """Set pruned weights, and what ``optimizers`` keep for them, to exactly zero."""
        optimizers = list(optimizers)
        for name, weight in self.weights.items():
            pruned = ~self.masks[name]
            weight.masked_fill_(pruned, 0)
            for optimizer in optimizers:
                for value in optimizer.state.get(weight, {}).values():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        value.masked_fill_(pruned, 0)

    def attach(self, optimizers: Sequence[Optimizer], after_step: AfterStep | None = None) -> None:
        """Keep pruned weights at zero after every step of ``optimizers``, in whatever loop they are used."""
        self.detach()

        def hook(optimizer: Optimizer, *_: Any) -> None:
            self.mask_weights_(optimizer)
            if after_step is not None:
                after_step(optimizer)

        self._handles = [optimizer.register_step_post_hook(hook) for optimizer in optimizers]

    def detach(self) -> None:
        """Remove the hooks; the masks stay known for a later fit."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._plans.clear()

    @torch.no_grad()
    def mask_gradients_(self, optimizer: Optimizer) -> None:
        """Set the gradients of pruned weights to zero, NaN and infinite ones too.

        In place only: fused optimizers on CPU take a gradient whose strides differ from its weight's for
        something else, without a word.
        """
        plan = self._plan(optimizer)
        gradients = [w.grad for w in plan.weights if w.grad is not None]
        keeps = [k for w, k in zip(plan.weights, plan.keep, strict=True) if w.grad is not None]
        if gradients:
            _keep_only_(gradients, keeps)
            if keeps[0].is_floating_point() and not _all_finite(gradients):  # 0 * NaN is NaN
                for gradient, keep in zip(gradients, keeps, strict=True):
                    gradient.masked_fill_(keep == 0, 0)

    @torch.no_grad()
    def mask_weights_(self, optimizer: Optimizer) -> None:
        """Set the pruned weights that ``optimizer`` holds to zero.

        Needed after optimizers that mix coordinates, and after steps that Lightning did not see.
        """
        plan = self._plan(optimizer)
        if plan.weights:
            _keep_only_(plan.weights, plan.keep)

    def _plan(self, optimizer: Optimizer) -> _Plan:
        size = sum(len(group["params"]) for group in optimizer.param_groups)
        plan = self._plans.get(id(optimizer))
        if plan is None or plan.size != size:
            held: list[Tensor] = [
                p for group in optimizer.param_groups for p in group["params"] if id(p) in self._keep
            ]
            plan = _Plan(size, held, [self._keep[id(p)] for p in held])
            self._plans[id(optimizer)] = plan
        return plan


_states: "weakref.WeakKeyDictionary[nn.Module, SparseState]" = weakref.WeakKeyDictionary()


def state_of(module: nn.Module) -> SparseState:
    """Return the one :class:`SparseState` of ``module``, an empty one at first."""
    return _states.setdefault(module, SparseState())


def pack_masks(masks: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return masks as a checkpoint holds them: eight weights a byte, with shape, count and checksum."""
    return {name: _pack(mask) for name, mask in masks.items()}


def unpack_masks(packed: Mapping[str, Mapping[str, Any]]) -> Masks:
    """Return the masks that :func:`pack_masks` packed.

    Raises:
        ValueError: If the bits of a mask are not those that were packed.
    """
    masks: Masks = {}
    for name, entry in packed.items():
        if zlib.crc32(entry["bits"].numpy().tobytes()) != entry["crc32"]:
            raise ValueError(
                f"The checkpoint's mask of {name!r} is corrupt (wrong checksum). Use another checkpoint."
            )
        masks[name] = unpack_bits(entry["bits"], torch.Size(entry["shape"]))
    return masks


def _pack(mask: Tensor) -> dict[str, Any]:
    bits = pack_bits(mask)
    return {"bits": bits, "shape": list(mask.shape), "crc32": zlib.crc32(bits.numpy().tobytes())}


def _keeper(weight: Tensor, mask: Tensor) -> Tensor:
    """Return what masks ``weight`` fastest, laid out in memory like it.

    On CPU a factor of the weight's type: a product runs ten times as fast as a masked fill. Elsewhere the
    pruned positions as booleans: a fill takes care of NaN without waiting for the device.
    """
    if weight.device.type == "cpu":
        return torch.empty_like(weight).copy_(mask)
    return torch.empty_like(weight, dtype=torch.bool).copy_(~mask)


def _keep_only_(tensors: list[Tensor], keeps: list[Tensor]) -> None:
    if keeps[0].is_floating_point():
        torch._foreach_mul_(tensors, keeps)
    else:
        for tensor, pruned in zip(tensors, keeps, strict=True):
            tensor.masked_fill_(pruned, 0)


def _all_finite(tensors: list[Tensor]) -> bool:
    """Tell whether all entries are finite; a norm that overflows counts as not finite."""
    return bool(torch.stack(torch._foreach_norm(tensors)).sum().isfinite())
