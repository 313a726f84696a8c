"""Connections that move in a plain PyTorch loop, or in Fabric's."""

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.callbacks.moving import checks
from lightning_sparse.callbacks.moving.gradients import usable_gradients
from lightning_sparse.callbacks.moving.steps import move_all_, warn_of_state_apart, weights_to_move
from lightning_sparse.checks import SparsityError, check_count, check_flag, check_kind, check_selection
from lightning_sparse.functional import patterns
from lightning_sparse.functional.growth import ActiveWeights, GrowthRule, rule_from_name
from lightning_sparse.functional.growth.moves import draws_of
from lightning_sparse.functional.packing import pack_masks, unpack_masks
from lightning_sparse.functional.schedules import DropScheduleName, drop_fraction, is_due
from lightning_sparse.plain import keep_sparse_
from lightning_sparse.trainer.processes import seed_of_process, world_and_rank
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.enforcement import all_finite
from lightning_sparse.weights.saving import mask_when_saved
from lightning_sparse.weights.state import state_of
from lightning_sparse.weights.stepping import (
    has_stepped,
    leave_out_step_,
    skip_step_,
    take_back_step_,
    tolerates_no_gradients,
    when_stepped,
)
from lightning_sparse.weights.unmoved import NOBODY

__all__ = ["ConnectionMover"]


