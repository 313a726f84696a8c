"""Random number generators in the checkpoint: a resumed run is the run that was not interrupted."""

import weakref
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch.distributed as dist
from torch.utils.data import DistributedSampler

from lightning_sparse.callbacks.company import OurCallback, announce_to_ranks, check_what_is_loaded
from lightning_sparse.checks import SparsityError
from lightning_sparse.files.states import refuse_other_layout
from lightning_sparse.trainer.packages import LightningModule, Trainer, without_module
from lightning_sparse.trainer.parts import restart_train_iterator, train_loaders
from lightning_sparse.trainer.processes import compare_callbacks
from lightning_sparse.trainer.randomness import generators_of_loaders, rng_state, set_rng_state

__all__ = ["ExactResume"]


class ExactResume(OurCallback):
    """Store every process's random number generators in checkpoints, and give them back when fit resumes.

    Lightning restores none, so that a resumed run shuffles as in its first epoch and draws other dropout
    masks. With this callback a run resumed at the end of an epoch equals the undisturbed one bit for bit,
    wherever training itself is reproducible. In mid-epoch that also needs a dataloader that knows where it
    was, one with ``state_dict`` such as torchdata's ``StatefulDataLoader``.

    Call ``seed_everything`` with the same seed in both runs: Lightning's distributed sampler shuffles by it.
    In mid-epoch with several processes, give the dataloader a ``DistributedSampler`` of your own
    (``use_distributed_sampler=False``): the order of Lightning's is lost with the start of the epoch. Two
    things Lightning itself does not bring back: a validation that was due after the step of a mid-epoch
    checkpoint, with what its dataloader draws, and the batch that it fetches ahead from data without length.

    Examples:
        >>> sorted(ExactResume().state_dict()["ranks"][0])
        ['generators', 'loaders', 'rng']
    """

    def __init__(self) -> None:
        self._trainer: weakref.ReferenceType[Trainer] | None = None
        self._fitting = False
        self._resuming: dict[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """Return nothing: there are no arguments."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note whether this is a fit: test and predict load callback states too."""
        announce_to_ranks(self, trainer)
        check_what_is_loaded(self, trainer)
        self._trainer = weakref.ref(trainer)
        self._fitting = stage == "fit"
        self._resuming = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks; Lightning calls this on every rank."""
        trainer = self._trainer() if self._trainer is not None else None
        loaders = _loader_states(trainer) if self._fitting and trainer is not None else []
        own = (
            [g.get_state() for g in generators_of_loaders(trainer)]
            if self._fitting and trainer is not None
            else []
        )
        return {"ranks": _gather({"rng": rng_state(), "generators": own, "loaders": loaders})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give this rank its states back, before anything draws.

        Raises:
            SparsityError: If the checkpoint was written by another number of processes, or by another class
                or version.
        """
        refuse_other_layout("ExactResume", state_dict, {"ranks": list})
        ranks = state_dict["ranks"]
        for rank in ranks:
            refuse_other_layout("ExactResume", rank, {"rng": Mapping, "generators": list, "loaders": list})
            refuse_other_layout(
                "ExactResume", rank["rng"], dict.fromkeys(("torch", "numpy", "python"), object)
            )
        world, rank = (dist.get_world_size(), dist.get_rank()) if _distributed() else (1, 0)
        if self._fitting and len(ranks) != world:
            raise SparsityError(
                f"ExactResume: {len(ranks)} processes wrote the checkpoint, this run has {world}. Resume "
                "with as many (`devices`, `num_nodes`), or without ExactResume."
            )
        if self._fitting and self._resuming is None:  # a finder loads a checkpoint of its own in between
            self._resuming = ranks[rank]
            set_rng_state(ranks[rank]["rng"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the other ranks."""
        compare_callbacks(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the iterator over the data anew: Lightning made it before it told samplers the epoch."""
        if self._resuming is not None:
            _restart_iterator(trainer, self._resuming)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Undo what a dataloader drew to find its place again, if fit resumes in mid-epoch."""
        if self._resuming is not None and batch_idx > 0:
            set_rng_state(self._resuming["rng"])
        self._resuming = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Undo what ended an epoch that had no batch left, if its validation wrote the checkpoint."""
        if self._resuming is not None:
            _restore(trainer, self._resuming)
            self._resuming = None

    def __getstate__(self) -> dict[str, Any]:
        return {**without_module(self), "_trainer": None}


@runtime_checkable
class _Stateful(Protocol):
    """A dataloader that knows where it is."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def _loader_states(trainer: Trainer) -> list[dict[str, Any]]:
    """Return where the training dataloaders are, if that is in mid-epoch and they can tell."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if progress.is_last_batch or progress.current.ready == 0:
        return []
    return [loader.state_dict() for loader in train_loaders(trainer) if isinstance(loader, _Stateful)]


def _restart_iterator(trainer: Trainer, saved: dict[str, Any]) -> None:
    for loader in train_loaders(trainer):
        batches = getattr(loader, "batch_sampler", None)
        for sampler in (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
            if isinstance(sampler, DistributedSampler):
                sampler.set_epoch(trainer.current_epoch)
    stateful = [loader for loader in train_loaders(trainer) if isinstance(loader, _Stateful)]
    for loader, state in zip(stateful, saved["loaders"], strict=False):
        loader.load_state_dict(state)
    _restore(trainer, saved)
    restart_train_iterator(trainer)


def _restore(trainer: Trainer, saved: dict[str, Any]) -> None:
    for generator, state in zip(generators_of_loaders(trainer), saved["generators"], strict=False):
        generator.set_state(state)
    set_rng_state(saved["rng"])


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gather(mine: dict[str, Any]) -> list[dict[str, Any]]:
    if not _distributed():
        return [mine]
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, mine)
    return ranks
