"""What Lightning leaves out of a checkpoint: a resumed run is the run that was not interrupted."""

import weakref
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lightning_sparse.callbacks.company import OurCallback, announce_to_ranks, check_what_is_loaded
from lightning_sparse.checks import SparsityError
from lightning_sparse.files.states import refuse_other_layout
from lightning_sparse.trainer.accumulation import give_back_gradients_, standing_gradients
from lightning_sparse.trainer.generators import (
    draws_places,
    generator_states,
    own_generators,
    restore_generators_,
)
from lightning_sparse.trainer.limits import (
    limits_of_first_batch,
    limits_of_fit,
    limits_of_moment,
    limits_of_resumed,
    limits_within_epoch,
)
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn, without_module
from lightning_sparse.trainer.plateau import PlateauSteps
from lightning_sparse.trainer.precision import Digits
from lightning_sparse.trainer.processes import compare_callbacks, states_of_all_ranks, world_and_rank
from lightning_sparse.trainer.randomness import (
    generators_of_loaders,
    rng_state,
    same_rng_state,
    set_rng_state,
)
from lightning_sparse.trainer.resuming import (
    at_first_fetch,
    find_places_,
    has_module,
    is_resumed_within_epoch,
    is_within_epoch,
    let_lightning_restart,
    moment_of,
    reload_epoch,
    restart_train_iterator,
    set_accumulation_,
    set_reload_epoch_,
    stateful_loaders,
    unwatch_iterators,
    validation_is_due,
    watch_iterators,
)

__all__ = ["ExactResume"]


