"""What callbacks that move connections share: when they do, from where, and what is logged of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.callbacks.company import refuse_missing_support, refuse_second_density
from lightning_sparse.callbacks.converting.compact import RandomDraw
from lightning_sparse.callbacks.monitor import logs_layers
from lightning_sparse.callbacks.moving import checks
from lightning_sparse.callbacks.moving.clock import Clock, step_of
from lightning_sparse.callbacks.moving.gradients import add_gradients_, usable_gradients
from lightning_sparse.callbacks.moving.history import History
from lightning_sparse.callbacks.moving.steps import (
    leave_out_,
    move_all_,
    warn_of_state_apart,
    weights_to_move,
)
from lightning_sparse.callbacks.sparsifier import Config, sparsifiers
from lightning_sparse.checks import check_flag
from lightning_sparse.functional import patterns
from lightning_sparse.functional.allocation import AllocationName
from lightning_sparse.functional.growth import ActiveWeights, GrowthRule, rule_from_name
from lightning_sparse.functional.growth.moves import draws_of
from lightning_sparse.functional.pruning import plan_budgets
from lightning_sparse.functional.saliency import PruningProblem
from lightning_sparse.functional.schedules import DropScheduleName, drop_fraction
from lightning_sparse.functional.shards.pruning import random_masks_anywhere
from lightning_sparse.selection import match_overrides
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.parts import unscale_gradients_
from lightning_sparse.trainer.processes import assert_ranks_agree, seed_of_rank_zero
from lightning_sparse.types import Budgets, Masks, Shapes
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.shards import as_shards, shards_of
from lightning_sparse.weights.state import state_of
from lightning_sparse.weights.stepping import take_back_step_

__all__ = ["MovingConnections"]


class MovingConnections(SparsityCallback, ABC):
    """Drops connections and grows as many others, every so many steps, as a `GrowthRule` says.

    At step t of an optimizer, which is counted after each of its steps, ``floor(f(t) * nnz)`` of each layer's
    active weights are dropped and as many grow. New weights start at zero, and so does what optimizers keep
    for any that moved; one that is dropped and grown at once keeps all. It starts from the masks of
    `PruneAtInit`, from the supports of `DCTpSConversion`, whose sparse part then moves, or draws masks of its
    own. Gradients that are not finite put an update off to the next step.

    The end of an epoch logs ``drop_fraction``, ``moved``, ``churn``, ``survived`` and ``explored`` under the
    name of the rule (``rigl/churn``; per layer ``rigl_layers/churn/<layer>``). The last is left out for
    Dense-plus-Sparse layers: it needs a bit for each entry of the weight.

    Args:
        rule: Says what is dropped and what grows: a rule, or its name.
        density: Share of the selected weights to keep, a fraction in (0, 1], to draw masks. ``None``: masks
            or Dense-plus-Sparse layers are there.
        every_n_steps: Optimizer steps between updates.
        drop_fraction: Share of the active weights to drop, in [0, 1], as it is at the start.
        drop_schedule: How it develops: ``"cosine"``, ``"constant"``, ``"linear"`` or ``"inverse_power"``.
        stop_at: Step from which on connections rest; a fraction in (0, 1] is a share of all steps.
        skip_step_on_update: Whether an update takes the place of the step of its optimizer.
        allocation: How a budget is shared out over layers: ``"erk"``, ``"uniform"``, ``"epl"``, ``"epf"``.
            ``None``: ``"erk"``, or ``"uniform"`` under a pattern such as ``"2:4"``.
        dense_first_layer: Leave the first selected weight dense; it does not count towards the density.
        grad_average: Number of steps up to an update of which the mean gradient is taken, by rules that need
            the gradient.
        pattern: ``"2:4"``, ``"n:4"`` or another `Pattern`, as for `PruneAtInit`: what connections start from
            has it, and they move within groups. Beside `PruneAtInit`, the same as there.
        **selection: ``include`` (``None``: linear and convolutional layers, or all that have a support),
            ``exclude``, ``density_overrides``, ``seed``, ``storage`` (of what it draws), ``communication``
            and ``verify``, as `SparsityCallback` has them.

    Raises:
        SparsityError: If an argument is out of range, or, when fit starts, if there is nothing to move, the
            budget cannot be met, or ``stop_at`` is a share of an unknown number of steps.
    """

    moves, names_in, storages = True, ("history", "initial"), ("masked", "compact")
    asks_for_gradients = True
    run_state: ClassVar = {"_clock": Clock, "_history": History, "_sums": dict, "_draw_seed": lambda: None}
    _clock: Clock
    _history: History
    _sums: dict[str, Tensor]  # of dense gradients, over the steps up to the next update
    _draw_seed: int | None

    @abstractmethod
    def __init__(
        self,
        rule: str | GrowthRule,
        density: float | None = None,
        *,
        every_n_steps: int = 100,
        drop_fraction: float = 0.3,
        drop_schedule: DropScheduleName = "cosine",
        stop_at: int | float = 0.75,
        skip_step_on_update: bool = False,
        allocation: AllocationName | None = None,
        dense_first_layer: bool = False,
        grad_average: int = 1,
        pattern: str | int | patterns.Pattern = "unstructured",
        **selection: Any,
    ) -> None:
        checks.check_schedule(every_n_steps, drop_fraction, drop_schedule, stop_at)
        check_flag("skip_step_on_update", skip_step_on_update)
        self.pattern = self.support_pattern = patterns.pattern_from_name(pattern)
        self.allocation = checks.allocation_within(self.pattern, allocation)
        check_flag("dense_first_layer", dense_first_layer)
        own = {"dense_first_layer": dense_first_layer, **selection}
        density = checks.density_of_own(density, self.pattern, self.allocation, own)
        super().__init__(1.0 if density is None else density, **selection)
        self.rule = rule_from_name(rule)
        checks.check_average(grad_average, every_n_steps, self.rule)
        self.every_n_steps, self.stop_at = every_n_steps, stop_at
        self.drop_fraction, self.drop_schedule = drop_fraction, drop_schedule
        self.skip_step_on_update = skip_step_on_update
        self.dense_first_layer, self.grad_average = dense_first_layer, grad_average
        self.draws_masks = self.masks_what_it_selects = density is not None
        self.draw = RandomDraw(self.allocation, pattern=self.pattern)
        self.needs_whole = checks.needs_whole(self.rule, self.pattern, self.storage, grad_average, allocation)

    # Masks of its own.

    def config(self) -> Config:
        """Return what decides how connections move."""
        return {
            "density": self.density if self.draws_masks else None,
            "allocation": self.allocation,
            "dense_first_layer": self.dense_first_layer,
            "every_n_steps": self.every_n_steps,
            "drop_fraction": self.drop_fraction,
            "drop_schedule": self.drop_schedule,
            "stop_at": self.stop_at,
            "skip_step_on_update": self.skip_step_on_update,
            "grad_average": self.grad_average,
            "rule": repr(self.rule),
            "pattern": patterns.name_of_pattern(self.pattern),
        }

    def select(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the weights that masks of its own are for; none if the support comes from elsewhere."""
        weights = super().select(module) if self.draws_masks else {}
        first = next(iter(weights), None) if self.dense_first_layer else None
        chosen = {name: weight for name, weight in weights.items() if name != first}
        return patterns.weights_within(chosen, self.pattern)

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return each layer's budget; none if the support comes from elsewhere."""
        if not self.draws_masks:
            return {}
        fixed = match_overrides(shapes, self.density_overrides)
        return plan_budgets(shapes, self.density, self.allocation, fixed=fixed, pattern=self.pattern)

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Draw masks at random as ``PruneAtInit`` does; none if there is a support to start from."""
        weights = self.select(module)
        fixed, pattern = match_overrides(weights, self.density_overrides), self.pattern
        problem = PruningProblem(module, weights, generator, shards=shards_of(weights))
        masks = random_masks_anywhere(problem, self.density, self.allocation, fixed, pattern)
        return as_shards(masks, weights)

    def check_module(self, module: LightningModule) -> None:
        """Refuse to draw masks beside layers that have a support of their own."""
        if self.draws_masks and self.storage == "masked":
            checks.refuse_layers_with_support(type(self).__name__, module, self.density)

    # When.

    def check_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Count afresh in a new run; refuse a second density."""
        if trainer.global_step == 0:  # else fit goes on where it was
            self.reset()
        if self.draws_masks:
            refuse_second_density(self, sparsifiers(trainer))

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Find out when connections rest, and settle the seed: rank 0's, or that of the resumed run."""
        super().begin_fit(trainer, module)
        if not self.draws_masks and not sparse_weights(module):
            refuse_missing_support(self, sparsifiers(trainer))
        last = step_of(trainer, "stop_at", self.stop_at)
        self._clock.every_n_steps, self._clock.last_step = self.every_n_steps, last
        if self.every_n_steps >= last and trainer.max_steps == -1:  # not cut short
            checks.warn_of_rest(type(self).__name__, self.every_n_steps, last)
        if self._draw_seed is None and self.rule.needs_draws:
            self._draw_seed = seed_of_rank_zero(trainer, self.seed)

    def begin_training(self, trainer: Trainer, module: LightningModule, anew: bool) -> None:
        """Take down the supports that connections start from, and ask for the first gradients."""
        checks.check_names(module, self.include, self.exclude)
        weights = self._weights(module)
        checks.refuse_nothing_moved(type(self).__name__, weights, self.exclude)
        checks.refuse_other_support(self.pattern, weights)
        self._history.start(weights)
        for optimizer in trainer.optimizers:
            self._ask(trainer, module, optimizer)

    def move_(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Move the connections of an optimizer's weights when it is time."""
        step, updates = self._clock.step(trainer, optimizer), self._clock.updates(trainer, optimizer)
        if self._clock.has_acted(trainer, optimizer) or not (updates or self._gathers(step)):
            return
        if not (weights := self._weights(module, optimizer)):
            return
        if self._gather(trainer, weights, optimizer):
            self._clock.act(trainer, optimizer)
            if updates:
                self._update_(trainer, module, weights, step)
                warn_of_state_apart(type(self).__name__, optimizer, weights)
            if updates and self.skip_step_on_update:
                leave_out_(trainer, optimizer)
        else:
            if self.rule.needs_gradient:
                for weight in weights:  # a scaler skips the step, and then there is no other occasion
                    weight.ask_for_gradient()
            if updates:
                self._clock.owe(trainer, optimizer)

    def after_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Count the step, and look ahead: gradients are asked for before the first backward of a step."""
        take_back_step_(optimizer)
        if self._clock.has_missed(trainer, optimizer) and self._weights(module, optimizer):
            checks.warn_of_raw_steps(type(self).__name__)
        self._clock.count(trainer, optimizer)
        self._ask(trainer, module, optimizer)

    def log_more(self, module: LightningModule) -> None:
        """Log how connections have moved."""
        metrics = self._history.metrics(self.rule.name, self._weights(module), logs_layers(module))
        module.log_dict(metrics, sync_dist=True)  # every rank has the same
        self._history.moved.clear()

    def release(self, module: LightningModule) -> None:
        """Leave also layers as they were."""
        super().release(module)
        self._history.settle()
        for weight in sparse_weights(module).values():
            weight.forget_gradient()

    def _update_(
        self, trainer: Trainer, module: LightningModule, weights: Sequence[SparseWeight], step: int
    ) -> None:
        fraction = drop_fraction(self.drop_schedule, step, self._clock.last_step, self.drop_fraction)
        known = [w for w in weights if w.name in self._sums or not self.rule.needs_gradient]
        in_use = [w for w in known if w.parameter.grad is not None]  # else what grew would stay 0: frozen
        active = [self._active(weight, step) for weight in in_use]
        state = state_of(module)
        moved = move_all_(self.rule, in_use, active, fraction, state, trainer.optimizers, self.pattern)
        self._history.record(zip(in_use, moved, strict=True))
        for weight in weights:
            self._sums.pop(weight.name, None)
        self._history.fraction = fraction
        assert_ranks_agree(trainer, module)

    def _active(self, weight: SparseWeight, step: int) -> ActiveWeights:
        return ActiveWeights(
            values=weight.active,
            positions=weight.positions,
            shape=weight.shape,
            draws=draws_of(self._draw_seed or 0, step, weight.name),
            gradient=lambda: self._sums.pop(weight.name),  # the sum ranks as the mean does; asked for once
        )

    def _gathers(self, step: int) -> bool:
        """Tell whether the mean gradient of the next update takes in this step."""
        update = -(-step // self.every_n_steps) * self.every_n_steps
        near = update - step < self.grad_average and update < self._clock.last_step
        return near and self.rule.needs_gradient

    def _gather(self, trainer: Trainer, weights: Sequence[SparseWeight], optimizer: Optimizer) -> bool:
        """Take what is needed from the gradients of this step; tell whether they are all finite."""
        if not usable_gradients(optimizer, weights):
            return False
        unscale_gradients_(trainer, optimizer)
        if not self.rule.needs_gradient:
            return True
        return add_gradients_(self._sums, trainer, weights, keep=self.grad_average > 1)

    def _ask(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Ask for dense gradients if the coming step is one whose gradients count."""
        step = self._clock.step(trainer, optimizer)
        if self.rule.needs_gradient and (self._clock.updates(trainer, optimizer) or self._gathers(step)):
            for weight in self._weights(module, optimizer):
                weight.ask_for_gradient()

    def _weights(self, module: LightningModule, optimizer: Optimizer | None = None) -> list[SparseWeight]:
        """Return what is to be moved, of one optimizer or of all."""
        return weights_to_move(module, self.include, self.exclude, optimizer)