class ConnectionMover:
    """Drops connections and grows as many others in a loop of your own, as `RigLCallback` does elsewhere.

    Made after the net is sparse and the optimizers are there. From then on it does in every step of these
    optimizers what `keep_sparse_` does, and every so many steps connections move: ``floor(f(t) * nnz)`` of
    each layer's active weights are dropped and as many grow, as a `GrowthRule` says. The masks to start from
    are those of `sparsify_`, or the supports of compact layers, made by `sparsify_` or `convert_`.

    To clip gradients by norm, call `mask_gradients_` after backward and before you clip. Under a
    ``GradScaler``, that comes after ``scaler.unscale_``.

    Args:
        module: A module with masks, or compact layers.
        *optimizers: Those that train it; with Fabric, as they were before ``fabric.setup``.
        rule: Says what is dropped and what grows: a rule, or its name: ``"rigl"``, ``"set"``.
        stop_at: Step from which on connections rest.
        every_n_steps: Steps of an optimizer between updates.
        drop_fraction: Share of the active weights to drop, in [0, 1], as it is at the start.
        drop_schedule: How it develops: ``"cosine"``, ``"constant"``, ``"linear"`` or ``"inverse_power"``.
        skip_step_on_update: Whether an update takes the place of the step of its optimizer. ``None``: for
            rules that look at gradients, as with `RigLCallback`.
        include: Patterns on parameter names: only weights that match one of them move.
        exclude: Patterns of weights whose connections stay.
        seed: Seed of all random draws. ``None``: that of torch's generator. All processes need the same.
        pattern: ``"2:4"`` or another, in which the masks are, and within which connections move.

    Attributes:
        moved: How many connections of each weight moved in the last update, by its name.
        fraction: Drop fraction of the last update.

    Raises:
        SparsityError: If an argument is out of range, there is nothing to move, or an optimizer holds none of
            the weights.

    Examples:
        >>> from lightning_sparse import masks_of, sparsify_
        >>> net = nn.Sequential(nn.Linear(20, 10))
        >>> masks = sparsify_(net, "erk", density=0.1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> mover = ConnectionMover(net, optimizer, rule="rigl", every_n_steps=2, stop_at=100)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     net(torch.randn(4, 20)).square().mean().backward()
        ...     optimizer.step()
        >>> round(mover.fraction, 4), int(masks_of(net)["0.weight"].sum())
        (0.2997, 20)
    """

    def __init__(
        self,
        module: nn.Module,
        *optimizers: Optimizer,
        rule: str | GrowthRule,
        stop_at: int,
        every_n_steps: int = 100,
        drop_fraction: float = 0.3,
        drop_schedule: DropScheduleName = "cosine",
        skip_step_on_update: bool | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        seed: int | None = None,
        pattern: str | int | patterns.Pattern = "unstructured",
    ) -> None:
        check_count("stop_at", stop_at)
        checks.check_schedule(every_n_steps, drop_fraction, drop_schedule, stop_at)
        check_selection(include, exclude, None)
        if seed is not None:
            check_count("seed", seed, 0)
        self.rule, self.pattern = rule_from_name(rule), patterns.pattern_from_name(pattern)
        skips = self.rule.needs_gradient if skip_step_on_update is None else skip_step_on_update
        check_flag("skip_step_on_update", skips)
        self.every_n_steps, self.stop_at, self.skip_step_on_update = every_n_steps, stop_at, skips
        self.drop_fraction, self.drop_schedule = drop_fraction, drop_schedule
        self.include, self.exclude = include, exclude or ()
        self.moved: dict[str, int] = {}
        self.fraction = 0.0
        self._seed = seed_of_process(seed)
        check_kind("module", module, nn.Module)
        self._module, self._optimizers = weakref.ref(module), list(optimizers)
        self._steps, self._owed = [0] * len(optimizers), [False] * len(optimizers)
        self._made: set[Optimizer] = set()  # whose update was made before the step that is to come
        keep_sparse_(module, *optimizers)  # refuses what cannot be held
        checks.check_names(module, self.include, self.exclude)
        checks.refuse_nothing_moved(type(self).__name__, self._weights(), self.exclude)
        checks.refuse_other_support(self.pattern, self._weights())
        self.attach()

    def prepare_(self, optimizer: Optimizer) -> None:
        """Make an update if one is due in the coming step, then mask gradients; later calls only mask."""
        if optimizer not in self._made and self._is_due(optimizer):
            self._update_(optimizer)
        state_of(self._net()).mask_gradients_(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks, and how far each optimizer has come, to go on from later."""
        masks = state_of(self._net()).masks
        return {
            "masks": pack_masks(masks),
            "steps": list(self._steps),
            "owed": list(self._owed),
            "seed": self._seed,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there, once module and optimizers have been given what was saved with it.

        Raises:
            SparsityError: If it is of other weights, or of another number of optimizers.
        """
        masks, steps = unpack_masks(state_dict["masks"]), list(state_dict["steps"])
        if len(steps) != len(self._optimizers):
            raise SparsityError(
                f"`state_dict` must be of as many optimizers, {len(self._optimizers)}, got {len(steps)}. "
                "Make the mover with the optimizers that it was saved with."
            )
        self._steps, self._owed = steps, list(state_dict["owed"])
        self._seed = state_dict["seed"]
        if masks:
            state_of(self._net()).install_(self._net(), masks, NOBODY)
        self.attach()

    def attach(self) -> None:
        """Hold the module, as is done when this is made, and once its masks have been exchanged."""
        module = self._net()
        state = state_of(module)
        state.attach(self._optimizers, self._count, before_step=self.prepare_)
        leave_out = [when_stepped(optimizer, before=self._leave_out) for optimizer in self._optimizers]
        state.until_detached([mask_when_saved(module), *(handle for pair in leave_out for handle in pair)])
        for optimizer in self._optimizers:
            self._ask(optimizer)

    # Steps of the above.

    def _leave_out(self, optimizer: Optimizer) -> None:
        """Leave out the step whose place an update has taken."""
        self.prepare_(optimizer)
        if optimizer in self._made and self.skip_step_on_update:
            (skip_step_ if tolerates_no_gradients(optimizer) else leave_out_step_)(optimizer)

    def _count(self, optimizer: Optimizer) -> None:
        """Count a step, and ask for gradients before the first backward of the next."""
        take_back_step_(optimizer)
        self._made.discard(optimizer)
        if has_stepped(optimizer):
            self._steps[self._place(optimizer)] += 1
        self._ask(optimizer)

    def _is_due(self, optimizer: Optimizer) -> bool:
        place = self._place(optimizer)
        step = self._steps[place] + 1
        owed = self._owed[place] and step < self.stop_at
        return owed or is_due(step, self.every_n_steps, self.stop_at)

    def _update_(self, optimizer: Optimizer) -> None:
        module, place = self._net(), self._place(optimizer)
        weights = [weight for weight in self._weights(optimizer) if weight.parameter.grad is not None]
        gradients = self._gradients(optimizer, weights)
        self._owed[place] = gradients is None  # not finite: the next step will do
        if gradients is None:
            return self._ask(optimizer)
        step = self._steps[place] + 1
        self.fraction = drop_fraction(self.drop_schedule, step, self.stop_at, self.drop_fraction)
        active = [self._active(weight, step, gradients) for weight in weights]
        state, fraction = state_of(module), self.fraction
        counts = move_all_(self.rule, weights, active, fraction, state, self._optimizers, self.pattern)
        self.moved |= {weight.name: count for weight, count in zip(weights, counts, strict=True)}
        self._made.add(optimizer)
        warn_of_state_apart(type(self).__name__, optimizer, weights)
        return None

    def _gradients(
        self, optimizer: Optimizer, weights: Sequence[SparseWeight]
    ) -> dict[str, Tensor | None] | None:
        """Return the gradients of whole weights, if the rule needs them; None if some are not finite."""
        if not usable_gradients(optimizer, weights):
            return None
        if not self.rule.needs_gradient:
            return {}
        found = {weight.name: weight.gradient(_mean_over_processes, 1.0) for weight in weights}
        for weight in weights:
            weight.forget_gradient()
        return found if all(one is None or all_finite(one) for one in found.values()) else None

    def _active(self, weight: SparseWeight, step: int, gradients: dict[str, Tensor | None]) -> ActiveWeights:
        return ActiveWeights(
            values=weight.active,
            positions=weight.positions,
            shape=weight.shape,
            draws=draws_of(self._seed, step, weight.name),
            gradient=partial(gradients.pop, weight.name),  # type: ignore[arg-type]
        )

    def _ask(self, optimizer: Optimizer) -> None:
        """Ask for the gradients of whole weights if an update comes with the next step."""
        if self.rule.needs_gradient and self._is_due(optimizer):
            for weight in self._weights(optimizer):
                weight.ask_for_gradient()

    def _weights(self, optimizer: Optimizer | None = None) -> list[SparseWeight]:
        return weights_to_move(self._net(), self.include, self.exclude, optimizer)

    def _net(self) -> nn.Module:
        module = self._module()
        assert module is not None, "who trains it holds it"
        return module

    def _place(self, optimizer: Optimizer) -> int:
        return next(place for place, other in enumerate(self._optimizers) if other is optimizer)


def _mean_over_processes(tensor: Tensor) -> Tensor:
    processes, _ = world_and_rank()
    if processes > 1:
        torch.distributed.all_reduce(tensor)
        tensor = tensor / processes
    return tensor
