"""What callbacks that prune between epochs refuse to do, or warn of, with the way out."""

import os
from pathlib import Path

from lightning_sparse._lightning import (
    LightningModule,
    Trainer,
    callbacks_of,
    is_lightning,
    overrides,
    rank_zero_warn,
)
from lightning_sparse.callbacks.refusals import check_integer
from lightning_sparse.callbacks.sparse_checkpoint import SparseCheckpoint, SparseEarlyStopping
from lightning_sparse.layers import compact_layers

__all__ = [
    "check_required_integer",
    "check_sigmoid",
    "check_ticket_path",
    "refuse_compact_layers",
    "refuse_endless_search",
    "refuse_finetuning",
    "refuse_late_snapshot",
    "refuse_late_start",
    "refuse_other_number",
    "warn_of_early_end",
    "warn_of_old_ticket",
    "warn_of_own_schedule",
    "warn_of_selection",
    "warn_of_short_fit",
]


def check_required_integer(argument: str, value: object) -> None:
    """Raise ValueError unless ``value`` is an integer of at least 0."""
    if value is None:
        raise ValueError(f"`{argument}` must be an integer of at least 0, got None.")
    check_integer(argument, value)


def check_sigmoid(
    alpha: float | None,
    beta: float,
    gamma: float | None,
    density: float | None,
    search_epochs: int | None,
    min_increment: float,
) -> None:
    """Raise ValueError unless the arguments of ASNI's schedule describe one."""
    if (alpha is None) == (density is None):
        given = "neither" if alpha is None else "both"
        raise ValueError(f"`alpha` or `density` must say how sparse the net becomes, got {given}. Give one.")
    if alpha is not None and not (isinstance(alpha, int | float) and 0 < alpha < 100):
        raise ValueError(f"`alpha` must be in (0, 100), got {alpha!r}. It is a percentage: 98 removes 98%.")
    if not (isinstance(beta, int | float) and 0 < beta < 1):
        raise ValueError(f"`beta` must be in (0, 1), got {beta!r}. It is a share of the search: 0.5 is half.")
    if gamma is not None and not (isinstance(gamma, int | float) and gamma > 0):
        raise ValueError(f"`gamma` must be greater than 0, got {gamma!r}. It is a number of epochs.")
    if search_epochs is not None and not (isinstance(search_epochs, int) and search_epochs >= 2):
        raise ValueError(
            f"`search_epochs` must be at least 2, got {search_epochs!r}: one to prune after, one to recover."
        )
    if not (isinstance(min_increment, int | float) and 0 <= min_increment < 100):
        raise ValueError(f"`min_increment` must be a percentage in [0, 100), got {min_increment!r}.")


def check_ticket_path(path: str | None) -> None:
    """Raise ValueError unless a file can be written there, its folder made if need be."""
    if path is None:
        return
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if "://" in path or Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(
            f"`ticket_path` must be a file that can be written, got {path!r}. Name one in a folder of this "
            "machine that is yours."
        )


def warn_of_old_ticket(path: str | None) -> None:
    """Warn if a file is there that this run will replace."""
    if path is not None and Path(path).exists():
        rank_zero_warn(
            f"`ticket_path` {path!r} is there already, and this run will replace it when its search ends. To "
            "keep it, name another."
        )


def refuse_endless_search(search_epochs: int | None, trainer: Trainer) -> None:
    """Raise ValueError if neither an argument nor the Trainer says how long the search is."""
    if search_epochs is None and (trainer.max_epochs is None or trainer.max_epochs < 0):
        raise ValueError(
            f"`search_epochs` must be a number if `max_epochs` is {trainer.max_epochs}, got None. Set one of "
            "them."
        )


def refuse_compact_layers(callback: str, module: LightningModule) -> None:
    """Raise ValueError if there are Dense-plus-Sparse layers: these prune plain tensors."""
    if layers := compact_layers(module):
        raise ValueError(
            f"{callback} cannot prune Dense-plus-Sparse layers, got {next(iter(layers))!r}. Leave "
            "DCTpSConversion out, or move their supports with RigLCallback."
        )


def refuse_late_start(callback: str, trainer: Trainer) -> None:
    """Raise ValueError if fit resumes from a checkpoint that was made without the callback."""
    if trainer.ckpt_path is not None and trainer.global_step > 0:
        raise ValueError(
            f"{callback} must be there from the first step on, and `ckpt_path` {str(trainer.ckpt_path)!r} "
            "was made without it. Load only the weights (`load_state_dict`) and start a new run."
        )


def refuse_late_snapshot(rewind_to_step: int, epochs: int, trainer: Trainer) -> None:
    """Raise ValueError if the first round is over before the step to rewind to."""
    module = trainer.lightning_module
    steps = epochs * -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
    if module.automatic_optimization and rewind_to_step > steps and trainer.max_steps == -1:
        raise ValueError(
            f"`rewind_to_step` must be one of the first round's {steps:.0f} steps, got {rewind_to_step}. "
            "Lower it, or raise `epochs_per_round`."
        )


def refuse_other_number(kind: str, there_are: int, there_were: int) -> None:
    """Raise ValueError if a fit that goes on has other optimizers or schedulers than the one that began."""
    if there_are != there_were:
        raise ValueError(
            f"`configure_optimizers` must return {there_were} {kind}, as when training began, got "
            f"{there_are}: they start once more now. Return the same, or start a new run."
        )


def refuse_finetuning(callback: str, trainer: Trainer) -> None:
    """Raise ValueError if a callback gives the optimizers more parameter groups on the way."""
    for other in callbacks_of(trainer):
        if is_lightning(other, "callbacks.BaseFinetuning"):
            raise ValueError(
                f"{callback} cannot run with {type(other).__name__}, which adds parameter groups on the way: "
                "optimizers start once more as they were at first. Leave one of them out."
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


def warn_of_short_fit(callback: str, argument: str, needed: int, trainer: Trainer) -> None:
    """Warn if fit ends before the net is as sparse as it is meant to be, and not by a number of steps."""
    epochs = trainer.max_epochs
    if epochs is not None and 0 <= epochs < needed and trainer.max_steps == -1:
        rank_zero_warn(
            f"{callback} needs {needed} epochs ({argument}), and `max_epochs` is {epochs}: the net will not "
            "become as sparse as it is meant to be, or is not trained after that. Raise `max_epochs`."
        )
