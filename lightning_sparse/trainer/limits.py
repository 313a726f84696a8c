"""What a resumed run cannot bring back, said in words when it is met."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_sparse.trainer.before_two import is_before_two
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import train_loaders
from lightning_sparse.trainer.resuming import (
    Moment,
    StatefulLoader,
    fetches_ahead,
    is_resumed_within_epoch,
    is_within_epoch,
    repeats_ended_epoch,
    stateful_loaders,
)

_BEFORE_TWO = (
    "Lightning before 2.0 goes on otherwise from a checkpoint that was written before the end of an epoch or "
    "in its validation: it loses accumulated gradients, and schedulers make other steps. Use Lightning 2, or "
    "resume at the end of an epoch (`ModelCheckpoint(save_on_train_epoch_end=True)`)"
)

_IN_A_STEP = (
    "the checkpoint was written in the middle of a step (by a signal, as in SLURM's requeue, or by a "
    "callback): a resumed run does not train on that step's batch. Resume from a checkpoint of "
    "`ModelCheckpoint`; under SLURM, set `SLURMEnvironment(auto_requeue=False)`"
)

__all__ = [
    "limits_of_first_batch",
    "limits_of_fit",
    "limits_of_moment",
    "limits_of_resumed",
    "limits_within_epoch",
]


def limits_of_fit(trainer: Trainer) -> list[str]:
    """Return what is lost in any checkpoint of this fit."""
    lost = (
        "`persistent_workers=True`: what worker processes draw goes on from epoch to epoch, out of reach. If "
        "your data draw random numbers (augmentation), set it to False"
    )
    workers = (loader for loader in train_loaders(trainer) if getattr(loader, "persistent_workers", False))
    return [lost] if any(map(_may_draw, workers)) else []


def limits_within_epoch(trainer: Trainer) -> list[str]:
    """Return what is lost in a checkpoint written in mid-epoch."""
    loaders, lost = stateful_loaders(trainer), [_BEFORE_TWO] if is_before_two(trainer) else []
    if any(getattr(loader, "num_workers", 0) and _may_draw(loader) for loader in loaders):
        lost.append(
            "in mid-epoch worker processes start their random numbers afresh. If your data draw any "
            "(augmentation), set `num_workers=0`, or resume at the end of an epoch"
        )
    if loaders and fetches_ahead(trainer):
        lost.append(
            "data without length: Lightning fetches a batch ahead, which a run resumed in mid-epoch leaves "
            "out. Give the data set a `__len__`, or resume at the end of an epoch"
        )
    return lost


def limits_of_moment(moment: Moment) -> list[str]:
    """Return what is lost in a checkpoint that is written at this moment."""
    return [_IN_A_STEP] if moment == "in a step" else []


def limits_of_first_batch(trainer: Trainer) -> list[str]:
    """Return what is lost if random numbers were drawn as a dataloader of a kind of its own went on."""
    lost = (
        "the dataloader drew random numbers, to find its place or for the first batch, nobody knows which; "
        "they were given back after it. Use torchdata's `StatefulDataLoader`, or resume at an epoch's end"
    )
    return [lost] if any(map(_may_draw, train_loaders(trainer))) else []


def limits_of_resumed(trainer: Trainer, saved: Mapping[str, Any], rounded: Iterable[str]) -> list[str]:
    """Return what was lost in the checkpoint that fit resumes from.

    Args:
        trainer: At the start of training.
        saved: This rank's state.
        rounded: Names of weights that the checkpoint holds in more digits than this run.
    """
    lost = [_BEFORE_TWO] if is_before_two(trainer) and is_resumed_within_epoch(trainer) else []
    if is_within_epoch(trainer):
        if not all(isinstance(loader, StatefulLoader) for loader in train_loaders(trainer)):
            lost.append(
                "the checkpoint was written in mid-epoch, and a dataloader without `state_dict` starts again "
                "with the epoch's first batch. Use torchdata's `StatefulDataLoader`, or resume at the end of "
                "an epoch"
            )
        lost += limits_within_epoch(trainer)
    lost += limits_of_moment(saved.get("moment", ""))
    if saved.get("validation_due"):
        lost.append(
            "the checkpoint was written after a step, before the validation that followed, which Lightning "
            "leaves out. Save when the validation or the epoch has ended"
        )
    if repeats_ended_epoch(trainer):
        lost.append(
            "with `max_steps` and no validation, Lightning trains on one more batch of the epoch that had "
            "ended. Use `max_epochs`"
        )
    if names := sorted(rounded):
        lost.append(f"the checkpoint has {names[0]!r} in more digits than this run. Use the same `precision`")
    return lost


def _may_draw(loader: Any) -> bool:
    """Tell whether reading an item may draw random numbers: plain tensors do not."""
    data = getattr(loader, "dataset", None)
    parts = data.datasets if isinstance(data, ConcatDataset) else [data]
    return not all(isinstance(_whole(part), TensorDataset) for part in parts)


def _whole(data: Any) -> Any:
    return _whole(data.dataset) if isinstance(data, Subset) else data
