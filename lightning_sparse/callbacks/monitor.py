"""Watches sparsity, with or without a callback that makes it, and is the one writer of its figures."""

import shlex
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from lightning_sparse.callbacks.company import OurCallback, announce_to_ranks, check_what_is_loaded
from lightning_sparse.callbacks.sharding import refuse_strategy
from lightning_sparse.checks import check_count, check_flag
from lightning_sparse.files.reading import short_path
from lightning_sparse.reporting.layers import (
    LayerCount,
    count_weight,
    not_counted,
    sparsity_metrics,
    sparsity_table,
)
from lightning_sparse.selection import dense_weights, layer_name
from lightning_sparse.trainer.packages import LightningModule, Trainer, is_lightning, rank_zero_warn
from lightning_sparse.trainer.parts import callbacks_of, trainer_of
from lightning_sparse.trainer.processes import compare_callbacks
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.hyperplane import hyperplane_of
from lightning_sparse.weights.masked import weights_by_zeros

__all__ = [
    "SparsityMonitor",
    "expect_changes",
    "log_sparsity",
    "logs_layers",
    "monitored",
    "print_end",
    "print_table_after_summary",
    "print_table_again",
]

_Counts: TypeAlias = dict[str, list[LayerCount]]
"""What each layer keeps, by the metric that it is logged under."""