class ExactResume(OurCallback):
    """Store what Lightning leaves out of checkpoints, of every process, and give it back when fit resumes.

    That is: random number generators, the global ones and those that data sets, transforms, samplers,
    dataloaders, the module, the data module and other callbacks have as attributes; gradients between two
    steps, as batches are accumulated; a step of ``ReduceLROnPlateau`` that was still to be made; the digits
    of ``precision="64-true"``. Lightning restores none of them, so that a resumed run shuffles as in its
    first epoch and draws other dropout masks. With this callback a run resumed at the end of an epoch equals
    the undisturbed one bit for bit, wherever training itself is reproducible. In mid-epoch that also needs a
    dataloader that knows where it was, one with ``state_dict`` such as torchdata's ``StatefulDataLoader``.

    Call ``seed_everything`` with the same seed in both runs: Lightning's distributed sampler shuffles by it.
    In mid-epoch with several processes, give the dataloader a ``DistributedSampler`` of your own
    (``use_distributed_sampler=False``): the order of Lightning's is lost with the start of the epoch.

    What cannot be brought back is named in a warning, when it is met: random numbers of workers that outlive
    an epoch (``persistent_workers``) or are resumed in mid-epoch, the batch of a step in the middle of which
    a signal had the checkpoint written, a validation that was due after the step of a checkpoint, a batch
    fetched ahead from data without length, a mean over part of an epoch that
    ``ReduceLROnPlateau`` looks at, ``max_steps`` without a validation, another ``precision``.

    Examples:
        >>> sorted(ExactResume().state_dict()["ranks"][0])
        ['generators', 'loaders', 'rng']
    """

    def __init__(self) -> None:
        self._trainer: weakref.ReferenceType[Trainer] | None = None
        self._fitting = False
        self._resuming: dict[str, Any] | None = None
        self._drawn = False  # whether the resumed epoch has begun, with the states it begins with
        self._placed = False  # whether dataloaders found their places before they drew for a batch
        self._start: dict[str, Any] | None = None  # states before the epoch's iterator was made
        self._within = False  # whether fit goes on in mid-epoch
        self._plateaus, self._digits = PlateauSteps(), Digits()
        self._told: set[str] = set()

    def arguments(self) -> dict[str, Any]:
        """Return nothing: there are no arguments."""
        return {}

    def before_loading(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Do nothing: it changes no module."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note whether this is a fit: test and predict load callback states too."""
        announce_to_ranks(self, trainer)
        check_what_is_loaded(self, trainer)
        self._trainer = weakref.ref(trainer)
        self._fitting = stage == "fit"
        self._forget()
        if self._fitting:
            watch_iterators(trainer, lambda: _start_of(trainer), self._keep_start)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks; Lightning calls this on every rank."""
        trainer = self._trainer() if self._trainer is not None else None
        mine: dict[str, Any] = {"rng": rng_state(), "generators": {}, "loaders": []}
        if self._fitting and trainer is not None and has_module(trainer):
            mine |= self._state_of_fit(trainer)
        return {"ranks": states_of_all_ranks(mine)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give this rank its states back, before anything draws.

        Raises:
            SparsityError: If the checkpoint was written by another number of processes, or by another class
                or version.
        """
        refuse_other_layout("ExactResume", state_dict, {"ranks": list})
        ranks = state_dict["ranks"]
        for of_rank in ranks:
            kinds = {"rng": Mapping, "generators": Collection, "loaders": list}
            refuse_other_layout("ExactResume", of_rank, kinds)
            known = dict.fromkeys(("torch", "numpy", "python"), object)
            refuse_other_layout("ExactResume", of_rank["rng"], known)
        world, rank = world_and_rank()
        if self._fitting and len(ranks) != world:
            raise SparsityError(
                f"ExactResume: {len(ranks)} processes wrote the checkpoint, this run has {world}. Resume "
                "with as many (`devices`, `num_nodes`), or without ExactResume."
            )
        if self._fitting and self._resuming is None:  # a finder loads a checkpoint of its own in between
            self._resuming = ranks[rank]
            set_rng_state(ranks[rank]["rng"])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what has been rounded: the module has not been converted to the Trainer's precision yet."""
        if self._fitting and self._resuming is None:
            self._digits.note(pl_module, checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the other ranks; give back digits, before optimizers are restored."""
        compare_callbacks(trainer)
        self._digits.give_back_weights_(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare for the first batch: Lightning made the iterator before it told samplers the epoch."""
        self._tell(limits_of_fit(trainer))
        if (saved := self._resuming) is None:
            return
        self._digits.give_back_weights_(pl_module)
        self._digits.give_back_states_(trainer.optimizers)
        self._tell(limits_of_resumed(trainer, saved, self._digits.rounded))
        self._plateaus.load_state_dict(trainer, saved.get("plateaus", {}))
        self._within = bool(saved["loaders"])
        if not is_resumed_within_epoch(trainer) or saved.get("moment") == "step made":
            self._tell(self._plateaus.make_up(trainer))
        self._drawn = set_reload_epoch_(trainer, saved.get("reload_epoch"))
        self._restore(trainer, saved)
        if not let_lightning_restart(trainer):
            at_first_fetch(trainer, lambda: self._restart(trainer, saved))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Undo what has been drawn since training started, as the resumed epoch begins."""
        self._tell(self._plateaus.make_up(trainer))
        if self._resuming is not None and not self._drawn:
            self._restore(trainer, self._resuming)
            self._drawn = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Undo what a dataloader drew to find its place again, if it did so together with the first batch."""
        if (saved := self._resuming) is None:
            return
        self._resuming = None
        self._tell(self._plateaus.make_up(trainer))
        if self._placed or batch_idx == 0:
            return
        if saved["loaders"] and not same_rng_state(saved["rng"], rng_state()):
            self._tell(limits_of_first_batch(trainer))
        set_rng_state(saved["rng"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Undo what ended an epoch that had no batch left, if its validation wrote the checkpoint."""
        if self._resuming is not None:
            self._restore(trainer, self._resuming)
            self._resuming = None
        elif is_resumed_within_epoch(trainer):
            self._tell(self._plateaus.end_resumed_epoch(trainer, self._within))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make what is owed if no epoch follows."""
        self._tell(self._plateaus.make_up(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the Trainer as it was."""
        unwatch_iterators(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the Trainer as it was."""
        unwatch_iterators(trainer)

    def __getstate__(self) -> dict[str, Any]:
        return {**without_module(self), "_trainer": None}

    # Steps of the above.

    def _state_of_fit(self, trainer: Trainer) -> dict[str, Any]:
        within, moment = is_within_epoch(trainer), moment_of(trainer)
        self._tell(limits_of_moment(moment) + (limits_within_epoch(trainer) if within else []))
        loaders = [loader.state_dict() for loader in stateful_loaders(trainer)] if within else []
        return {
            "generators": generator_states(own_generators(trainer)),
            "loaders": loaders,
            "start": self._start if loaders else None,
            "moment": moment,
            "validation_due": validation_is_due(trainer),
            "gradients": standing_gradients(trainer),
            "plateaus": self._plateaus.state_dict(trainer),
            "reload_epoch": reload_epoch(trainer),
        }

    def _restore(self, trainer: Trainer, saved: dict[str, Any]) -> None:
        """Give back what is drawn from, and gradients."""
        self._restore_generators(trainer, saved["generators"])
        set_rng_state(saved["rng"])
        give_back_gradients_(trainer, saved.get("gradients", {}))

    def _restore_generators(self, trainer: Trainer, states: Any, places: bool = True) -> None:
        """Give back the states of generators, also of those that draw ``places`` in the data."""
        if isinstance(states, list):  # of a checkpoint that does not name them: all draw places
            own = generators_of_loaders(trainer) if places else []
            for generator, state in zip(own, states, strict=False):
                generator.set_state(state)
            return
        states = {name: state for name, state in states.items() if places or not draws_places(name)}
        if missing := restore_generators_(own_generators(trainer), states):
            self._tell([f"there is no generator {missing[0]!r}, whose state the checkpoint has"])

    def _restart(self, trainer: Trainer, saved: dict[str, Any]) -> None:
        """Make the iterator anew; in mid-epoch, let dataloaders find their place first, then restore."""
        set_accumulation_(trainer)
        if saved.get("validation_due"):  # its iterator has been made, which draws, though it is left out
            saved = {**saved, "rng": rng_state()}
        if not saved["loaders"]:
            if not self._drawn:
                self._restore(trainer, saved)
            self._start = _start_of(trainer)
            restart_train_iterator(trainer)
            return
        self._start = saved.get("start")
        self._restore(trainer, saved)
        if self._start is not None:  # they draw once more what they drew when the epoch began
            self._restore_generators(trainer, self._start["generators"])
            set_rng_state(self._start["rng"])
        for loader, state in zip(stateful_loaders(trainer), saved["loaders"], strict=False):
            loader.load_state_dict(state)
        restart_train_iterator(trainer)
        self._placed = find_places_(trainer)
        if self._placed:
            self._restore_generators(trainer, saved["generators"], places=False)
            set_rng_state(saved["rng"])

    def _keep_start(self, start: dict[str, Any] | None) -> None:
        self._start = start

    def _tell(self, limits: Iterable[str]) -> None:
        """Warn of what cannot be brought back, once in a fit."""
        new = [limit for limit in limits if limit not in self._told]
        self._told.update(new)
        if new:
            rank_zero_warn(
                f"ExactResume: a resumed run may differ from the undisturbed one: {'; '.join(new)}."
            )

    def _forget(self) -> None:
        self._resuming, self._start = None, None
        self._drawn, self._placed, self._within = False, False, False
        self._plateaus, self._digits, self._told = PlateauSteps(), Digits(), set()


def _start_of(trainer: Trainer) -> dict[str, Any] | None:
    """Return the states that an epoch's iterator is made with, if a dataloader may have to do so again."""
    if not stateful_loaders(trainer):
        return None
    return {"rng": rng_state(), "generators": generator_states(own_generators(trainer))}
