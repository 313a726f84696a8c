"""What ASNI and lottery-ticket rounds share: pruning between epochs, and starting training once more."""

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch.optim import Optimizer

from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.callbacks.choosing import SparseCheckpoint, SparseEarlyStopping
from lightning_sparse.callbacks.company import refuse_compact_layers, refuse_finetuning, refuse_late_start
from lightning_sparse.checks import check_count
from lightning_sparse.functional.masks import count_all, count_kept
from lightning_sparse.functional.pruning import plan_budgets
from lightning_sparse.functional.rewinding import Snapshot, budgets_on_the_way, prune_by_magnitude
from lightning_sparse.selection import match_overrides
from lightning_sparse.trainer.packages import (
    LightningModule,
    Trainer,
    is_lightning,
    overrides,
    rank_zero_warn,
)
from lightning_sparse.trainer.parts import callbacks_of
from lightning_sparse.trainer.processes import agree
from lightning_sparse.trainer.restart import refuse_other_number, started_once_more
from lightning_sparse.types import Budgets, Masks, Shapes
from lightning_sparse.weights.state import state_of

__all__ = [
    "EpochPruning",
    "warn_of_early_end",
    "warn_of_own_schedule",
    "warn_of_selection",
    "warn_of_short_fit",
]


class EpochPruning(SparsityCallback, ABC):
    """Prunes by magnitude, all layers together, between epochs; counts of weights are known beforehand.

    Epochs are counted here, so that a second fit goes on where the first ended. What a new start of training
    needs (the optimizers' and schedulers' first states, earlier weights) is kept in checkpoints.

    The arguments are those of the children.
    """

    moves = True

    def __init__(
        self,
        density: float,
        *,
        min_weights_per_layer: int,
        include: list[str] | None,
        exclude: list[str] | None,
        density_overrides: dict[str, float] | None,
        verify: bool,
    ) -> None:
        check_count("min_weights_per_layer", min_weights_per_layer, 0)
        super().__init__(
            density,
            include=include,
            exclude=exclude,
            density_overrides=density_overrides,
            verify=verify,
        )
        self.min_weights_per_layer = min_weights_per_layer
        self.forget()

    # What children fill in.

    @abstractmethod
    def kept_path(self, alive: int, total: int) -> list[int]:
        """Return how many weights are alive after each pruning.

        Args:
            alive: Number of weights at the start.
            total: Number of selected weights, those pruned before included.
        """

    @property
    def restarting(self) -> bool:
        """Whether training will start once more: with each pruning, if nothing else is said."""
        return self.pruning or not self.begun

    def begin_training(self, trainer: Trainer, module: LightningModule) -> None:
        """Take notes before the first step."""

    def begin_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Do what is due before an epoch; ``self.epoch`` are over."""

    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Do what is due at the end of an epoch, before validation; ``self.epoch`` were over before it."""

    def forget(self) -> None:
        """Start afresh, for a module that this has not pruned."""
        self.epoch = 0
        self.path: list[int] = []
        self.prunings = 0
        self._alive: Budgets = {}
        self._ended: int | None = None  # the Trainer's epoch that ended last
        self._start_states: dict[str, list[Any]] = {}
        self._saved: Snapshot = {}

    # What they have in common.

    @property
    def pruning(self) -> bool:
        """Whether the net will be sparser than it is now."""
        return self.prunings < len(self.path)

    @property
    def begun(self) -> bool:
        """Whether this is on its way with the module that it was set up for, or with one copied along."""
        return bool(self.path) and (self in self._state().finished or bool(self._carried))

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the budgets of layers with a density of their own; the others compete."""
        total = sum(shape.numel() for shape in shapes.values())
        fixed = match_overrides(shapes, self.density_overrides)
        density = self.planned_total(total) / total
        return plan_budgets(shapes, density, "global", fixed=fixed, min_weights=self.min_weights_per_layer)

    def planned_total(self, total: int) -> int:
        """Return how many of so many weights are left at the end."""
        return self.kept_path(total, total)[-1]

    def check_module(self, module: LightningModule) -> None:
        """Refuse layers whose weights are no plain tensors."""
        refuse_compact_layers(type(self).__name__, module)

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Keep everything at first."""
        return {
            name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.select(module).items()
        }

    def prune_(self, trainer: Trainer, module: LightningModule) -> None:
        """Go one step down the path."""
        masks = self._pruned(module, self.path, self.prunings)
        state_of(module).move_(masks, trainer.optimizers)
        agree(trainer, state_of(module))
        self.prunings += 1

    def restart_(self, trainer: Trainer, module: LightningModule) -> None:
        """Give optimizers and schedulers their first state back, for weights that were set anew."""
        for kind, things in started_once_more(trainer).items():
            refuse_other_number(kind, len(things), len(self._start_states[kind]))
            for thing, saved in zip(things, self._start_states[kind], strict=True):
                if isinstance(thing, Optimizer):
                    groups, there_were = len(thing.param_groups), len(saved["param_groups"])
                    refuse_other_number("parameter groups", groups, there_were)
                thing.load_state_dict(copy.deepcopy(saved))
        for optimizer in trainer.optimizers:
            optimizer.zero_grad()  # of the net that was: manual loops may have left some
        state_of(module).install_(module, state_of(module).masks, self, trainer.optimizers)

    # When: Lightning's hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, before any batch is drawn."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._ended = None
            warn_of_selection(type(self).__name__, trainer)
            if self.restarting:
                refuse_finetuning(type(self).__name__, trainer)
                warn_of_own_schedule(type(self).__name__, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the next round, or the retraining, if it is due.

        Here, and not when the last epoch ended: what that one's validation measured has to be what its
        checkpoint holds.
        """
        self.begin_epoch(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Catch up: Lightning skips an epoch's start if a run resumes right after the batch before it."""
        self.begin_epoch(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prune after the last batch, before Lightning validates and saves."""
        if trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches:
            self._end_epoch(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune now if the epoch was cut short; log."""
        self._end_epoch(trainer, pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the fit is over before the net is what it is meant to be."""
        if self.begun and (self.pruning or self.restarting):
            warn_of_early_end(type(self).__name__, count_kept(self._state().masks), self.path[-1], trainer)

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return also where in the schedule this is, and what a new start needs."""
        state = super().state_dict()
        if not state or not self.path:
            return {}
        return {
            **state,
            "epoch": self.epoch,
            "ended": self._ended,
            "path": self.path,
            "prunings": self.prunings,
            "alive": self._alive,
            "start_states": self._start_states,
            "saved": self._saved,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; also if a checkpoint is only tested: a later fit trains its weights and masks.

        Raises:
            ValueError: If the arguments are not those that the checkpoint was made with.
        """
        super().load_state_dict(state_dict)
        if state_dict:
            self.epoch, self._ended = state_dict["epoch"], state_dict["ended"]
            self.path, self.prunings = state_dict["path"], state_dict["prunings"]
            self._alive = state_dict["alive"]
            self._start_states, self._saved = state_dict["start_states"], state_dict["saved"]

    # Steps of the above.

    def _start(self, trainer: Trainer, module: LightningModule) -> None:
        begun = self.path and self in state_of(module).finished
        if not begun:
            refuse_late_start(type(self).__name__, trainer)
        super()._start(trainer, module)
        if begun:
            return
        self.forget()
        self.learn_length(trainer)
        masks = state_of(module).masks
        self._alive = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
        path = self.kept_path(count_kept(masks), count_all(masks))
        self._pruned(module, path, len(path) - 1)  # what cannot be met is an error now
        self.path = path
        self._start_states = {
            kind: [copy.deepcopy(thing.state_dict()) for thing in things]
            for kind, things in started_once_more(trainer).items()
        }
        self.begin_training(trainer, module)

    def _end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        if self._ended == trainer.current_epoch:
            return
        self._ended = trainer.current_epoch
        self.end_epoch(trainer, module)
        self.epoch += 1

    def _pruned(self, module: LightningModule, path: list[int], pruning: int) -> Masks:
        """Return the masks after one of the prunings, by the weights as they are."""
        state, start = state_of(module), sum(self._alive.values())
        shapes = {name: weight.shape for name, weight in state.weights.items()}
        densities = match_overrides(shapes, self.density_overrides)
        removed, planned = start - path[pruning], start - path[-1]
        return prune_by_magnitude(
            state.weights,
            state.masks,
            path[pruning],
            min_weights=self.min_weights_per_layer,
            fixed=budgets_on_the_way(self._alive, densities, shapes, removed, planned),
        )


def warn_of_own_schedule(callback: str, module: LightningModule) -> None:
    """Warn of a module that steps its schedulers itself: by what, nobody knows."""
    if module.automatic_optimization and overrides(module, "lr_scheduler_step"):
        rank_zero_warn(
            f"{callback} starts schedulers once more, but `lr_scheduler_step` of {type(module).__name__} may "
            "set them by `current_epoch` or `global_step`, which go on. Step them without a number."
        )


def warn_of_early_end(callback: str, there_are: int, planned: int, trainer: Trainer) -> None:
    """Warn that a fit has ended early, unless its `max_epochs` said so when it began."""
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
        return
    missing = f"keep {planned:,} weights" if there_are != planned else "start training once more"
    rank_zero_warn(
        f"The fit has ended with {there_are:,} weights before {callback} was done, which was to {missing}. "
        "Resume it with more steps or time."
    )


def warn_of_short_fit(callback: str, argument: str, needed: int, trainer: Trainer) -> None:
    """Warn if fit ends before the net is as sparse as it is meant to be, and not by a number of steps."""
    epochs = trainer.max_epochs
    if epochs is not None and 0 <= epochs < needed and trainer.max_steps == -1:
        rank_zero_warn(
            f"{callback} needs {needed} epochs ({argument}), and `max_epochs` is {epochs}: the net will not "
            "become as sparse as it is meant to be, or is not trained after that. Raise `max_epochs`."
        )


def warn_of_selection(callback: str, trainer: Trainer) -> None:
    """Warn of callbacks that choose by a metric, and would choose a net that is not sparse yet."""
    for other in callbacks_of(trainer):
        monitor = getattr(other, "monitor", None)
        if monitor is None or isinstance(other, SparseCheckpoint | SparseEarlyStopping):
            continue
        if is_lightning(other, "callbacks.ModelCheckpoint"):
            _warn_of(callback, "ModelCheckpoint", monitor, "save", "SparseCheckpoint")
        if is_lightning(other, "callbacks.EarlyStopping"):
            _warn_of(callback, "EarlyStopping", monitor, "stop at", "SparseEarlyStopping")


def _warn_of(callback: str, other: str, monitor: str, does: str, instead: str) -> None:
    rank_zero_warn(
        f"{other} by {monitor!r} may {does} a net that {callback} has not made sparse yet: such nets score "
        f"best. Use {instead} from lightning_sparse, which takes the same arguments."
    )
