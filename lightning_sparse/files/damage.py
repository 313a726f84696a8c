"""Checkpoints whose bytes are not those that were written."""

import zipfile
from pathlib import Path

import torch

from lightning_sparse.checks import SparsityError

__all__ = ["explain_damage", "refuse_damaged_checkpoint"]


def refuse_damaged_checkpoint(path: object) -> None:
    """Raise ValueError if the bytes of the checkpoint being loaded are not those that were written.

    ``torch.load`` does not look: a flipped bit becomes a wrong weight.
    """
    if damage := _damage(path):
        raise SparsityError(damage)


def explain_damage(path: object, error: BaseException) -> None:
    """Put the reason into an error that a checkpoint cut short may have caused: torch's own names none."""
    damage = _damage(path) if isinstance(error, RuntimeError | OSError | EOFError) else None
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
