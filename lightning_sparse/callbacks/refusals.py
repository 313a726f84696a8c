"""What our callbacks refuse to do, with the way out, before anything is lost."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightning_sparse._lightning import (
    AVERAGING,
    Trainer,
    callbacks_of,
    is_lightning,
    rank_zero_warn,
    starts_other_processes,
)
from lightning_sparse.state import SparseState

if TYPE_CHECKING:
    from lightning_sparse.callbacks.base import SparsityCallback

__all__ = [
    "check_density",
    "check_integer",
    "check_patterns",
    "explain_damage",
    "refuse_averaging",
    "refuse_changed_config",
    "refuse_company",
    "refuse_damaged_checkpoint",
    "refuse_missing_owner",
    "refuse_strategy",
    "warn_of_spawned_processes",
]

SPLITS_WEIGHTS = ("fsdp", "deepspeed", "modelparallel", "xla")


def check_density(argument: str, density: object) -> None:
    """Raise ValueError unless ``density`` is a number in (0, 1]."""
    if not isinstance(density, int | float) or not 0 < density <= 1:
        raise ValueError(
            f"`{argument}` must be in (0, 1], got {density!r}. It is the share kept: 0.1 keeps 10%."
        )


def check_integer(argument: str, value: object) -> None:
    """Raise ValueError unless ``value`` is an integer of at least 0, or None."""
    if value is not None and not (isinstance(value, int) and value >= 0):
        raise ValueError(f"`{argument}` must be an integer of at least 0, got {value!r}.")


def check_patterns(argument: str, patterns: object) -> None:
    """Raise ValueError if ``patterns`` is one string instead of a list of them."""
    if isinstance(patterns, str):
        raise ValueError(f"`{argument}` must be a list of patterns, got {patterns!r}. Write [{patterns!r}].")


def warn_of_spawned_processes(callback: str, trainer: Trainer) -> None:
    """Warn that Lightning hands weights back to the parent process, but no callback's state."""
    if starts_other_processes(trainer):
        rank_zero_warn(
            f"{callback}: masks stay in the processes it starts; after fit, this one has the sparse weights "
            "but no masks. Use `strategy='ddp'`, or go on from a checkpoint."
        )


def refuse_strategy(callback: str, trainer: Trainer) -> None:
    """Raise ValueError for strategies that split or hide parameters."""
    strategy = type(trainer.strategy).__name__
    if any(name in strategy.lower() for name in SPLITS_WEIGHTS):
        raise ValueError(
            f"{callback} cannot run under {strategy}, which splits or copies weights: masks would not hold. "
            "Use one device, or `strategy='ddp'`."
        )


def refuse_company(callback: "SparsityCallback", callbacks: Sequence["SparsityCallback"]) -> None:
    """Raise ValueError if two callbacks of a Trainer would own the same masks.

    Two of one class never get here: the Trainer refuses them, as they would share a key in the checkpoint.
    """
    for other in callbacks:
        if other is not callback and other.moves == callback.moves:
            both = "change masks during training" if callback.moves else "make masks to start from"
            raise ValueError(
                f"{type(callback).__name__} and {type(other).__name__} both {both}. Use one of them."
            )


def refuse_changed_config(config: Mapping[str, object], saved: Mapping[str, object]) -> None:
    """Raise ValueError if a resumed run has other arguments than the checkpoint was made with."""
    for name, value in config.items():
        if name in saved and saved[name] != value:
            raise ValueError(
                f"`{name}` is {value!r}, but the checkpoint was made with {saved[name]!r}. Resume with "
                "that value, or load only the weights (`load_state_dict`) and start a new run."
            )


def refuse_missing_owner(state: SparseState) -> None:
    """Raise ValueError if a resumed run has no masks, as the callback that took them over is not there."""
    if not state.masks:
        raise ValueError(
            "The checkpoint's masks belong to a callback that is not in `callbacks`. Add the one that "
            "changed them during training, or load only the weights (`load_state_dict`) and start a new run."
        )


def refuse_averaging(callback: str, trainer: Trainer) -> None:
    """Raise ValueError for weight averaging beside masks that move: the average would be dense."""
    for other in callbacks_of(trainer):
        if is_lightning(other, *(f"callbacks.{name}" for name in AVERAGING)):
            raise ValueError(
                f"{callback} cannot run with {type(other).__name__}: weights averaged over changing masks "
                "are dense. Use fixed masks (PruneAtInit), or no averaging."
            )


def refuse_damaged_checkpoint(trainer: Trainer) -> None:
    """Raise ValueError if the bytes of the checkpoint being loaded are not those that were written.

    ``torch.load`` does not look: a flipped bit becomes a wrong weight.
    """
    if damage := _damage(trainer.ckpt_path):
        raise ValueError(damage)


def explain_damage(trainer: Trainer, error: BaseException) -> None:
    """Put the reason into an error that a checkpoint cut short may have caused: torch's own names none."""
    damage = _damage(trainer.ckpt_path) if isinstance(error, RuntimeError | OSError | EOFError) else None
    if damage is not None and isinstance(error, OSError):
        error.strerror = damage
    if damage is not None:
        error.args = (damage,)


def _damage(path: object) -> str | None:
    """Say what is wrong with a local checkpoint, if anything is."""
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return None
    with Path(path).open("rb") as file:
        if file.read(2) != b"PK":  # the format before torch 1.6 is no archive and has no checksums
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            # Without checksums in it, by the user's own choice, there is nothing to compare.
            damaged = archive.testzip() if torch.serialization.get_crc32_options() else None
    except (zipfile.BadZipFile, OSError):
        damaged = "its table of contents"
    if damaged is None:
        return None
    return (
        f"`ckpt_path` {str(path)!r} is damaged ({damaged} cannot be read). Use an earlier checkpoint; "
        "this file was left as it is."
    )
