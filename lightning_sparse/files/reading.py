"""Everything that is read back from files of ``torch.save`` passes through here, and is checked.

Bytes first, by the checksums of the archive; then that it can be read at all, without running foreign code;
then that what the file says it holds is there. What is wrong is one error that names the file.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, TypeAlias

import fsspec
import torch

from lightning_sparse.checks import SparsityError, check_path, first_line, shown
from lightning_sparse.files.damage import damage_in, foreign_archive, has_checksums
from lightning_sparse.files.record import refuse_incomplete

__all__ = [
    "Source",
    "foreign_class",
    "opened",
    "read_checkpoint",
    "read_dict",
    "read_file",
    "short_path",
    "shown_source",
    "unopened",
]

Source: TypeAlias = str | os.PathLike[str] | IO[bytes]
"""A path, a URL that fsspec knows, or an open file."""

_FOREIGN = re.compile(r"GLOBAL ([\w.]+)")
"""What torch calls a class that is not read as plain data."""

_NO_FILE_OF_OURS = "it is no file of masks, ticket or checkpoint, or it is damaged"

BESIDE_SHARDS = "meta.pt"
"""Where a folder of shards has what is in no shard: states of callbacks and loops."""

_PARTS = {
    "state_dict": Mapping,
    "callbacks": Mapping,
    "loops": Mapping,
    "optimizer_states": Sequence,
    "lr_schedulers": Sequence,
}
"""What a Trainer takes up from a checkpoint, and of which kind it is."""


def short_path(path: str | os.PathLike[str]) -> str:
    """Return a path as one would type it: from the current folder if it lies below; URLs stay as they are.

    >>> short_path(Path.cwd() / "runs" / "last.ckpt"), short_path("s3://bucket/last.ckpt")
    ('runs/last.ckpt', 's3://bucket/last.ckpt')
    """
    here = f"{Path.cwd()}{os.sep}"
    return os.fspath(path).removeprefix(here)


def read_file(source: Source, argument: str, tensors: bool = True, **options: Any) -> Any:
    """Return what a file holds, nothing but tensors, plain values and paths.

    Args:
        source: What to read.
        argument: What errors call it: the caller's own name for it.
        tensors: Whether the checksums of tensors are compared too, and not only those of all else.
        **options: For ``torch.load``; by default ``map_location="cpu"`` and ``weights_only=True``.

    Raises:
        SparsityError: If there is no such file, if it is damaged, or if it lacks what it says it holds.
        UnpicklingError: If it is not damaged, and holds objects of other classes.
    """
    if not hasattr(source, "read"):
        check_path(argument, source)
    with _explained(source, argument), opened(source) as file:
        _refuse_damage(file, source, argument, tensors)
        options = {"map_location": "cpu", "weights_only": True, **options}
        by_path = options.get("mmap") and not hasattr(source, "read")
        with torch.serialization.safe_globals([type(Path())]):  # Lightning 1.9 writes ModelCheckpoint's
            content = torch.load(source if by_path else file, **options)
    if isinstance(content, dict):
        refuse_incomplete(content, shown_source(source), argument)
    return content


def read_dict(source: Source, argument: str, **options: Any) -> dict[str, Any]:
    """Return what a file holds, {} if that is no dict; a class of someone else's is an error, too.

    Raises:
        SparsityError: As from `read_file`.
    """
    try:
        content = read_file(source, argument, **options)
    except UnpicklingError as error:
        raise SparsityError(
            f"`{argument}` {shown_source(source)} holds {foreign_class(error)}, and only tensors and plain "
            "values are read from it. Save it without that object."
        ) from None
    return content if isinstance(content, dict) else {}


def read_checkpoint(path: Any, load: Callable[[], Any], whole: bool = True) -> Any:
    """Let Lightning read a checkpoint, once its bytes are those that were written, and check what it holds.

    What cannot be opened here (a folder of shards, a file that is not there) is left to Lightning first.

    Args:
        path: Where it lies.
        load: Reads it.
        whole: Whether that returns all of it, and not only what it has found no place for yet.

    Raises:
        SparsityError: If it is damaged, no checkpoint, or lacks what it says it holds.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(opened(path))
        except Exception:  # whatever the file system says: Lightning tries next, and tells of it
            return _load_unopened(path, load)
        _refuse_damage(file, path, "ckpt_path")
        proven = has_checksums(file)
    try:
        with nullcontext() if proven else _explained(path, "ckpt_path"):
            checkpoint = load()
    except torch.OutOfMemoryError:
        raise  # nothing is wrong with the file
    except UnpicklingError as error:
        raise SparsityError(
            f"`ckpt_path` {shown_source(path)} holds {foreign_class(error)}, and only tensors and plain "
            "values are read from it. Use a checkpoint that holds no such object."
        ) from None
    except RuntimeError as error:
        if "PytorchStreamReader" in str(error) and not _archive_kind(path):
            raise _damaged(path, "ckpt_path", "its table of contents cannot be read") from None
        raise _unreadable(path, "ckpt_path", error) from None
    if whole:
        _refuse_other_parts(checkpoint, shown_source(path))
    refuse_incomplete(checkpoint, shown_source(path), "ckpt_path")
    return checkpoint


