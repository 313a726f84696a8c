"""Files and folders that a recipe names: those to read are there, those to write to can be written."""

import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.recipes import near_file

__all__ = ["check_ckpt_path", "check_folders"]

_NOT_LOCAL = re.compile(r"best|last|hpc|registry(:.*)?|\w+://.*")
_FOLDERS = ("default_root_dir", "save_dir", "dirpath")
_SHARDED = (".metadata", "meta.pt", "latest", "checkpoint")


def check_ckpt_path(path: str | Path | None) -> None:
    """Refuse what is no checkpoint of Lightning; it would read the data first, or end in a traceback.

    Raises:
        SparsityError: If it names a local file that does not exist, or holds something else.
    """
    if not path or _NOT_LOCAL.fullmatch(str(path)):
        return
    path = Path(path)
    if not path.exists():
        raise _refusal(path, f", which does not exist{near_file(path, '.')}")
    if path.is_dir():
        _check_folder_of_shards(path)
        return
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        _check_archive(path)
    elif start != b"\x80\x02":  # torch.save before 1.6, which is a bare pickle
        raise _refusal(path, f", which is {'another kind of file' if start else 'empty'}.")


def check_folders(trainer: Any) -> None:
    """Refuse a Trainer's arguments if a folder that they name cannot be written.

    Args:
        trainer: The arguments as jsonargparse has them, nested.

    Raises:
        SparsityError: It names the argument and the folder.
    """
    for argument, folder in _folders(trainer):
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        try:
            with tempfile.TemporaryDirectory(dir=nearest):
                pass
        except OSError as error:
            raise SparsityError(
                f"`{argument}` must be a folder that can be written, got {str(folder)!r} "
                f"({nearest}: {error.strerror}). Name another."
            ) from None


def _folders(arguments: Any) -> Iterator[tuple[str, Path]]:
    """Return every local folder named for output, with its argument."""
    if isinstance(arguments, list | tuple):
        for item in arguments:
            yield from _folders(item)
        return
    for name, value in getattr(arguments, "__dict__", {}).items():
        if name in _FOLDERS and isinstance(value, str | os.PathLike) and "://" not in str(value):
            yield name, Path(value).absolute()
        yield from _folders(value)


def _check_folder_of_shards(path: Path) -> None:
    """Refuse a folder that no sharded checkpoint lies in, and name the checkpoints that do."""
    if any((path / name).exists() for name in _SHARDED):
        return
    inside = sorted(file.name for file in path.rglob("*.ckpt"))[:4]
    way_out = f"Name one of its files: {', '.join(inside)}." if inside else "It has no file *.ckpt either."
    raise _refusal(path, f", which is a folder. {way_out}")


def _check_archive(path: Path) -> None:
    """Look at what is in an archive without reading its tensors."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (zipfile.BadZipFile, EOFError, KeyError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:100]
        raise _refusal(path, f", which is damaged or cut short ({reason}).") from None
    except Exception:  # objects of other classes: Lightning decides whether it takes them
        return
    if not isinstance(content, dict) or content.get("state_dict") is None:
        keys = f" of {', '.join(map(str, list(content)[:4]))}" if isinstance(content, dict) else ""
        what = f"a {type(content).__name__}{keys}"
        raise _refusal(path, f", which holds {what}. Lightning writes its own with ModelCheckpoint.")


def _refusal(path: Path, what: str) -> SparsityError:
    return SparsityError(f"`ckpt_path` must be a checkpoint, got {str(path)!r}{what}")
