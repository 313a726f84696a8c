"""What callbacks that move connections share: when they do, from where, and what is logged of it."""

from typing import TYPE_CHECKING

from lightning_sparse.checks import SparsityError, check_choice, check_count
from lightning_sparse.selection import matches
from lightning_sparse.trainer.packages import rank_zero_warn

if TYPE_CHECKING:
    from lightning_sparse.callbacks.base import SparsityCallback

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.callbacks.base import SparsityCallback, sparsity_callbacks
from lightning_sparse.callbacks.company import refuse_missing_support, refuse_second_density
from lightning_sparse.callbacks.moving.clock import Clock, last_step_of
from lightning_sparse.callbacks.moving.history import History
from lightning_sparse.functional.allocation import ALLOCATIONS, AllocationName
from lightning_sparse.functional.pruning import masks_from_scores, plan_budgets
from lightning_sparse.functional.saliency import PruningProblem, Random
from lightning_sparse.functional.schedules import DROP_SCHEDULES, DropScheduleName, drop_fraction
from lightning_sparse.layers import compact_layers
from lightning_sparse.selection import match_overrides, parameters_by_name
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.parts import unscale_gradients_
from lightning_sparse.trainer.processes import agree, agree_on_supports
from lightning_sparse.types import Budgets, Masks, Shapes
from lightning_sparse.weights.base import Connections
from lightning_sparse.weights.found import movable
from lightning_sparse.weights.optimizers import has_finite_gradients, parameters_of, skip_step_
from lightning_sparse.weights.state import state_of

__all__ = ["MovingSupports", "check_move_arguments", "refuse_unmatched", "warn_of_raw_steps", "warn_of_rest"]


