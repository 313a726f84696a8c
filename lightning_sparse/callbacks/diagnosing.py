"""A fit that ends before its first step: the net as its callbacks have made it is looked at there."""

import copy
from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from lightning_sparse.checks import SparsityError, check_count, check_kind
from lightning_sparse.reporting.diagnosis import Diagnosis, Statistics, diagnose
from lightning_sparse.trainer.losses import TrainingLosses, input_in, refuse_without_loss
from lightning_sparse.trainer.packages import (
    Callback,
    LightningModule,
    Trainer,
    is_lightning,
    quiet_lightning,
)
from lightning_sparse.trainer.parts import callbacks_of, unlogged
from lightning_sparse.trainer.randomness import left_undisturbed, rng_state, set_rng_state

__all__ = ["QUIET", "diagnose_start", "look_at_start"]

_OF_NO_USE = ("Checkpoint", "DeviceStatsMonitor", "LearningRateMonitor", "ModelSummary", "ProgressBar")
"""Lightning's callbacks that only write and show; they would want a logger, or leave files."""


def diagnose_start(
    module: LightningModule,
    callbacks: Callback | Sequence[Callback],
    data: Any,
    *,
    count: int = 8,
    statistics: Statistics = "running",
    **trainer: Any,
) -> Diagnosis:
    """Say whether a net that callbacks make sparse can learn at all, without training it.

    A Trainer with these callbacks begins a fit of a copy of the module, and stops before the first step. What
    is looked at there, and how, says `lightning_sparse.reporting.diagnosis.diagnose`. Module, callbacks and
    random generators stay as they are. The command ``lightning-sparse diagnose`` does the same for a recipe.

    Args:
        module: As it would be given to ``Trainer.fit``.
        callbacks: One callback or several.
        data: A data module, or dataloaders for training.
        count: Of how many items of the first batch Jacobians are taken.
        statistics: Of batch normalisation in the Jacobian, ``"running"`` or ``"batch"``.
        **trainer: Arguments of the Trainer, such as ``max_epochs``, where callbacks ask for its length.

    Raises:
        SparsityError: If the callbacks cannot make the net sparse, or it cannot be run with the data.

    Examples:
        >>> from lightning_sparse import PruneAtInit
        >>> from lightning_sparse.data import DigitsDataModule
        >>> from lightning_sparse.models import ImageClassifier, LeNet300100
        >>> net = ImageClassifier(LeNet300100(in_features=64))
        >>> found = diagnose_start(net, PruneAtInit("erk", density=0.05, seed=0), DigitsDataModule())
        >>> found.connected, found.kept, found.empty
        (True, 2510, ())
    """
    check_kind("module", module, LightningModule)
    given = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    options = {"max_epochs": 1, "enable_checkpointing": False, **trainer, "callbacks": copy.deepcopy(given)}
    before = rng_state()
    try:
        with quiet_lightning():
            return look_at_start(
                Trainer(**{**QUIET, **options}), copy.deepcopy(module), data, count, statistics
            )
    finally:
        set_rng_state(before)


QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
}
"""Arguments of a Trainer that only begins a fit."""


def look_at_start(
    trainer: Trainer,
    module: LightningModule,
    data: Any,
    count: int,
    statistics: Statistics = "running",
    source: str = "images of the first batch",
) -> Diagnosis:
    """Begin a fit, diagnose the net right before its first step, and stop.

    Args:
        trainer: Is used up by it, and so are its callbacks.
        module: What it trains; is afterwards as at the start of training.
        data: A data module, or dataloaders for training.
        count: Of how many items of the first batch Jacobians are taken.
        statistics: Of batch normalisation in the Jacobian.
        source: What the inputs are, in words.

    Raises:
        SparsityError: As from `diagnose_start`.
    """
    check_count("count", count)
    look = _Look(count, statistics, source)
    useful = [one for one in callbacks_of(trainer) if not _is_of_no_use(one)]
    trainer.callbacks = [*useful, look]  # type: ignore[attr-defined]  # an attribute that its class does not declare
    key = "datamodule" if is_lightning(data, "core.LightningDataModule") else "train_dataloaders"
    try:
        trainer.fit(module, **{key: data})
    except _SeenEnoughError:
        assert look.found is not None
        return look.found
    raise SparsityError("`data` must have a batch for training, got none. Check the dataloader.")


class _SeenEnoughError(Exception):
    """Ends a fit; nothing is wrong."""


class _Look(Callback):
    """Diagnoses the net at the first batch, when all callbacks have made it sparse, and ends the fit."""

    def __init__(self, count: int, statistics: Statistics, source: str) -> None:
        self.count, self.statistics, self.source = count, statistics, source
        self.found: Diagnosis | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> NoReturn:
        """Look, and stop."""
        with left_undisturbed(trainer), unlogged(trainer, pl_module):
            self.found = self._diagnosed(trainer, pl_module, batch)
        raise _SeenEnoughError

    def _diagnosed(self, trainer: Trainer, module: LightningModule, batch: Any) -> Diagnosis:
        inputs = input_in(batch)
        if not isinstance(inputs, Tensor):
            raise SparsityError(
                f"`data` must have an input of real numbers in its batches, got {type(batch).__name__}."
            )
        try:
            refuse_without_loss("The diagnosis", module)
            loss = TrainingLosses(trainer, module, None).of(batch)
        except SparsityError:
            loss = None
        few = inputs[: self.count]
        source = f"{len(few)} {self.source}"
        return diagnose(module, few, loss, statistics=self.statistics, source=source)


def _is_of_no_use(callback: Callback) -> bool:
    return is_lightning(callback, *(f"callbacks.{name}" for name in _OF_NO_USE))
