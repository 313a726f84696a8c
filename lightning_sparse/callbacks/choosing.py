"""Choosing a net by its metric, among those that are as sparse as they are meant to be."""

from torch import Tensor

from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.packages import (
    EarlyStopping,
    LightningModule,
    ModelCheckpoint,
    Trainer,
    is_lightning,
    rank_zero_warn,
)
from lightning_sparse.trainer.parts import callbacks_of

__all__ = ["SparseCheckpoint", "SparseEarlyStopping", "best_checkpoint", "warn_of_selection"]


class SparseCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` that saves no net which is still to be pruned.

    On its way a net scores best before it is sparse, and a best-metric checkpoint would keep that one. This
    one begins to compare by ``monitor`` once the last weights are pruned, and keeps none before: to resume a
    run, have a plain ``ModelCheckpoint(save_last=True)`` beside it, with a ``dirpath`` of its own. What
    ``save_last`` and ``save_on_exception`` save goes by no metric, and is not held back.

    ``lightning-sparse fit`` tests the net that it has kept, and the last one where no such callback stands in
    the recipe. In Python, ``trainer.test(module, data, ckpt_path=checkpoint.best_model_path)`` does so.

    Its arguments are those of Lightning's ``ModelCheckpoint``; ``monitor`` is required.

    Raises:
        SparsityError: When a stage starts, if there is no ``monitor``.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to save without a metric."""
        if self.monitor is None:
            raise SparsityError(
                "`monitor` of SparseCheckpoint must be the name of a metric, got None. Without one, use "
                "Lightning's ModelCheckpoint."
            )
        super().setup(trainer, pl_module, stage)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Tell whether a checkpoint is among the best so far."""
        pruning = any(callback.pruning for callback in _mask_owners(trainer))
        return not pruning and super().check_monitor_top_k(trainer, current)


class SparseEarlyStopping(EarlyStopping):
    """Lightning's ``EarlyStopping`` that begins to watch once the last weights are pruned.

    If training starts once more after that, as ASNI's retraining does, it begins to watch then. Its arguments
    are those of Lightning's ``EarlyStopping``.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, unless the net is still to be pruned, or training to start once more."""
        if _is_settled(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, unless the net is still to be pruned, or training to start once more."""
        if _is_settled(trainer):
            super().on_validation_end(trainer, pl_module)


def best_checkpoint(trainer: Trainer) -> tuple[str, str] | None:
    """Return the file that the first ``SparseCheckpoint`` takes for the best, and its metric.

    Returns:
        None if there is no such callback. The file is "" if it has kept none: no net was both sparse and
        validated.
    """
    kept = [callback for callback in callbacks_of(trainer) if isinstance(callback, SparseCheckpoint)]
    return (str(kept[0].best_model_path), str(kept[0].monitor)) if kept else None


def warn_of_selection(callback: str, trainer: Trainer) -> None:
    """Warn of callbacks that choose by a metric, and would choose a net that is not sparse yet."""
    for other in callbacks_of(trainer):
        monitor = getattr(other, "monitor", None)
        if monitor is None or isinstance(other, SparseCheckpoint | SparseEarlyStopping):
            continue
        for kind, does in {"ModelCheckpoint": "save", "EarlyStopping": "stop at"}.items():
            if is_lightning(other, f"callbacks.{kind}"):
                _warn_of_choice(callback, kind, monitor, does, f"Sparse{kind.removeprefix('Model')}")


def _is_settled(trainer: Trainer) -> bool:
    return not any(callback.pruning or callback.restarting for callback in _mask_owners(trainer))


def _mask_owners(trainer: Trainer) -> list[SparsityCallback]:
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, SparsityCallback)]


def _warn_of_choice(callback: str, other: str, monitor: str, does: str, instead: str) -> None:
    rank_zero_warn(
        f"{other} by {monitor!r} may {does} a net that {callback} has not made sparse yet: such nets score "
        f"best. Use {instead} from lightning_sparse, which takes the same arguments."
    )