class MovingSupports(SparsityCallback, ABC):
    """Drops connections and grows as many others, every so many optimizer steps.

    Time t is the number of steps of the optimizer that holds a weight, counted here after each real step.
    The arguments are those of the children.
    """

    moves = True
    kind: ClassVar[str]
    """First word of what is logged."""

    def __init__(
        self,
        density: float | None,
        *,
        every_n_steps: int,
        drop_fraction: float,
        drop_schedule: DropScheduleName,
        stop_at: int | float,
        skip_step_on_update: bool,
        allocation: AllocationName,
        dense_first_layer: bool,
        include: list[str] | None,
        exclude: list[str] | None,
        density_overrides: dict[str, float] | None,
        seed: int | None,
        verify: bool,
    ) -> None:
        check_move_arguments(every_n_steps, drop_fraction, stop_at)
        check_choice("drop_schedule", drop_schedule, tuple(DROP_SCHEDULES))
        check_choice("allocation", allocation, ALLOCATIONS)
        if density is None and (dense_first_layer or density_overrides):
            argument = "dense_first_layer" if dense_first_layer else "density_overrides"
            raise SparsityError(f"`{argument}` needs `density`, got None. It is for masks of its own.")
        super().__init__(
            1.0 if density is None else density,
            include=include,
            exclude=exclude,
            density_overrides=density_overrides,
            seed=seed,
            verify=verify,
        )
        self.every_n_steps = every_n_steps
        self.drop_fraction = drop_fraction
        self.drop_schedule = drop_schedule
        self.stop_at = stop_at
        self.skip_step_on_update = skip_step_on_update
        self.allocation = allocation
        self.dense_first_layer = dense_first_layer
        self.draws_masks = density is not None
        self.start_afresh()

    # What children fill in.

    @abstractmethod
    def new_positions(self, connections: Connections, fraction: float, step: int) -> Tensor | None:
        """Return where connections shall be, in ascending flat positions; None to leave them."""

    def gather(self, trainer: Trainer, connections: Sequence[Connections]) -> bool:
        """Take what is needed from the gradients of this step; tell whether they are all finite."""
        return True

    def prepare(self, connections: Sequence[Connections]) -> None:
        """Make ready for the backward passes of a step that has not begun."""

    def gathers(self, step: int) -> bool:
        """Tell whether something is needed from the gradients of a step beside those of updates."""
        return False

    def start_afresh(self) -> None:
        """Forget what was counted and gathered, before a new run."""
        self._clock, self._history = Clock(self.every_n_steps), History()

    # What they have in common.

    def config(self) -> dict[str, str | int | float | None]:
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
        }

    def select(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the weights that masks of its own are for."""
        weights = super().select(module)
        first = next(iter(weights)) if self.dense_first_layer else None
        return {name: weight for name, weight in weights.items() if name != first}

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return each layer's budget; none if the support comes from elsewhere."""
        if not self.draws_masks:
            return {}
        fixed = match_overrides(shapes, self.density_overrides)
        return plan_budgets(shapes, self.density, self.allocation, fixed=fixed)

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Draw masks at random as ``PruneAtInit`` does; none if there is a support to start from."""
        if not self.draws_masks:
            return {}
        weights = self.select(module)
        scores = Random(self.allocation).scores(PruningProblem(module, weights, generator))
        fixed = match_overrides(weights, self.density_overrides)
        return masks_from_scores(scores, self.density, self.allocation, fixed=fixed)

    # When: Lightning's hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, before any batch is drawn."""
        if stage == "fit" and trainer.global_step == 0:  # else fit goes on where it was
            self.start_afresh()
        if self.draws_masks:
            refuse_second_density(self, sparsity_callbacks(trainer))
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out when connections come to rest."""
        super().on_fit_start(trainer, pl_module)
        if not self.draws_masks and not compact_layers(pl_module) and not state_of(pl_module).masks:
            refuse_missing_support(self, sparsity_callbacks(trainer))
        self._clock.last_step = last_step_of(trainer, self.stop_at)
        if self.every_n_steps >= self._clock.last_step and trainer.max_steps == -1:  # not cut short
            warn_of_rest(self, self.every_n_steps, self._clock.last_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log also how connections have moved."""
        super().on_train_epoch_end(trainer, pl_module)
        metrics = self._history.metrics(self.kind, self._connections(pl_module))
        pl_module.log_dict(metrics, sync_dist=True)  # every rank has the same
        self._history.moved.clear()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave layers as they were."""
        super().teardown(trainer, pl_module, stage)
        self._forget(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave layers as they were; no teardown follows."""
        super().on_exception(trainer, pl_module, exception)
        self._forget(pl_module)

    def move_(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Move the connections of an optimizer's weights when it is time."""
        step, updates = self._clock.step(trainer, optimizer), self._clock.updates(trainer, optimizer)
        if self._clock.has_acted(trainer, optimizer) or not (updates or self.gathers(step)):
            return
        if not (connections := self._connections(module, optimizer)):
            return
        if self._take_gradients(trainer, connections, optimizer):
            self._clock.act(trainer, optimizer)
            if updates:
                self._update_(trainer, module, connections, step)
            if updates and self.skip_step_on_update:
                skip_step_(optimizer)
        else:
            self.prepare(connections)  # a scaler skips the step, and then there is no other occasion
            if updates:
                self._clock.owe(trainer, optimizer)

    def after_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Count the step."""
        if self._clock.has_missed(trainer, optimizer) and self._connections(module, optimizer):
            warn_of_raw_steps(self)
        self._clock.count(trainer, optimizer)
        self._prepare(trainer, module, optimizer)

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return also counters, and what connections have been through."""
        state = super().state_dict()
        return {**state, **self._clock.state_dict(), **self._history.state_dict()} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from there.

        Raises:
            ValueError: If the arguments are not those that the checkpoint was made with.
        """
        super().load_state_dict(state_dict)
        if self._fitting and state_dict:
            self._clock.load_state_dict(state_dict)
            self._history.load_state_dict(state_dict)

    # Steps of the above.

    def _plan(self, module: LightningModule) -> None:
        if self.draws_masks and compact_layers(module):
            raise SparsityError(
                f"`density` must be None beside Dense-plus-Sparse layers, got {self.density}: "
                f"{type(self).__name__} moves their supports, and draws none. Leave it out."
            )
        if self.draws_masks:
            super()._plan(module)

    def _start(self, trainer: Trainer, module: LightningModule) -> None:
        super()._start(trainer, module)
        connections = self._connections(module)
        for argument, patterns in (("include", self.include or []), ("exclude", self.exclude)):
            names = [*movable(module), *(parameters_by_name(module) if argument == "exclude" else [])]
            refuse_unmatched(argument, patterns, names)
        if not connections:
            raise SparsityError(
                f"`exclude` must leave something for {type(self).__name__} to move, got {self.exclude}."
            )
        self._history.start(connections)
        for optimizer in trainer.optimizers:
            self._prepare(trainer, module, optimizer)

    def _prepare(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        step = self._clock.step(trainer, optimizer)
        if self._clock.updates(trainer, optimizer) or self.gathers(step):
            self.prepare(self._connections(module, optimizer))

    def _take_gradients(
        self, trainer: Trainer, connections: Sequence[Connections], optimizer: Optimizer
    ) -> bool:
        if not has_finite_gradients(optimizer):
            return False
        unscale_gradients_(trainer, optimizer)
        return self.gather(trainer, connections)

    def _forget(self, module: LightningModule) -> None:
        for layer in compact_layers(module).values():
            layer.forget_dense_grad()

    def _update_(
        self, trainer: Trainer, module: LightningModule, connections: Sequence[Connections], step: int
    ) -> None:
        fraction = drop_fraction(self.drop_schedule, step, self._clock.last_step, self.drop_fraction)
        for layer in connections:
            positions = self.new_positions(layer, fraction, step)
            if positions is not None:
                moved = layer.move_(positions, trainer.optimizers)
                self._history.record(layer, moved)
        self._history.fraction = fraction
        agree(trainer, state_of(module))
        agree_on_supports(trainer, module)

    def _connections(self, module: LightningModule, optimizer: Optimizer | None = None) -> list[Connections]:
        """Return what is to be moved, of one optimizer or of all."""
        held = None if optimizer is None else {id(p) for p in parameters_of(optimizer)}
        return [
            connections
            for name, connections in movable(module).items()
            if (self.include is None or _matches_any(name, self.include))
            and not _matches_any(name, self.exclude)
            and (held is None or id(connections.parameter) in held)
        ]


def _matches_any(name: str, patterns: Sequence[str]) -> bool:
    return any(matches(name, pattern) for pattern in patterns)


def check_move_arguments(every_n_steps: object, drop_fraction: object, stop_at: object) -> None:
    """Raise ValueError unless updates come every so many steps, of a share of weights, until a step."""
    check_count("every_n_steps", every_n_steps)
    if not isinstance(drop_fraction, int | float) or not 0 <= drop_fraction <= 1:
        raise SparsityError(
            f"`drop_fraction` must be in [0, 1], got {drop_fraction!r}. It is the share of active weights "
            "to drop."
        )
    whole = isinstance(stop_at, int) and not isinstance(stop_at, bool) and stop_at >= 1
    if not whole and not (isinstance(stop_at, float) and 0 < stop_at <= 1):
        raise SparsityError(
            f"`stop_at` must be a number of steps, or a share of all steps in (0, 1], got {stop_at!r}. "
            "Write steps without a decimal point."
        )


def refuse_unmatched(argument: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError if a pattern matches none of the names."""
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise SparsityError(
                f"`{argument}` pattern {pattern!r} matches nothing that can move. Names here: "
                f"{', '.join(list(names)[:3])}."
            )


def warn_of_rest(callback: "SparsityCallback", every_n_steps: int, last_step: int) -> None:
    """Warn that connections come to rest before they have moved."""
    rank_zero_warn(
        f"{type(callback).__name__} moves nothing: `every_n_steps` is {every_n_steps}, and connections rest "
        f"from step {last_step} on. Lower it, or raise `stop_at`."
    )


def warn_of_raw_steps(callback: "SparsityCallback") -> None:
    """Warn that an update was missed, as only Lightning's optimizers tell of a step before it is made."""
    rank_zero_warn(
        f"{type(callback).__name__} moves nothing in steps that Lightning does not see, and one of an update "
        "was such. Step `self.optimizers()`, not those of `use_pl_optimizer=False`."
    )
