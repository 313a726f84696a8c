"""What is refused where weights are split over processes: before any data is touched, with the reason."""

from collections.abc import Sequence

from torch import nn

from lightning_sparse.callbacks.company import Member, OurCallback
from lightning_sparse.checks import SparsityError
from lightning_sparse.selection import parameters_by_name
from lightning_sparse.trainer.packages import Trainer, is_lightning
from lightning_sparse.trainer.parts import AVERAGING, callbacks_of, scales_losses
from lightning_sparse.weights.shards import is_sharded

__all__ = ["COMPACT_HAS_NO_ROWS", "refuse_shards", "refuse_strategy"]

COMPACT_HAS_NO_ROWS = "`storage` 'compact' keeps values that have no rows to split. Leave it out"
"""Why a callback that stores so needs whole weights."""

SPLITS_WEIGHTS = ("fsdp", "deepspeed", "xla")
"""Parts of the names of strategies that split or copy weights in a way of their own."""

BY_ROWS = "modelparallel"
"""Of one whose parameters are `DTensor`, each process holding some rows."""

_WAY_OUT = "Use one device, or `strategy='ddp'`"


def refuse_strategy(callback: OurCallback, trainer: Trainer) -> None:
    """Refuse strategies that split or hide parameters, unless a callback can do with rows of them.

    Raises:
        SparsityError: It says why, and the way out.
    """
    name, strategy = type(callback).__name__, type(trainer.strategy).__name__
    if any(part in strategy.lower() for part in SPLITS_WEIGHTS):
        raise SparsityError(
            f"{name} cannot run under {strategy}, which splits or copies weights: sparsity would not hold. "
            f"{_WAY_OUT}; what is too large for that may be sharded by `ModelParallelStrategy`."
        )
    if BY_ROWS not in strategy.lower():
        return
    if callback.needs_whole:
        raise SparsityError(f"{name} cannot run under {strategy}: {callback.needs_whole}. {_WAY_OUT}.")
    for other in callbacks_of(trainer):
        if is_lightning(other, *(f"callbacks.{kind}" for kind in AVERAGING)):
            raise SparsityError(
                f"{name} cannot run under {strategy} beside {type(other).__name__}: whether averages of "
                "split weights stay sparse has not been tried. Leave one of them out."
            )
    if scales_losses(trainer):
        raise SparsityError(
            f"`precision` '16-mixed' of the Trainer must be another one beside {name} under {strategy}: each "
            "process would decide by itself to leave a step out. Use 'bf16-mixed'."
        )


def refuse_shards(callbacks: Sequence[Member], trainer: Trainer, module: nn.Module) -> None:
    """Refuse a module that a strategy was to split and has not, or that is split against expectation.

    Raises:
        SparsityError: It names a callback that needs weights whole, or says that nothing is split.
    """
    split = [name for name, parameter in parameters_by_name(module).items() if is_sharded(parameter)]
    strategy = type(trainer.strategy).__name__
    if not split and BY_ROWS in strategy.lower():
        raise SparsityError(
            f"`configure_model` must shard the module under {strategy}, got no parameter that is split: no "
            "process would know of the others' gradients. Call `fully_shard(layer, "
            "mesh=self.device_mesh['data_parallel'])` in it for every layer."
        )
    for callback in callbacks if split else ():
        if callback.needs_whole:
            raise SparsityError(
                f"{type(callback).__name__} cannot work on a sharded module, got {split[0]!r}, of which this "
                f"process holds a part: {callback.needs_whole}. {_WAY_OUT}."
            )
