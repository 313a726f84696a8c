"""What our callbacks refuse to do, with the way out, before anything is lost."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightning_sparse._lightning import (
    AVERAGING,
    Trainer,
    averaged_copies,
    averages_buffers,
    callbacks_of,
    is_lightning,
    rank_zero_warn,
    starts_other_processes,
)
from lightning_sparse.layers import compact_layers
from lightning_sparse.state import SparseState

if TYPE_CHECKING:
    from lightning_sparse.callbacks.base import SparsityCallback

__all__ = [
    "check_alpha",
    "check_density",
    "check_integer",
    "check_patterns",
    "check_selection",
    "explain_damage",
    "refuse_averaged_supports",
    "refuse_averaging",
    "refuse_changed_config",
    "refuse_company",
    "refuse_damaged_checkpoint",
    "refuse_dense_copies",
    "refuse_missing_owner",
    "refuse_other_counts",
    "refuse_strategy",
    "refuse_surroundings",
    "selection_config",
    "warn_of_late_start",
    "warn_of_spawned_processes",
]

_MASKS_LEFT = "masks stay in the processes it starts; after fit, this one has the sparse weights but no masks"
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


def check_alpha(alpha: object) -> None:
    """Raise ValueError unless ``alpha`` is a finite number or "match_norm", or a dict of these."""
    named = (
        {"alpha": alpha} if not isinstance(alpha, Mapping) else {f"alpha[{p!r}]": a for p, a in alpha.items()}
    )
    for argument, value in named.items():
        if value != "match_norm" and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"`{argument}` must be a finite number or 'match_norm', got {value!r}.")


def check_selection(
    density: object,
    include: object,
    exclude: object,
    density_overrides: Mapping[str, float] | None,
    seed: object,
) -> None:
    """Raise ValueError if an argument that most callbacks share is out of range."""
    check_density("density", density)
    check_patterns("include", include)
    check_patterns("exclude", exclude)
    check_integer("seed", seed)
    for pattern, override in (density_overrides or {}).items():
        check_density(f"density_overrides[{pattern!r}]", override)


def selection_config(
    include: Sequence[str] | None, exclude: Sequence[str], density_overrides: Mapping[str, float]
) -> dict[str, str | None]:
    """Return the arguments that select weights as plain values, to compare when a run is resumed."""
    shared = {
        "include": sorted(include or []),
        "exclude": sorted(exclude),
        "density_overrides": {name: float(density) for name, density in density_overrides.items()},
    }
    return {name: str(value) if value else None for name, value in shared.items()}


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
        raise ValueError(
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
            raise ValueError(
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
    if state.owner is None:
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


def refuse_averaged_supports(trainer: Trainer) -> None:
    """Raise ValueError if a callback averages buffers: positions, averaged as floats, are rounded down."""
    for other in callbacks_of(trainer):
        if averages_buffers(other):
            raise ValueError(
                f"`use_buffers` of {type(other).__name__} must be False beside DCTpSConversion, got True: "
                "averaging would round the positions of S. BatchNorm statistics are then the latest ones."
            )


def refuse_dense_copies(trainer: Trainer) -> None:
    """Raise ValueError if an averaging callback has copied the net before it was converted."""
    if any(not compact_layers(copy) for copy in averaged_copies(trainer)):
        raise ValueError(
            "DCTpSConversion must come before callbacks that average weights, got one that has copied the "
            "dense net. List DCTpSConversion first, and make layers in `__init__` (not in `configure_model`)."
        )


def refuse_other_counts(counts: Mapping[str, int], weights: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError if a checkpoint has other numbers of values in layers than ``counts``, by layer."""
    for path, count in counts.items():
        saved = weights.get(f"{path}.values")
        if saved is not None and len(saved) != count:
            raise ValueError(
                f"Layer {path!r} has {count} values, but {len(saved)} in the checkpoint. Resume with the "
                "arguments that the checkpoint was made with."
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