class SparsityMonitor(OurCallback):
    """Log ``sparsity/total`` and ``sparsity_layers/<layer>``, and print the table of layers.

    The other callbacks log by themselves; beside them the monitor takes the logging over, so nothing is
    logged twice. Without them it counts the zeros of linear and convolutional weights. Dense-plus-Sparse
    layers, whose weight is dense, count by their trained values: ``trainable_sparsity/total`` and
    ``trainable_sparsity_layers/<layer>``.

    The total is logged in every epoch; layers, where what they keep is fixed, once when training starts.

    Args:
        every_n_epochs: Log at the end of every n-th epoch.
        log_histograms: Also write a histogram of each layer's kept weights or trained values, to TensorBoard.
        per_layer: Whether series of single layers are logged: by the monitor, and by the callbacks beside it
            (``rigl_layers/churn/<layer>``, ``centroids/<layer>/plus``). Totals are logged anyway.

    Raises:
        SparsityError: If an argument is out of range.
    """

    def __init__(self, every_n_epochs: int = 1, log_histograms: bool = False, per_layer: bool = True) -> None:
        check_count("every_n_epochs", every_n_epochs)
        check_flag("log_histograms", log_histograms)
        check_flag("per_layer", per_layer)
        self.every_n_epochs = every_n_epochs
        self.log_histograms = log_histograms
        self.per_layer = per_layer
        if log_histograms:
            self.needs_whole = "`log_histograms` shows whole weights on process 0 alone. Leave it out"

        self._shown = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that all ranks must share."""
        return {"every_n_epochs": self.every_n_epochs, "per_layer": self.per_layer}

    def before_loading(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Do nothing: it changes no module."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the other ranks of it, and let the checkpoint be checked."""
        refuse_strategy(self, trainer)
        announce_to_ranks(self, trainer)
        check_what_is_loaded(self, trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the other ranks."""
        compare_callbacks(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the first epoch show the table: only then all masks are made."""
        self._shown = False
        if not _seen(pl_module, zeros=True) and hyperplane_of(pl_module) is None:
            rank_zero_warn("SparsityMonitor found no linear or convolutional weights: it logs nothing.")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, and log, before the first batch."""
        if not self._shown:
            self._shown = True
            _print_table(trainer, pl_module, zeros=True)
            log_sparsity(pl_module, zeros=True, first=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        log_sparsity(pl_module, zeros=True)
        if self.log_histograms:
            self._write_histograms(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what has become of the net, and where it is saved."""
        print_end(trainer, pl_module, zeros=True)

    def _write_histograms(self, trainer: Trainer, module: LightningModule) -> None:
        for logger in trainer.loggers:
            if is_lightning(logger, "loggers.TensorBoardLogger"):
                writer: Any = logger.experiment  # type: ignore[attr-defined]
                for weight in _seen(module, zeros=True):
                    name = f"{weight.shown.histogram}/{layer_name(weight.name)}"
                    writer.add_histogram(name, weight.active, trainer.global_step)


@dataclass
class _Told:
    """What users of one Trainer have been told so far.

    Args:
        changing: Whether what layers keep is not fixed.
        logged: What was logged last.
        printed: What was printed last; ``None`` where no tables are wanted.
    """

    changing: bool = True
    logged: _Counts | None = None
    printed: _Counts | None = None


_told: "weakref.WeakKeyDictionary[Trainer, _Told]" = weakref.WeakKeyDictionary()


def _told_by(trainer: Trainer) -> _Told:
    return _told.setdefault(trainer, _Told())


def expect_changes(trainer: Trainer, changing: bool = True) -> None:
    """Note whether what layers keep will change in this fit: then they are logged in every epoch."""
    _told_by(trainer).changing = changing


def log_sparsity(module: LightningModule, zeros: bool = False, first: bool = False) -> None:
    """Log one minus the density of all, and of every layer, for ``ModelCheckpoint`` to monitor too.

    Layers of which what they keep is fixed are logged once.

    Args:
        module: Logs.
        zeros: Whether to count the zeros of ordinary weights where no mask is in force.
        first: Whether training starts.
    """
    told, counts = _told_by(trainer_of(module)), _counts(module, zeros)
    told.changing = told.changing or not (first or counts == told.logged)
    told.logged = counts
    per_layer = logs_layers(module) and (first or told.changing)
    for metric, layers in counts.items():
        # Every rank has the same values; the reduction only tells Lightning so.
        module.log_dict(sparsity_metrics(layers, metric, per_layer), sync_dist=True)


def logs_layers(module: LightningModule) -> bool:
    """Tell whether series of single layers are wanted; a ``SparsityMonitor`` can say that they are not."""
    monitors = (c for c in callbacks_of(trainer_of(module)) if isinstance(c, SparsityMonitor))
    return all(monitor.per_layer for monitor in monitors)


def print_table_after_summary(trainer: Trainer, module: LightningModule, zeros: bool) -> None:
    """Print the table of layers if Lightning has printed its own summary of the module."""
    _told_by(trainer).printed = None
    if any(is_lightning(callback, "callbacks.ModelSummary") for callback in callbacks_of(trainer)):
        _print_table(trainer, module, zeros)


def print_table_again(trainer: Trainer, module: LightningModule, when: str) -> None:
    """Print the table once more, if there was one when training started; ``when`` says why."""
    if _told_by(trainer).printed is not None:
        _print_table(trainer, module, zeros=False, when=f" {when}")


def print_end(trainer: Trainer, module: LightningModule, zeros: bool) -> None:
    """Say what has become of the net when a fit ends, if there was a table when it started; on rank 0.

    A table if anything has changed since the last one, else a line; then where it is saved, and what to do
    with that.
    """
    before, counts = _told_by(trainer).printed, _counts(module, zeros)
    if before is None:
        return
    if counts != before:
        _print_table(trainer, module, zeros, when=" at the end of fit")
    groups = _by_metric(module, zeros)
    if not trainer.is_global_zero:
        return
    if counts == before:
        for weights in groups.values():
            kept, total = sum(weight.nnz for weight in weights), sum(w.shape.numel() for w in weights)
            what, is_kept, _ = weights[0].shown.columns
            print(f"\n{kept / max(total, 1):.4%} of the {what} {is_kept}, as in the table above.")
    print(_saved_in_words(trainer), flush=True)


def _print_table(trainer: Trainer, module: LightningModule, zeros: bool, when: str = "") -> None:
    """Print the table of layers on rank 0, and what else is large and stays dense."""
    _told_by(trainer).printed = _counts(module, zeros)
    groups = _by_metric(module, zeros)  # on every rank: zeros of split weights are counted together
    if not trainer.is_global_zero:
        return
    counted = {weight.name: weight.shape.numel() for weights in groups.values() for weight in weights}
    parts = {id(weight.base) for weights in groups.values() for weight in weights}
    others = {n: w.numel() for n, w in dense_weights(module, counted).items() if id(w) not in parts}
    rest = not_counted(others, sum(counted.values()))
    for weights in groups.values():
        shown = weights[0].shown
        table = sparsity_table(list(map(count_weight, weights)), shown.columns)
        print(f"\n{shown.title}{when}:\n{table}{rest}\n", flush=True)
        rest = ""  # once is enough


def _saved_in_words(trainer: Trainer) -> str:
    """Say where the net is saved, the best one if somebody chose it, and the command that looks at it."""
    found = [c for c in callbacks_of(trainer) if is_lightning(c, "callbacks.ModelCheckpoint")]
    saved: list[Any] = [c for c in found if c.best_model_path or c.last_model_path]  # type: ignore[attr-defined]
    if not saved:
        return "No checkpoint was saved. In Python: lightning_sparse.summary(module)."
    chosen = next((c for c in saved if c.monitor is not None and c.best_model_path), None)
    path = chosen.best_model_path if chosen else saved[0].last_model_path or saved[0].best_model_path
    which = "last" if chosen is None else f"best by {chosen.monitor}"
    path = shlex.quote(short_path(path))
    return f"Checkpoint ({which}): {path}\nNext: lightning-sparse summary {path}"


def monitored(trainer: Trainer) -> bool:
    """Tell whether a ``SparsityMonitor`` does the logging."""
    return any(isinstance(callback, SparsityMonitor) for callback in callbacks_of(trainer))


def _seen(module: LightningModule, zeros: bool) -> list[SparseWeight]:
    """Return the sparse weights in force; if asked to, ordinary ones by their zeros where none has a mask.

    Nothing of weights that move in a hyperplane: its callback says how many numbers are trained for them.
    """
    if hyperplane_of(module) is not None:
        return []
    found = [weight for weight in sparse_weights(module).values() if weight.in_force]
    if zeros and not any(weight.prunes for weight in found):
        return [*weights_by_zeros(module), *found]
    return found


def _by_metric(module: LightningModule, zeros: bool) -> dict[str, list[SparseWeight]]:
    groups: dict[str, list[SparseWeight]] = {}
    for weight in _seen(module, zeros):
        groups.setdefault(weight.shown.metric, []).append(weight)
    return groups


def _counts(module: LightningModule, zeros: bool) -> _Counts:
    return {metric: list(map(count_weight, weights)) for metric, weights in _by_metric(module, zeros).items()}
