"""The masks of one module, and what keeps its pruned weights at zero.

A masked weight is an ordinary dense ``nn.Parameter`` whose pruned entries are zeros. Before each optimizer
step the gradients of pruned weights are set to zero, after it the weights are; in between, whatever the
optimizer keeps per weight stays zero as well. Nothing is planted in the module: the state is found through
a registry that forgets a module when the program does.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_sparse.checks import SparsityError
from lightning_sparse.selection import misfit, parameters_by_name
from lightning_sparse.types import Budgets, Masks
from lightning_sparse.weights.enforcement import (
    divides_by_zero,
    fill_pruned_,
    keep_only_,
    layout_mask,
    mask_of,
    state_like,
    versions_of,
)
from lightning_sparse.weights.plan import APART, Plan

__all__ = ["Owner", "SparseState", "state_of"]

AfterStep = Callable[[Optimizer], None]


class Owner(Protocol):
    """Who may change the masks of a module: a callback."""

    def move_(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """Change masks before a step, or leave them."""

    def after_step(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """Count a step that was made."""


class SparseState:
    """Masks of one module, their owner, and their enforcement.

    Attributes:
        weights: The masked weights by name.
        enforced: Whether the masks are in force; after a fit they are only known.
        finished: Callbacks that have done their part for this module, and do nothing in a second fit.
    """

    def __init__(self) -> None:
        self.weights: dict[str, nn.Parameter] = {}
        self.enforced = False
        self.finished: weakref.WeakSet[Owner] = weakref.WeakSet()
        self._owner: weakref.ReferenceType[Owner] | None = None
        self._keep: dict[str, Tensor] = {}
        self._counts: Budgets = {}
        self._plans: weakref.WeakKeyDictionary[Optimizer, Plan] = weakref.WeakKeyDictionary()
        self._handles: weakref.WeakKeyDictionary[Optimizer, list[RemovableHandle]] = (
            weakref.WeakKeyDictionary()
        )
        self._after_step: AfterStep | None = None

    @property
    def owner(self) -> "Owner | None":
        """Who may change the masks, None if nobody may."""
        return self._owner() if self._owner is not None else None

    @owner.setter
    def owner(self, owner: Owner) -> None:
        self._owner = weakref.ref(owner)

    @property
    def masks(self) -> Masks:
        """Boolean mask per weight, on its device, True where it is kept; read off what is enforced."""
        return {name: self.mask(name) for name in self._keep}

    def mask(self, name: str) -> Tensor:
        """Return the boolean mask of one weight, on its device; made anew."""
        return mask_of(self._keep[name]).to(self.weights[name].device)

    def install_(
        self,
        module: nn.Module,
        masks: Mapping[str, Tensor],
        owner: Owner,
        optimizers: Iterable[Optimizer] = (),
    ) -> None:
        """Take over ``masks`` and set the pruned weights of ``module``, and their optimizer state, to zero.

        Raises:
            SparsityError: If the module has no such weight, or one of another shape.
        """
        parameters = parameters_by_name(module)
        if (found := misfit(masks, parameters)) is not None:
            name, instead = found
            raise SparsityError(
                f"The mask of {name!r} is for a weight of shape {tuple(masks[name].shape)}, but the module "
                f"has {instead}. Build the module as it was when the masks were made, or start with a new "
                "callback."
            )
        with torch.inference_mode(False):  # masks may be taken up while testing, and trained with later
            self.weights = {name: parameters[name] for name in masks}
            self._lay_out(masks)
            self._plans.clear()
            self.owner = owner
            self.move_(masks, optimizers)

    @torch.no_grad()
    def move_(self, masks: Mapping[str, Tensor], optimizers: Iterable[Optimizer]) -> None:
        """Change masks: dropped weights become zero, and what ``optimizers`` keep for moved ones as well."""
        optimizers = list(optimizers)
        for plan in self._plans.values():  # what is written here does no harm, unlike what was before
            plan.stays_zero &= plan.seen in ([], versions_of(plan.weights))
            plan.seen = []
        for name, mask in masks.items():
            weight, keep = self.weights[name], self._keep[name]
            pruned = ~mask.to(weight.device)
            reset = pruned | ~mask_of(keep)
            keep.copy_(~pruned if keep.is_floating_point() else pruned)
            weight.masked_fill_(pruned, 0)
            for _, value in state_like(weight, optimizers):
                value.masked_fill_(reset.to(value.device), 0)
            self._counts[name] = int(mask.sum())

    @torch.no_grad()
    def zero_pruned_of_(self, copy: nn.Module) -> None:
        """Set the pruned weights of a copy of the module to zero."""
        parameters = parameters_by_name(copy)
        for name, mask in self.masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)

    @torch.no_grad()
    def clean_(self, optimizers: Iterable[Optimizer]) -> None:
        """Set what ``optimizers`` keep for pruned weights to zero."""
        self.move_(self.masks, optimizers)

    @torch.no_grad()
    def verify(self, optimizer: Optimizer) -> None:
        """Check that masks and pruned weights are as they must be after a step.

        Raises:
            RuntimeError: If a mask has another count than it was given, a pruned weight is not zero, or
                ``optimizer`` has gathered something for one.
        """
        for name, mask in self.masks.items():
            weight, kept = self.weights[name], int(mask.sum())
            if kept != self._counts[name]:
                raise RuntimeError(
                    f"`verify`: {name!r} keeps {kept} weights instead of {self._counts[name]}."
                )
            if alive := int(weight[~mask].count_nonzero()):
                raise RuntimeError(f"`verify`: {alive} pruned weights of {name!r} are not zero after a step.")
            for key, value in state_like(weight, [optimizer]):
                gathered = value[~mask.to(value.device)]
                # An optimizer may start from another value than zero; nothing may happen to it.
                if gathered.numel() and (gathered != gathered[0]).any():
                    raise RuntimeError(
                        f"`verify`: {key!r} of pruned weights of {name!r} differs in the optimizer."
                    )

    def attach(
        self,
        optimizers: Sequence[Optimizer],
        after_step: AfterStep | None = None,
        masks_gradients: bool = False,
    ) -> None:
        """Keep pruned weights at zero after every step of ``optimizers``, in whatever loop they are used.

        Args:
            optimizers: Those that train the module.
            after_step: Called after each step, once weights are masked.
            masks_gradients: Whether gradients are masked by a hook too, where nobody else calls
                `mask_gradients_` before a step.
        """
        self.detach()
        self._lay_out(self.masks)  # the weights may be on another device than in an earlier fit
        self.enforced = True
        self._after_step = after_step
        for optimizer in optimizers:
            self._hook(optimizer)
            if masks_gradients:
                before = optimizer.register_step_pre_hook(lambda held, *_: self.mask_gradients_(held))
                self._handles[optimizer].append(before)

    @property
    def attached(self) -> list[Optimizer]:
        """The optimizers that keep pruned weights at zero."""
        return list(self._handles)

    def detach(self) -> None:
        """Remove the hooks; the masks stay known for a later fit."""
        for handle in chain(*self._handles.values()):
            handle.remove()
        self._handles.clear()
        self._plans.clear()
        self._after_step = None
        self.enforced = False
        if any(keep.device != self.weights[name].device for name, keep in self._keep.items()):
            self._lay_out(self.masks)  # Lightning has taken the module back: nothing stays on its device

    def _lay_out(self, masks: Mapping[str, Tensor]) -> None:
        self._keep = {name: layout_mask(weight, masks[name]) for name, weight in self.weights.items()}

    def _hook(self, optimizer: Optimizer) -> None:
        def after_step(optimizer: Optimizer, *_: Any) -> None:
            self.mask_weights_(optimizer)
            if self._after_step is not None:
                self._after_step(optimizer)

        def forget_plan(optimizer: Optimizer) -> None:
            self._plans.pop(optimizer, None)  # what was loaded may be a dense net's

        self._handles[optimizer] = [
            optimizer.register_step_post_hook(after_step),
            optimizer.register_load_state_dict_post_hook(forget_plan),
        ]

    @torch.no_grad()
    def mask_gradients_(self, optimizer: Optimizer) -> None:
        """Set the gradients of pruned weights to zero, NaN and infinite ones too.

        In place only: fused optimizers on CPU take a gradient whose strides differ from its weight's for
        something else, without a word.
        """
        if self.enforced and optimizer not in self._handles:  # made anew while fit was running
            self._hook(optimizer)
        plan = self._plan(optimizer)
        plan.announced = True
        plan.stays_zero &= plan.seen in ([], versions_of(plan.weights))
        gradients = [w.grad for w in plan.weights if w.grad is not None]
        keeps = [k for w, k in zip(plan.weights, plan.keep, strict=True) if w.grad is not None]
        if gradients and not keep_only_(gradients, keeps, check=True):  # 0 * NaN is NaN
            fill_pruned_(gradients, keeps)
        plan.masked = versions_of(gradients)

    @torch.no_grad()
    def mask_weights_(self, optimizer: Optimizer) -> None:
        """Set the pruned weights that ``optimizer`` holds to zero.

        Needed after optimizers that mix coordinates, after steps that Lightning did not see, and once someone
        has written to weights or masked gradients; else left out, as it costs as much as masking gradients.
        """
        plan = self._plan(optimizer)
        gradients = [w.grad for w in plan.weights if w.grad is not None]
        plan.stays_zero &= plan.announced and plan.masked == versions_of(gradients)
        if not plan.announced or plan.divides_by_zero:
            fill_pruned_(plan.weights, plan.keep)
        elif plan.weights and not (plan.stays_zero and plan.seen):
            keep_only_(plan.weights, plan.keep)
        plan.seen = versions_of(plan.weights)
        plan.announced = False

    def _plan(self, optimizer: Optimizer) -> Plan:
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        plan = self._plans.get(optimizer)
        if plan is not None and plan.keep and plan.keep[0].device != plan.weights[0].device:
            self._lay_out(self.masks)  # the module was moved meanwhile
            self._plans.clear()
            plan = None
        if plan is None or plan.parameters != held:
            names = [name for name, weight in self.weights.items() if id(weight) in set(held)]
            plan = Plan(held, [self.weights[n] for n in names], [self._keep[n] for n in names])
            plan.stays_zero = type(optimizer) in APART
            plan.divides_by_zero = divides_by_zero(optimizer, plan.weights)
            self._plans[optimizer] = plan
            for weight, keep in zip(plan.weights, plan.keep, strict=True):  # gathered before masks were there
                for _, value in state_like(weight, [optimizer]):
                    value.masked_fill_(~mask_of(keep).to(value.device), 0)
        return plan


_states: "weakref.WeakKeyDictionary[nn.Module, SparseState]" = weakref.WeakKeyDictionary()


def state_of(module: nn.Module) -> SparseState:
    """Return the one ``SparseState`` of ``module``, an empty one at first."""
    module = getattr(module, "_orig_mod", module)  # Lightning trains what `torch.compile` wrapped
    return _states.setdefault(module, SparseState())
