"""What optimizers hold of the masked weights, and when their steps leave pruned ones at zero."""

import weakref
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from lightning_sparse.weights.enforcement import (
    divides_by_zero,
    fill_pruned_,
    keep_only_,
    mask_of,
    versions_of,
)
from lightning_sparse.weights.optimizers import find_mixed_state_, parameters_of, state_like, zero_at_
from lightning_sparse.weights.shards import here

__all__ = ["Plans"]

APART = (optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad)
"""Optimizers that treat every coordinate by itself and leave zero weights with zero gradients at zero."""


@dataclass
class _Plan:
    """What one optimizer holds of the masked weights."""

    parameters: list[int]
    """Which parameters the optimizer held when the plan was made: it may be given others later."""
    parameters_masked: list[nn.Parameter]
    keep: list[Tensor]
    announced: bool = False
    """Whether the gradients of the coming step were masked."""
    stays_zero: bool = False
    """Whether such a step leaves pruned weights at zero by itself, the optimizer's state being clean."""
    seen: list[int] = field(default_factory=list)
    """The weights as they were after the last step; see ``versions_of``."""
    masked: list[int] = field(default_factory=list)
    """The gradients as they were when they were masked."""
    polluted: bool = False
    """Whether a step had gradients of pruned weights after all, which the optimizer may have gathered."""
    apart: bool = False
    """Whether the optimizer is one that treats every coordinate by itself."""
    divides_by_zero: bool = False
    """Whether a zero gradient may be divided by a zero: a product would keep the NaN."""

    @property
    def weights(self) -> list[Tensor]:
        """What this process holds of the masked weights."""
        return [here(parameter) for parameter in self.parameters_masked]

    @property
    def gradients(self) -> list[Tensor | None]:
        """What this process holds of their gradients, ``None`` where there is none."""
        gradients = [parameter.grad for parameter in self.parameters_masked]
        return [None if gradient is None else here(gradient) for gradient in gradients]

    def has_pruned_gradients(self) -> bool:
        """Tell whether some pruned weight has a gradient."""
        gradients = zip(self.gradients, self.keep, strict=True)
        return any(bool(g[~mask_of(keep)].any()) for g, keep in gradients if g is not None)

    def look_(self) -> None:
        """Note whether somebody has written to the weights since the last step."""
        self.stays_zero &= not self.seen or self.seen == versions_of(self.weights)


class Plans:
    """Masks gradients and weights of optimizers, as seldom as it can be done.

    Args:
        weights: The masked weights by name.
        keep: What masks each of them, made by ``layout_mask``; both are read anew whenever a plan is made.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], keep: Mapping[str, Tensor]) -> None:
        self._weights, self._keep = weights, keep
        self._plans: weakref.WeakKeyDictionary[Optimizer, _Plan] = weakref.WeakKeyDictionary()

    @property
    def elsewhere(self) -> bool:
        """Whether the module was moved to another device meanwhile."""
        return any(keep.device != here(self._weights[name]).device for name, keep in self._keep.items())

    def forget(self, optimizer: Optimizer) -> None:
        """Make the plan of an optimizer anew: what it was given may be a dense net's state."""
        self._plans.pop(optimizer, None)

    def clear(self) -> None:
        """Make all plans anew."""
        self._plans.clear()

    def find_mixed_state_(self, loaded: Iterable[Optimizer] = ()) -> None:
        """Find out what optimizers that are no common ones keep, but not entry by entry.

        Args:
            loaded: Those whose states have just been loaded, and were gathered under these masks; others are
                asked for once they have made a step under them.
        """
        stepped = [one for one, plan in self._plans.items() if plan.seen and not plan.polluted]
        for optimizer in (one for one in [*loaded, *stepped] if type(one) not in APART):
            names = self._names_held_by({id(parameter) for parameter in parameters_of(optimizer)})
            find_mixed_state_(optimizer, ((self._weights[n], ~mask_of(self._keep[n])) for n in names))

    def expect_changes_(self) -> None:
        """Take down what others have written so far: what follows is written by us, and does no harm."""
        for plan in self._plans.values():
            plan.look_()
            plan.seen = []

    def accept_changes_(self) -> None:
        """Take the weights as they are for those of the last step: they have been masked since."""
        for plan in self._plans.values():
            plan.seen = versions_of(plan.weights) if plan.seen else []

    @torch.no_grad()
    def mask_gradients_(self, optimizer: Optimizer) -> None:
        """Set the gradients of pruned weights to zero, NaN and infinite ones too.

        In place only: fused optimizers on CPU take a gradient whose strides differ from its weight's for
        something else, without a word.
        """
        plan = self._plan(optimizer)
        plan.look_()
        all_of_them = plan.gradients
        gradients = [gradient for gradient in all_of_them if gradient is not None]
        keeps = plan.keep
        if len(gradients) < len(keeps):
            keeps = [k for gradient, k in zip(all_of_them, keeps, strict=True) if gradient is not None]
        if gradients and not keep_only_(gradients, keeps, check=True):  # 0 * NaN is NaN
            fill_pruned_(gradients, keeps)
        plan.masked = versions_of(gradients)
        plan.announced = True

    @torch.no_grad()
    def mask_weights_(self, optimizer: Optimizer) -> None:
        """Set the pruned weights that ``optimizer`` holds to zero.

        Needed after optimizers that mix coordinates, after steps that Lightning did not see, and once someone
        has written to weights or masked gradients; else left out, as it costs as much as masking gradients.
        """
        plan = self._plan(optimizer)
        gradients = [gradient for gradient in plan.gradients if gradient is not None]
        untouched = not gradients or plan.masked == versions_of(gradients)  # or taken away: a step left out
        plan.stays_zero &= plan.announced and untouched
        if not (plan.apart or plan.polluted):  # looking costs a pass, and for others nothing asks
            plan.polluted = not plan.announced or (not untouched and plan.has_pruned_gradients())
        weights = plan.weights
        if not plan.announced or plan.divides_by_zero:
            fill_pruned_(weights, plan.keep)
        elif weights and not (plan.stays_zero and plan.seen):
            keep_only_(weights, plan.keep)
        plan.seen = versions_of(weights)
        plan.announced = False

    def _names_held_by(self, parameters: Container[int]) -> list[str]:
        return [name for name, weight in self._weights.items() if id(weight) in parameters]

    def _plan(self, optimizer: Optimizer) -> _Plan:
        held = [id(parameter) for parameter in parameters_of(optimizer)]
        plan = self._plans.get(optimizer)
        if plan is None or plan.parameters != held:
            names = self._names_held_by(set(held))
            plan = _Plan(held, [self._weights[n] for n in names], [self._keep[n] for n in names])
            plan.apart = plan.stays_zero = type(optimizer) in APART
            plan.divides_by_zero = divides_by_zero(optimizer, plan.weights)
            self._plans[optimizer] = plan
            for parameter, keep in zip(plan.parameters_masked, plan.keep, strict=True):
                for _, value in state_like(parameter, [optimizer]):  # gathered before masks were there
                    zero_at_(value, ~mask_of(keep))
        return plan
