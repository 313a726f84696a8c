"""Files that are written whole or not at all."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lightning_sparse.checks import check_writable

__all__ = ["whole_file", "with_ending", "write_whole"]


@contextmanager
def whole_file(
    path: str | os.PathLike[str], suffix: str = "", argument: str = "path"
) -> Iterator[tuple[Path, Path]]:
    """Give a path to write to; what was written there is moved into place once the block ends well.

    Args:
        path: Where the file shall be; its folder is made if it is not there.
        suffix: Ending, with the dot, that a path without one gets.
        argument: Name under which the caller knows the path.

    Yields:
        The path to write to, which ends in the suffix, and the one where the file will be.

    Raises:
        SparsityError: If no file can be written there.
    """
    check_writable(argument, path)
    finished = with_ending(path, suffix)
    check_writable(argument, finished)
    finished.parent.mkdir(parents=True, exist_ok=True)
    ending = "" if finished.suffix == suffix else suffix  # writers may add theirs to what lacks it
    unfinished = finished.with_name(f"unfinished-{finished.name}{ending}")
    unfinished.touch()
    mode = unfinished.stat().st_mode  # some writers, such as that of safetensors, let only the owner read
    unfinished.unlink()
    try:
        yield unfinished, finished
        unfinished.chmod(mode)
        unfinished.replace(finished)
    finally:
        unfinished.unlink(missing_ok=True)


def with_ending(path: str | os.PathLike[str], suffix: str) -> Path:
    """Return a path with an ending, if it has none.

    >>> str(with_ending("net_0.05", ".pt")), str(with_ending("net.bin", ".pt"))
    ('net_0.05.pt', 'net.bin')
    """
    path = Path(path)
    has_ending = re.fullmatch(r"\.[A-Za-z]\w*", path.suffix) is not None  # "net_0.05" has none
    return path if has_ending or not path.name else path.with_name(path.name + suffix)


def write_whole(content: Any, path: str | os.PathLike[str]) -> None:
    """Save tensors and plain values to a file; an older file stays whole until the new one is.

    Args:
        content: What ``torch.save`` can write and ``torch.load(weights_only=True)`` reads.
        path: Its folder is made if it is not there.

    Raises:
        SparsityError: If no file can be written there.
    """
    with whole_file(path) as (unfinished, _), _checksums():
        torch.save(content, unfinished)


@contextmanager
def _checksums() -> Iterator[None]:
    """Write checksums even where the program has turned them off for its own large files."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
