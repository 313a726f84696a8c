"""Where a fit stands, and when Lightning makes the iterator over the training data: read and used here."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer import before_two
from lightning_sparse.trainer.before_two import is_before_two
from lightning_sparse.trainer.packages import Trainer, is_lightning, package_of
from lightning_sparse.trainer.parts import callbacks_of, train_loaders

__all__ = [
    "Moment",
    "StatefulLoader",
    "at_first_fetch",
    "fetches_ahead",
    "find_places_",
    "has_module",
    "is_resumed_within_epoch",
    "is_within_epoch",
    "let_lightning_restart",
    "moment_of",
    "reload_epoch",
    "repeats_ended_epoch",
    "restart_train_iterator",
    "set_accumulation_",
    "set_reload_epoch_",
    "stateful_loaders",
    "unwatch_iterators",
    "validation_is_due",
    "watch_iterators",
]

T = TypeVar("T")

Moment: TypeAlias = Literal["in a step", "step made", "validating", "epoch ends", ""]
"""What Lightning is doing when a checkpoint is written; empty if nothing of a batch or epoch is left."""


@runtime_checkable
class StatefulLoader(Protocol):
    """A dataloader that knows where it is."""

    def state_dict(self) -> dict[str, Any]:
        """Return where it is."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start there when iterated over next."""


def has_module(trainer: Trainer) -> bool:
    """Tell whether a fit has begun, or the Trainer has just been made."""
    return getattr(trainer, "lightning_module", None) is not None


def stateful_loaders(trainer: Trainer) -> list[StatefulLoader]:
    """Return the training dataloaders that know where they are."""
    return [loader for loader in train_loaders(trainer) if isinstance(loader, StatefulLoader)]


def is_within_epoch(trainer: Trainer) -> bool:
    """Tell whether some batches of the epoch have been trained on, and others have not."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if is_before_two(trainer) and progress.current.ready == trainer.num_training_batches:
        return False  # that a limit makes this the last batch, the loop does not tell
    return not progress.is_last_batch and progress.current.ready > 0


def is_resumed_within_epoch(trainer: Trainer) -> bool:
    """Tell whether Lightning takes up an epoch that it began before, be it with no batch left."""
    return bool(trainer.fit_loop.restarting)


def moment_of(trainer: Trainer) -> Moment:
    """Return what Lightning is doing, as far as that leaves something to do after a checkpoint."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    batch: Any = trainer.fit_loop.epoch_loop.batch_progress.current  # the total is not set back by a resume
    if trainer.validating:
        return "validating"
    if batch.ready > batch.processed:
        return "in a step"
    if epochs.processed == epochs.completed + 1:
        return "epoch ends"
    return "step made" if batches.processed == batches.completed + 1 else ""


def validation_is_due(trainer: Trainer) -> bool:
    """Tell whether Lightning is going to validate after this batch."""
    fetcher = trainer.fit_loop._data_fetcher
    if fetcher is None or moment_of(trainer) != "step made":
        return False
    seen = [] if is_before_two(trainer) else [fetcher]
    return bool(trainer.fit_loop.epoch_loop._should_check_val_fx(*seen))


def repeats_ended_epoch(trainer: Trainer) -> bool:
    """Tell whether Lightning is going to train on a batch of an epoch that had ended (``max_steps``).

    It looks for a validation to go on with, and if there was none it takes the next batch.
    """
    if is_before_two(trainer):
        return False
    loop = trainer.fit_loop.epoch_loop
    knows = getattr(trainer.fit_loop, "restarted_on_epoch_end", False)  # since 2.5, which goes on otherwise
    return bool(is_resumed_within_epoch(trainer) and knows and not loop._should_check_val_epoch())


def fetches_ahead(trainer: Trainer) -> bool:
    """Tell whether Lightning fetches a batch before it is needed, to know which one is the last."""
    if is_before_two(trainer):
        return before_two.fetches_ahead(trainer)
    return getattr(trainer.fit_loop._data_fetcher, "length", 0) is None


