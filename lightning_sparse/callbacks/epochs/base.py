"""What ASNI and lottery-ticket rounds share: pruning between epochs, and starting training once more."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch

from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.callbacks.choosing import SparseCheckpoint, SparseEarlyStopping
from lightning_sparse.callbacks.company import refuse_finetuning, refuse_other_storage
from lightning_sparse.callbacks.monitor import expect_changes, print_table_again
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
from lightning_sparse.trainer.processes import assert_ranks_agree
from lightning_sparse.trainer.restart import StartStates, first_states, start_once_more_
from lightning_sparse.types import Budgets, Masks, Shapes, Storage
from lightning_sparse.weights.state import state_of

__all__ = ["EpochPruning"]


class EpochPruning(SparsityCallback, ABC):
    """Prunes by magnitude, all layers together, between epochs; counts of weights are known beforehand.

    Epochs are counted here, so that a second fit goes on where the first ended. What a new start of training
    needs (the optimizers' and schedulers' first states, earlier weights) is kept in checkpoints.

    Args:
        density: Share of the selected weights to keep at the end, a fraction in (0, 1].
        min_weights_per_layer: No layer keeps fewer than this (or all, if it is smaller).
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers. ``"all"``: every trained weight of two or more dimensions.
        exclude: Patterns of weights to leave dense; they do not count towards the density.
        density_overrides: Density at the end by pattern, for single layers; the others share the rest.
        verify: After every step, check that pruned weights are zero, every count is exact, the optimizer has
            gathered nothing for pruned weights, and all processes have the same masks.
    """

    moves = True
    starts_late = False
    keeps_counting = True
    remembers_when_tested = True
    names_in = ("alive",)
    run_state: ClassVar = {
        "epoch": int,
        "path": list,
        "prunings": int,
        "_alive": dict,
        "_ended": lambda: None,
        "_start_states": dict,
        "_saved": dict,
    }
    epoch: int  # how many are over
    path: list[int]  # weights alive after each pruning
    prunings: int  # made so far
    _alive: Budgets
    _ended: int | None  # the Trainer's epoch that ended last
    _start_states: StartStates
    _saved: Snapshot

    def __init__(
        self,
        density: float,
        *,
        min_weights_per_layer: int = 1,
        include: list[str] | Literal["all"] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        storage: Storage = "masked",
        verify: bool = False,
    ) -> None:
        check_count("min_weights_per_layer", min_weights_per_layer, 0)
        super().__init__(
            density,
            include=include,
            exclude=exclude,
            density_overrides=density_overrides,
            storage=storage,
            verify=verify,
        )
        self.min_weights_per_layer = min_weights_per_layer

    # What children fill in.

    @abstractmethod
    def kept_path(self, alive: int, total: int) -> list[int]:
        """Return how many weights are alive after each pruning.

        Args:
            alive: Number of weights at the start.
            total: Number of selected weights, those pruned before included.
        """

    @property
    @abstractmethod
    def epochs_needed(self) -> tuple[int, str]:
        """How many epochs the fit needs in all, and by which argument."""

    @abstractmethod
    def keep_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep what a new start of training needs, before the first step."""

    @abstractmethod
    def begin_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Do what is due before an epoch; ``self.epoch`` are over."""

    @abstractmethod
    def prune_at_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Do what is due after an epoch's last step, before validation; ``self.epoch`` were over before."""

    @abstractmethod
    def metrics(self, module: LightningModule) -> dict[str, float]:
        """Return what is logged at the end of an epoch beside the sparsity of layers."""

    # What they have in common.

    @property
    def pruning(self) -> bool:
        """Whether the net will be sparser than it is now."""
        return self.prunings < len(self.path)

    @property
    def begun(self) -> bool:
        """Whether this is on its way with the module that it was set up for, or with one copied along."""
        copied = self._brought.source == "copy" and bool(self._brought.masks)
        return bool(self.path) and (self in self._state().finished or copied)

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
        refuse_other_storage(type(self).__name__, module)

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Keep everything at first."""
        weights = self.select(module)
        return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}

    def prune_(self, trainer: Trainer, module: LightningModule) -> None:
        """Go one step down the path."""
        state_of(module).move_(self._pruned(module, self.path, self.prunings), trainer.optimizers)
        assert_ranks_agree(trainer, module)
        self.prunings += 1
        if not self.pruning:
            print_table_again(trainer, module, "after the last pruning")

    def restart_(self, trainer: Trainer, module: LightningModule) -> None:
        """Give optimizers and schedulers their first state back, for weights that were set anew."""
        start_once_more_(trainer, self._start_states)
        state_of(module).install_(module, state_of(module).masks, self, trainer.optimizers)

    # When.

    def check_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse and warn of what does not go with pruning between epochs."""
        name = type(self).__name__
        self._ended = None
        _warn_of_selection(name, trainer)
        if self.restarting:
            refuse_finetuning(name, trainer)
            _warn_of_own_schedule(name, module)
        needed, argument = self.epochs_needed
        _warn_of_short_fit(name, argument, needed - (self.epoch if self.begun else 0), trainer)

    def begin_training(self, trainer: Trainer, module: LightningModule, anew: bool) -> None:
        """Lay down the counts after each pruning, and keep what a new start needs."""
        expect_changes(trainer)
        if not anew and self.path:
            return
        self.reset()
        self.read_trainer(trainer)
        masks = state_of(module).masks
        self._alive = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
        path = self.kept_path(count_kept(masks), count_all(masks))
        self._pruned(module, path, len(path) - 1)  # what cannot be met is an error now
        self.path = path
        self._start_states = first_states(trainer)
        self.keep_start(trainer, module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the next round, or the retraining, if it is due.

        Not when the last epoch ends: what its validation measures has to be what its checkpoint holds.
        """
        self.begin_epoch(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Catch up: Lightning skips an epoch's start if a run resumes right after the batch before it."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.begin_epoch(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prune after the last batch, before Lightning validates and saves."""
        if trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches:
            self.end_epoch(trainer, pl_module)

    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Prune, once an epoch: at its end if it was cut short."""
        if self._ended == trainer.current_epoch:
            return
        self._ended = trainer.current_epoch
        self.prune_at_end(trainer, module)
        self.epoch += 1

    def log_more(self, module: LightningModule) -> None:
        """Log the schedule."""
        module.log_dict(self.metrics(module), sync_dist=True)  # every rank has the same

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the fit is over before the net is what it is meant to be."""
        if self.begun and (self.pruning or self.restarting):
            _warn_of_early_end(type(self).__name__, count_kept(self._state().masks), self.path[-1], trainer)

    # Steps of the above.

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


def _warn_of_own_schedule(callback: str, module: LightningModule) -> None:
    """Warn of a module that steps its schedulers itself: by what, nobody knows."""
    if module.automatic_optimization and overrides(module, "lr_scheduler_step"):
        rank_zero_warn(
            f"{callback} starts schedulers once more, but `lr_scheduler_step` of {type(module).__name__} may "
            "set them by `current_epoch` or `global_step`, which go on. Step them without a number."
        )


def _warn_of_early_end(callback: str, there_are: int, planned: int, trainer: Trainer) -> None:
    """Warn that a fit has ended early, unless its `max_epochs` said so when it began."""
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
        return
    missing = f"keep {planned:,} weights" if there_are != planned else "start training once more"
    rank_zero_warn(
        f"The fit has ended with {there_are:,} weights before {callback} was done, which was to {missing}. "
        "Resume it with more steps or time."
    )


def _warn_of_short_fit(callback: str, argument: str, needed: int, trainer: Trainer) -> None:
    """Warn if fit ends before the net is as sparse as it is meant to be, and not by a number of steps."""
    epochs = trainer.max_epochs
    if epochs is not None and 0 <= epochs < needed and trainer.max_steps == -1:
        rank_zero_warn(
            f"{callback} needs {needed} epochs ({argument}), and `max_epochs` is {epochs}: the net will not "
            "become as sparse as it is meant to be, or is not trained after that. Raise `max_epochs`."
        )


def _warn_of_selection(callback: str, trainer: Trainer) -> None:
    """Warn of callbacks that choose by a metric, and would choose a net that is not sparse yet."""
    for other in callbacks_of(trainer):
        monitor = getattr(other, "monitor", None)
        if monitor is None or isinstance(other, SparseCheckpoint | SparseEarlyStopping):
            continue
        for kind, does in {"ModelCheckpoint": "save", "EarlyStopping": "stop at"}.items():
            if is_lightning(other, f"callbacks.{kind}"):
                _warn_of_choice(callback, kind, monitor, does, f"Sparse{kind.removeprefix('Model')}")


def _warn_of_choice(callback: str, other: str, monitor: str, does: str, instead: str) -> None:
    rank_zero_warn(
        f"{other} by {monitor!r} may {does} a net that {callback} has not made sparse yet: such nets score "
        f"best. Use {instead} from lightning_sparse, which takes the same arguments."
    )
