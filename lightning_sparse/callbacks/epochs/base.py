"""What ASNI and lottery-ticket rounds share: pruning between epochs, and starting training once more."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from lightning_sparse.callbacks.choosing import warn_of_selection
from lightning_sparse.callbacks.company import refuse_finetuning
from lightning_sparse.callbacks.magnitude import MagnitudePruning, warn_of_early_end
from lightning_sparse.functional.budgets import layer_budget
from lightning_sparse.functional.filters import Filters
from lightning_sparse.functional.masks import count_kept
from lightning_sparse.functional.pruning import plan_budgets
from lightning_sparse.functional.rewinding import Snapshot
from lightning_sparse.selection import match_overrides
from lightning_sparse.trainer.packages import LightningModule, Trainer, overrides, rank_zero_warn
from lightning_sparse.trainer.restart import StartStates, first_states, start_once_more_
from lightning_sparse.types import Budgets, Shapes
from lightning_sparse.weights.state import state_of

__all__ = ["EpochPruning"]


class EpochPruning(MagnitudePruning, ABC):
    """Prunes by magnitude, all layers together, between epochs.

    Epochs are counted here, so that a second fit goes on where the first ended. What a new start of training
    needs (the optimizers' and schedulers' first states, earlier weights) is kept in checkpoints.

    Args:
        density: Share of the selected weights to keep at the end, a fraction in (0, 1].
        **pruning: ``min_weights_per_layer``, ``include``, ``exclude``, ``density_overrides`` (at the end),
            ``communication`` and ``verify``, as `MagnitudePruning` has them.
    """

    run_state: ClassVar = {
        **MagnitudePruning.run_state,
        "epoch": int,
        "_ended": lambda: None,
        "_start_states": dict,
        "_saved": dict,
    }
    epoch: int  # how many are over
    _ended: int | None  # the Trainer's epoch that ended last
    _start_states: StartStates
    _saved: Snapshot

    # What children fill in.

    @property
    @abstractmethod
    def epochs_needed(self) -> tuple[int, str]:
        """How many epochs the fit needs in all, and by which argument."""

    @abstractmethod
    def keep_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the weights that a new start of training needs, before the first step."""

    @abstractmethod
    def begin_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Do what is due before an epoch; ``self.epoch`` are over."""

    @abstractmethod
    def prune_at_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Do what is due after an epoch's last step, before validation; ``self.epoch`` were over before."""

    # What they have in common.

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the budgets of layers with a density of their own; the others compete."""
        total = sum(shape.numel() for shape in shapes.values())
        fixed = match_overrides(shapes, self.density_overrides)
        density = self.planned_total(total) / total
        return plan_budgets(shapes, density, "global", fixed=fixed, min_weights=self.min_weights_per_layer)

    def planned_total(self, total: int) -> int:
        """Return how many of so many weights are left at the end."""
        return self.kept_path(total, total)[-1]

    def final_budgets(self, module: LightningModule) -> Budgets:
        """Return the budgets of layers with a density of their own."""
        shapes = {name: weight.shape for name, weight in state_of(module).weights.items()}
        fixed = match_overrides(shapes, self.density_overrides)
        least = self.min_weights_per_layer
        return {name: layer_budget(shapes[name].numel(), share, least) for name, share in fixed.items()}

    def filters(self, module: LightningModule) -> dict[str, Filters]:
        """Return none: all weights compete."""
        return {}

    def read_length(self, trainer: Trainer) -> None:
        """Take what arguments leave to the Trainer, which has just been forgotten."""
        self.read_trainer(trainer)

    def keep_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the first states of optimizers and schedulers, and weights."""
        self._start_states = first_states(trainer)
        self.keep_weights(trainer, module)

    def restart_(self, trainer: Trainer, module: LightningModule) -> None:
        """Give optimizers and schedulers their first state back, for weights that were set anew."""
        start_once_more_(trainer, self._start_states)
        state_of(module).install_(module, state_of(module).masks, self, trainer.optimizers)

    # When.

    def check_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse and warn of what does not go with pruning between epochs."""
        name = type(self).__name__
        self._ended = None
        warn_of_selection(name, trainer)
        if self.restarting:
            refuse_finetuning(name, trainer)
            _warn_of_own_schedule(name, module)
        needed, argument = self.epochs_needed
        _warn_of_short_fit(name, argument, needed - (self.epoch if self.begun else 0), trainer)

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

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the fit is over before the net is what it is meant to be."""
        told = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch
        if self.begun and (self.pruning or self.restarting) and not told:
            warn_of_early_end(type(self).__name__, count_kept(self._state().masks), self.path[-1])


def _warn_of_own_schedule(callback: str, module: LightningModule) -> None:
    """Warn of a module that steps its schedulers itself: by what, nobody knows."""
    if module.automatic_optimization and overrides(module, "lr_scheduler_step"):
        rank_zero_warn(
            f"{callback} starts schedulers once more, but `lr_scheduler_step` of {type(module).__name__} may "
            "set them by `current_epoch` or `global_step`, which go on. Step them without a number."
        )


def _warn_of_short_fit(callback: str, argument: str, needed: int, trainer: Trainer) -> None:
    """Warn if fit ends before the net is as sparse as it is meant to be, and not by a number of steps."""
    epochs = trainer.max_epochs
    if epochs is not None and 0 <= epochs < needed and trainer.max_steps == -1:
        rank_zero_warn(
            f"{callback} needs {needed} epochs ({argument}), and `max_epochs` is {epochs}: the net will not "
            "become as sparse as it is meant to be, or is not trained after that. Raise `max_epochs`."
        )