def restart_train_iterator(trainer: Trainer) -> None:
    """Make the iterator over the training data anew; batches counted so far stay counted."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None, "made before training starts"
    if is_before_two(trainer):
        before_two.restart_iterator(trainer)
    elif fetches_ahead(trainer):
        iter(fetcher)
    else:
        fetcher.iterator = iter(fetcher.combined_loader)


def find_places_(trainer: Trainer) -> bool:
    """Let iterators find their places in the data now, where that would be done with the first batch.

    ``StatefulDataLoader`` does that late for samplers that do not know where they are: by an ``islice``.

    Returns:
        Whether all have found theirs, so that what is drawn next is for the next batch. Not so if an iterator
        is none of PyTorch's: then it may do anything.
    """
    iterators = _iterators(trainer)
    for iterator in iterators:
        places = getattr(iterator, "_sampler_iter", None)
        if isinstance(places, itertools.islice):
            iterator._sampler_iter = itertools.chain(list(itertools.islice(places, 1)), places)
    return all(hasattr(iterator, "_sampler_iter") for iterator in iterators)


def at_first_fetch(trainer: Trainer, prepare: Callable[[], None]) -> None:
    """Do something right before the first batch is fetched, such as to make the iterator anew."""
    fetcher = trainer.fit_loop._data_fetcher
    if is_before_two(trainer):
        before_two.at_iterator(trainer, prepare)
    elif fetcher is None or fetches_ahead(trainer):
        prepare()
    else:
        fetcher.iterator = _FirstFetch(fetcher, prepare)


def let_lightning_restart(trainer: Trainer) -> bool:
    """Let Lightning make the iterator when the epoch has begun, as in a run that goes on; tell if it will."""
    if is_resumed_within_epoch(trainer) or trainer.current_epoch == 0:
        return False
    if is_before_two(trainer):
        before_two.set_up_as_after_an_epoch(trainer)
    else:
        trainer.fit_loop._resuming_from_checkpoint = False
    return True


def watch_iterators(trainer: Trainer, take: Callable[[], T], keep: Callable[[T], None]) -> None:
    """Take something down right before Lightning makes an epoch's iterator over the training data.

    Args:
        trainer: Its loops call this until ``unwatch_iterators``.
        take: Called before, when the dataloaders are there; returns what may have to be kept.
        keep: Called with it once the iterator has been made.

    Raises:
        SparsityError: If this Lightning does not tell when it makes them.
    """
    fit_loop = trainer.fit_loop
    unwatch_iterators(trainer)
    if is_before_two(trainer):
        before_two.wait_for_iterators(trainer, take, keep)
        return
    if not hasattr(fit_loop, "_load_combined_loader_states"):
        raise SparsityError(
            f"ExactResume needs Lightning 2.2 or later, or 1.9, got {package_of(trainer).__version__}, which "
            "does not tell when it starts to draw data. Leave it out, or install another Lightning."
        )
    load, run_start = fit_loop._load_combined_loader_states, fit_loop.epoch_loop.on_run_start

    def load_and_take() -> None:
        load()
        keep(take())

    def run_start_and_take(fetcher: Any) -> None:
        taken, before = take(), fetcher.combined_loader._iterator
        run_start(fetcher)
        if fetcher.combined_loader._iterator is not before:
            keep(taken)

    fit_loop.__dict__["_load_combined_loader_states"] = load_and_take
    fit_loop.epoch_loop.__dict__["on_run_start"] = run_start_and_take


def unwatch_iterators(trainer: Trainer) -> None:
    """Take down no more."""
    trainer.fit_loop.__dict__.pop("_load_combined_loader_states", None)
    trainer.fit_loop.epoch_loop.__dict__.pop("on_run_start", None)


def reload_epoch(trainer: Trainer) -> int | None:
    """Return in which epoch dataloaders were made last, if they are made again on the way."""
    made = _keeps_reloads(trainer)._last_train_dl_reload_epoch
    return int(made) if _reloads(trainer) and made >= 0 else None


def set_reload_epoch_(trainer: Trainer, epoch: int | None) -> bool:
    """Count from this epoch on when dataloaders are to be made again; tell whether they are due now."""
    if epoch is not None and _reloads(trainer):
        _keeps_reloads(trainer)._last_train_dl_reload_epoch = epoch
    loop: Any = trainer._data_connector if is_before_two(trainer) else trainer.fit_loop
    return bool(loop._should_reload_train_dl)


def set_accumulation_(trainer: Trainer) -> None:
    """Let a schedule of accumulated batches apply in an epoch that goes on, which Lightning forgets."""
    for callback in callbacks_of(trainer):
        if is_lightning(callback, "callbacks.GradientAccumulationScheduler"):
            schedule: Any = callback
            trainer.accumulate_grad_batches = schedule.get_accumulate_grad_batches(trainer.current_epoch)


def _keeps_reloads(trainer: Trainer) -> Any:
    return trainer if is_before_two(trainer) else trainer.fit_loop


def _reloads(trainer: Trainer) -> bool:
    return bool(getattr(trainer, "reload_dataloaders_every_n_epochs", 0))


class _FirstFetch:
    """Stands in for the iterator over the training data until the first batch is fetched."""

    def __init__(self, fetcher: Any, prepare: Callable[[], None]) -> None:
        self.fetcher, self.prepare = fetcher, prepare

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.fetcher.iterator = self.fetcher.combined_loader
        self.prepare()
        return next(self.fetcher.iterator)


def _iterators(trainer: Trainer) -> list[Any]:
    """Return the iterators over the dataloaders."""
    if is_before_two(trainer):
        return before_two.iterators(trainer)
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None or combined._iterator is None else list(combined._iterator.iterators)
