"""What our callbacks refuse to do, with the way out, before anything is lost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import compact_layers
from lightning_sparse.trainer.packages import (
    LightningModule,
    Trainer,
    is_lightning,
    rank_zero_warn,
)
from lightning_sparse.trainer.parts import (
    AVERAGING,
    averaged_copies,
    averages_buffers,
    callbacks_of,
    starts_other_processes,
)
from lightning_sparse.weights.state import SparseState

if TYPE_CHECKING:
    from lightning_sparse.callbacks.base import SparsityCallback

__all__ = [
    "refuse_averaged_supports",
    "refuse_averaging",
    "refuse_compact_layers",
    "refuse_company",
    "refuse_dense_copies",
    "refuse_finetuning",
    "refuse_late_start",
    "refuse_missing_owner",
    "refuse_missing_support",
    "refuse_second_density",
    "refuse_strategy",
    "refuse_surroundings",
    "warn_of_late_start",
    "warn_of_spawned_processes",
]

_MASKS_LEFT = "masks stay in the processes it starts; after fit, this one has the sparse weights but no masks"
SPLITS_WEIGHTS = ("fsdp", "deepspeed", "modelparallel", "xla")


def warn_of_spawned_processes(callback: str, trainer: Trainer, left: str = _MASKS_LEFT) -> None:
    """Warn that Lightning hands weights back to the parent process, but nothing else that is ``left``."""
    if starts_other_processes(trainer):
        rank_zero_warn(f"{callback}: {left}. Use `strategy='ddp'`, or go on from a checkpoint.")


def warn_of_late_start(callback: str, step: int) -> None:
    """Warn that a checkpoint was made without a callback, which starts in the middle."""
    rank_zero_warn(f"{callback} found no masks of its own in the checkpoint, and starts at step {step}.")


def refuse_strategy(callback: str, trainer: Trainer) -> None:
    """Raise ValueError for strategies that split or hide parameters."""
    strategy = type(trainer.strategy).__name__
    if any(name in strategy.lower() for name in SPLITS_WEIGHTS):
        raise SparsityError(
            f"{callback} cannot run under {strategy}, which splits or copies weights: sparsity would not "
            "hold. Use one device, or `strategy='ddp'`."
        )


def refuse_company(callback: "SparsityCallback", callbacks: Sequence["SparsityCallback"]) -> None:
    """Raise ValueError if two callbacks of a Trainer would own the same masks.

    Two of one class never get here: the Trainer refuses them, as they would share a key in the checkpoint.
    """
    for other in callbacks:
        if other is not callback and other.moves == callback.moves:
            both = "change masks during training" if callback.moves else "make masks to start from"
            raise SparsityError(
                f"{type(callback).__name__} and {type(other).__name__} both {both}. Use one of them."
            )


def refuse_surroundings(
    callback: "SparsityCallback", trainer: Trainer, callbacks: Sequence["SparsityCallback"]
) -> None:
    """Raise ValueError for a strategy or other callbacks that ``callback`` cannot work with."""
    name = type(callback).__name__
    refuse_strategy(name, trainer)
    warn_of_spawned_processes(name, trainer)
    refuse_company(callback, callbacks)
    if callback.moves:
        refuse_averaging(name, trainer)


def refuse_missing_owner(state: SparseState) -> None:
    """Raise ValueError if a resumed run has no masks, as the callback that took them over is not there."""
    if state.owner is None:
        raise SparsityError(
            "The checkpoint's masks belong to a callback that is not in `callbacks`. Add the one that "
            "changed them during training, or load only the weights (`load_state_dict`) and start a new run."
        )


def refuse_averaging(callback: str, trainer: Trainer) -> None:
    """Raise ValueError for weight averaging beside masks that move: the average would be dense."""
    for other in callbacks_of(trainer):
        if is_lightning(other, *(f"callbacks.{name}" for name in AVERAGING)):
            raise SparsityError(
                f"{callback} cannot run with {type(other).__name__}: weights averaged over changing masks "
                "are dense. Use fixed masks (PruneAtInit), or no averaging."
            )


def refuse_averaged_supports(trainer: Trainer) -> None:
    """Raise ValueError if a callback averages buffers: positions, averaged as floats, are rounded down."""
    for other in callbacks_of(trainer):
        if averages_buffers(other):
            raise SparsityError(
                f"`use_buffers` of {type(other).__name__} must be False beside DCTpSConversion, got True: "
                "averaging would round the positions of S. BatchNorm statistics are then the latest ones."
            )


def refuse_dense_copies(trainer: Trainer) -> None:
    """Raise ValueError if an averaging callback has copied the net before it was converted."""
    if any(not compact_layers(copy) for copy in averaged_copies(trainer)):
        raise SparsityError(
            "DCTpSConversion must come before callbacks that average weights, got one that has copied the "
            "dense net. List DCTpSConversion first, and make layers in `__init__` (not in `configure_model`)."
        )


def refuse_compact_layers(callback: str, module: LightningModule) -> None:
    """Raise ValueError if there are Dense-plus-Sparse layers: these prune plain tensors."""
    if layers := compact_layers(module):
        raise SparsityError(
            f"{callback} cannot prune Dense-plus-Sparse layers, got {next(iter(layers))!r}. Leave "
            "DCTpSConversion out, or move their supports with RigLCallback."
        )


def refuse_finetuning(callback: str, trainer: Trainer) -> None:
    """Raise ValueError if a callback gives the optimizers more parameter groups on the way."""
    for other in callbacks_of(trainer):
        if is_lightning(other, "callbacks.BaseFinetuning"):
            raise SparsityError(
                f"{callback} cannot run with {type(other).__name__}, which adds parameter groups on the way: "
                "optimizers start once more as they were at first. Leave one of them out."
            )


def refuse_late_start(callback: str, trainer: Trainer) -> None:
    """Raise ValueError if fit resumes from a checkpoint that was made without the callback."""
    if trainer.ckpt_path is not None and trainer.global_step > 0:
        raise SparsityError(
            f"{callback} must be there from the first step on, and `ckpt_path` {str(trainer.ckpt_path)!r} "
            "was made without it. Load only the weights (`load_state_dict`) and start a new run."
        )


def refuse_missing_support(callback: "SparsityCallback", callbacks: Sequence["SparsityCallback"]) -> None:
    """Raise ValueError if nobody has made a support to start from, or is going to."""
    if len(callbacks) == 1:
        raise SparsityError(
            f"`density` of {type(callback).__name__} must be given where there are no masks and no "
            "Dense-plus-Sparse layers to start from, got None. Give it, or add PruneAtInit."
        )


def refuse_second_density(callback: "SparsityCallback", callbacks: Sequence["SparsityCallback"]) -> None:
    """Raise ValueError if a callback that starts from another's masks has a density of its own.

    Even an equal one: what comes with it, such as an allocation, would be without effect.
    """
    for other in callbacks:
        if not other.moves:
            raise SparsityError(
                f"`density` of {type(callback).__name__} must be None beside {type(other).__name__}, whose "
                f"masks it starts from, got {callback.density} beside {other.density}. Leave it out."
            )