def _load_unopened(path: Any, load: Callable[[], Any]) -> Any:
    """Let Lightning read what is no file; of a folder of shards, what is beside them is checked."""
    if (beside := Path(path) / BESIDE_SHARDS).is_file():
        with opened(beside) as file:
            _refuse_damage(file, beside, "ckpt_path")
    try:
        checkpoint = load()
    except OSError as error:
        if not os.path.isdir(path):
            raise
        raise unopened(path, "ckpt_path", error) from None
    if isinstance(checkpoint, dict):
        refuse_incomplete(checkpoint, shown_source(path), "ckpt_path")
    return checkpoint


def _refuse_other_parts(checkpoint: Any, name: str) -> None:
    """Refuse what is no checkpoint of a Trainer."""
    if not isinstance(checkpoint, dict) or checkpoint.get("state_dict") is None:
        raise SparsityError(
            f"`ckpt_path` {name} is no checkpoint of a Trainer: it has no 'state_dict'. Give one that "
            "Lightning wrote."
        )
    for part, kind in _PARTS.items():
        found = checkpoint.get(part)
        if found is not None and not isinstance(found, kind):
            raise SparsityError(
                f"`ckpt_path` {name} is no checkpoint of a Trainer: its {part!r} must be a "
                f"{'dict' if kind is Mapping else 'list'}, got {shown(found)}. Give one that Lightning wrote."
            )


def foreign_class(error: UnpicklingError) -> str:
    """Name the class of an object that is neither a tensor nor a plain value.

    >>> foreign_class(UnpicklingError("Unsupported global: GLOBAL my.Own was not an allowed global"))
    'an object of my.Own'
    """
    found = _FOREIGN.search(str(error))
    return "an object of " + found[1] if found else "an object of another class"


def shown_source(source: Source) -> str:
    """Return how errors show a file: its path in quotes, or the name of an open one."""
    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))
    return repr(str(getattr(source, "name", f"an open {type(source).__name__}")))


def unopened(source: Source, argument: str, error: OSError) -> SparsityError:
    """Return the error that says why a file could not be opened: there is none, or what the system says."""
    name = shown_source(source)
    if isinstance(error, FileNotFoundError):
        return SparsityError(f"`{argument}` must be a file, got {name}, which does not exist.")
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        return SparsityError(f"`{argument}` must be a file, got {name}, which is a folder. Name one in it.")
    reason = error.strerror or first_line(error)
    return SparsityError(f"`{argument}` {name} cannot be read: {reason}. Use another file.")


@contextmanager
def opened(source: Source) -> Iterator[IO[bytes]]:
    """Open a file for reading; one that is open already stays so, at the position where it was."""
    if not isinstance(source, str | os.PathLike):
        position = source.tell()
        try:
            yield source
        finally:
            source.seek(position)
        return
    is_url = "://" in os.fspath(source)
    with fsspec.open(os.fspath(source), "rb") if is_url else Path(source).open("rb") as file:
        yield file


def _refuse_damage(file: IO[bytes], source: Source, argument: str, tensors: bool = True) -> None:
    if damage := damage_in(file, tensors):
        raise _damaged(source, argument, damage)


def _damaged(source: Source, argument: str, damage: str) -> SparsityError:
    other = "an earlier checkpoint or another file" if argument == "ckpt_path" else "another file"
    return SparsityError(
        f"`{argument}` {shown_source(source)} is damaged ({damage}). Use {other}; this one was left as it is."
    )


def _unreadable(source: Source, argument: str, error: Exception) -> SparsityError:
    """Say why a file cannot be read: what it is instead, or the first line of torch's words."""
    reason = first_line(error)
    if kind := _archive_kind(source):
        reason = f"it is {kind}"
    elif "weights_only" in reason:  # advice that would run whatever is in a file that is none of ours
        reason = _NO_FILE_OF_OURS
    return SparsityError(f"`{argument}` {shown_source(source)} cannot be read: {reason}. Use another file.")


def _archive_kind(source: Source) -> str | None:
    with opened(source) as file:
        return foreign_archive(file)


@contextmanager
def _explained(source: Source, argument: str) -> Iterator[None]:
    """Turn whatever torch raises over bytes that it cannot read into one line that names the file."""
    try:
        yield
    except SparsityError:
        raise
    except OSError as error:
        raise unopened(source, argument, error) from None
    except UnpicklingError:
        if _is_proven(source):
            raise  # it is as it was written: there is an object of another class in it
        raise SparsityError(
            f"`{argument}` {shown_source(source)} cannot be read: {_NO_FILE_OF_OURS}. Use another file."
        ) from None
    except Exception as error:  # torch raises whatever the bytes make it stumble over
        raise _unreadable(source, argument, error) from None


def _is_proven(source: Source) -> bool:
    with opened(source) as file:
        return has_checksums(file)
