"""Who may run beside whom, and where: what is refused before anything is lost."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.files.reading import read_checkpoint
from lightning_sparse.files.record import add_record_
from lightning_sparse.functional.patterns import Pattern, refuse_other_pattern
from lightning_sparse.trainer.packages import (
    Callback,
    LightningModule,
    Trainer,
    is_lightning,
    rank_zero_warn,
)
from lightning_sparse.trainer.parts import (
    AVERAGING,
    averages_buffers,
    callbacks_of,
    read_checkpoint_with,
    starts_other_processes,
)
from lightning_sparse.trainer.processes import announce, compare_callbacks
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.shards import total_of
from lightning_sparse.weights.state import SparseState

__all__ = [
    "Member",
    "OurCallback",
    "announce_to_ranks",
    "check_what_is_loaded",
    "explain_other_ranks",
    "is_among",
    "refuse_averaged_supports",
    "refuse_averaging",
    "refuse_company",
    "refuse_finetuning",
    "refuse_late_start",
    "refuse_missing_owner",
    "refuse_missing_support",
    "refuse_other_storage",
    "refuse_second_density",
    "warn_of_late_start",
    "warn_of_spawned_processes",
    "warn_of_zeros_kept",
]

_REASON = "This may be the reason:"

NOT_BOTH = {
    ("starts", "starts"): "both make masks to start from. Use one of them.",
    ("moves", "moves"): "both change masks during training. Use one of them.",
    ("converts", "converts"): "both replace layers. Use one of them.",
    ("converts", "starts"): (
        "cannot run together: S is zero at the start, so scores are undefined. Use one of them; the support "
        "of S is drawn by `density` and `allocation`."
    ),
}
"""What two callbacks of a Trainer may not do both, by their roles in alphabetical order, and the way out."""


class OurCallback(Callback, ABC):
    """A callback of this package; every rank has to have the same ones."""

    needs_whole: str = ""
    """Why it cannot do with rows of weights, as the rest of a sentence; "" where it can."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return the arguments that say what it does, as plain values by name."""

    @abstractmethod
    def before_loading(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Do what is due when Lightning has read a checkpoint, and taken up nothing of it yet."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let the first of ours write down what all of them have put into a checkpoint."""
        if _is_first(self, trainer):
            add_record_(checkpoint, [callback.state_key for callback in _ours(trainer)])

    def describe(self) -> str:
        """Return name and arguments on one line."""
        given = {name: value for name, value in self.arguments().items() if value is not None}
        return f"{type(self).__name__}: {', '.join(f'{name}={value}' for name, value in given.items())}"


class Member(Protocol):
    """One of the callbacks that make a Trainer's net sparse, as the others see it."""

    needs_whole: str
    density: float
    storage: str
    support_pattern: Pattern | None

    @property
    def storages(self) -> Sequence[str]:
        """How it may store what it keeps, or find it stored."""

    @property
    def role(self) -> str:
        """What it does: "starts" (makes masks), "moves" (changes them) or "converts" (replaces layers)."""

    @property
    def asks_for_gradients(self) -> bool:
        """Whether it asks for gradients of pruned weights before it looks at them, or never does."""

    @property
    def verifies(self) -> bool:
        """Whether everything is checked after every step."""

    def select(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the weights it is for."""

    def take_up(self, trainer: Trainer, module: LightningModule) -> None:
        """Take up what came with a checkpoint."""

    def start_(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the net sparse, unless it is."""


def announce_to_ranks(callback: OurCallback, trainer: Trainer) -> None:
    """Let the first of our callbacks tell the other ranks which there are."""
    if _is_first(callback, trainer):
        announce(trainer, {type(other).__name__: _shared(other) for other in _ours(trainer)})


def check_what_is_loaded(callback: OurCallback, trainer: Trainer) -> None:
    """Let the first of our callbacks check the stage's checkpoint, once for all, before it is taken up."""
    if _is_first(callback, trainer):
        read_checkpoint_with(trainer, partial(_read, trainer))


def explain_other_ranks(trainer: Trainer, error: BaseException) -> None:
    """Put the reason into an error that other callbacks on another rank may have caused."""
    if not isinstance(error, RuntimeError) or _REASON in str(error):
        return
    try:
        compare_callbacks(trainer)
    except SparsityError as difference:
        error.args = (f"{error} {_REASON} {difference}",)


def is_among(owner: object, callbacks: Sequence[object]) -> bool:
    """Tell whether one of these callbacks is that very one."""
    return any(callback is owner for callback in callbacks)


def warn_of_spawned_processes(callback: str, trainer: Trainer, left: str) -> None:
    """Warn that Lightning hands weights back to the parent process, but nothing else that is ``left``."""
    if starts_other_processes(trainer):
        rank_zero_warn(f"{callback}: {left}. Use `strategy='ddp'`, or go on from a checkpoint.")


def refuse_company(callback: Member, callbacks: Sequence[Member]) -> None:
    """Refuse two callbacks of a Trainer that would do the same, or cannot follow each other.

    Two of one class never get here: the Trainer refuses them, as they would share a key in the checkpoint.
    """
    for other in callbacks:
        first, second = sorted((callback, other), key=lambda one: one.role)
        problem = NOT_BOTH.get((first.role, second.role))
        if other is not callback and problem is not None:
            raise SparsityError(f"{type(first).__name__} and {type(second).__name__} {problem}")
        if callback.role == "moves" and other.storage not in callback.storages:
            raise SparsityError(
                f"{type(callback).__name__} cannot prune what {type(other).__name__} stores as "
                f"{other.storage!r}. Leave `storage` out there."
            )
        if "moves" in (callback.role, other.role):
            refuse_other_pattern({type(one).__name__: one.support_pattern for one in (callback, other)})


def refuse_missing_owner(state: SparseState) -> None:
    """Refuse a resumed run without masks, as the callback that took them over is not there."""
    if state.owner is None:
        raise SparsityError(
            "The checkpoint's masks belong to a callback that is not in `callbacks`. Add the one that "
            "changed them during training, or load only the weights (`load_state_dict`) and start a new run."
        )


def refuse_averaging(callback: str, trainer: Trainer) -> None:
    """Refuse weight averaging beside masks that move: the average would be dense."""
    for other in callbacks_of(trainer):
        if is_lightning(other, *(f"callbacks.{name}" for name in AVERAGING)):
            raise SparsityError(
                f"{callback} cannot run with {type(other).__name__}: weights averaged over changing masks "
                "are dense. Use fixed masks (PruneAtInit), or no averaging."
            )


def refuse_averaged_supports(callback: str, trainer: Trainer) -> None:
    """Refuse a callback that averages buffers: positions, averaged as floats, are rounded down."""
    for other in callbacks_of(trainer):
        if averages_buffers(other):
            raise SparsityError(
                f"`use_buffers` of {type(other).__name__} must be False beside {callback}, got True: "
                "averaging would round the positions of S. BatchNorm statistics are then the latest ones."
            )


def refuse_other_storage(callback: str, module: LightningModule) -> None:
    """Refuse weights that take no masks: what prunes by magnitude needs plain tensors."""
    for weight in sparse_weights(module).values():
        if not weight.takes_masks:
            raise SparsityError(
                f"{callback} cannot prune layers that store only their active entries, got {weight.name!r}. "
                "Leave out what has made them, or move their supports with RigLCallback."
            )


def refuse_finetuning(callback: str, trainer: Trainer) -> None:
    """Refuse a callback that gives the optimizers more parameter groups on the way."""
    for other in callbacks_of(trainer):
        if is_lightning(other, "callbacks.BaseFinetuning"):
            raise SparsityError(
                f"{callback} cannot run with {type(other).__name__}, which adds parameter groups on the way: "
                "optimizers start once more as they were at first. Leave one of them out."
            )


def refuse_late_start(callback: str, trainer: Trainer) -> None:
    """Refuse a fit that resumes from a checkpoint that was made without the callback."""
    if trainer.ckpt_path is not None and trainer.global_step > 0:
        raise SparsityError(
            f"{callback} must be there from the first step on, and `ckpt_path` {str(trainer.ckpt_path)!r} "
            "was made without it. Load only the weights (`load_state_dict`) and start a new run."
        )


def warn_of_late_start(callback: str, step: int) -> None:
    """Warn that a checkpoint was made without a callback, which starts in the middle."""
    rank_zero_warn(f"{callback} found no masks of its own in the checkpoint, and starts at step {step}.")


def warn_of_zeros_kept(callback: str, state: SparseState) -> None:
    """Warn that masks took the place of an earlier fit's, whose pruned weights are zero."""
    kept = sum(state.counts.values())
    alive = sum(total_of(state.weights.values(), state.shards))
    if alive == kept:
        return
    rank_zero_warn(
        f"{callback} has drawn masks of its own in place of those of an earlier fit: {kept - alive:,} of the "
        f"{kept:,} weights it keeps start at zero. To go on with the earlier ones, leave `density` out."
    )


def refuse_missing_support(callback: Member, callbacks: Sequence[Member]) -> None:
    """Refuse to move connections that nobody has made, or is going to."""
    if not any(other is not callback and other.role != "moves" for other in callbacks):
        raise SparsityError(
            f"`density` of {type(callback).__name__} must be given where there are no masks and no "
            "Dense-plus-Sparse layers to start from, got None. Give it, or add PruneAtInit."
        )


def refuse_second_density(callback: Member, callbacks: Sequence[Member]) -> None:
    """Refuse a density of its own of a callback that starts from another's masks or layers.

    Even an equal one: what comes with it, such as an allocation, would be without effect.
    """
    for other in callbacks:
        if other.role != "moves":
            raise SparsityError(
                f"`density` of {type(callback).__name__} must be None beside {type(other).__name__}, whose "
                f"support it starts from, got {callback.density} beside {other.density}. Leave it out."
            )


def _shared(callback: OurCallback) -> dict[str, Any]:
    """Return the arguments that all ranks must share: not where a file lies."""
    return {name: value for name, value in callback.arguments().items() if name != "file"}


def _ours(trainer: Trainer) -> list[OurCallback]:
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, OurCallback)]


def _read(trainer: Trainer, path: Any, load: Callable[[], Any]) -> Any:
    """Read a checkpoint, and let all of ours see it before its content goes anywhere.

    A strategy that splits weights puts them into their places itself, and returns the rest.
    """
    checkpoint = read_checkpoint(path, load, whole=not trainer.strategy.restore_checkpoint_after_setup)
    for callback in _ours(trainer):
        callback.before_loading(trainer, checkpoint)
    return checkpoint


def _is_first(callback: OurCallback, trainer: Trainer) -> bool:
    return next(iter(_ours(trainer)), None) is callback
