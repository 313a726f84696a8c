"""Files that are written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch

from lightning_sparse.checks import check_writable

__all__ = ["write_whole"]


def write_whole(content: Any, path: str | os.PathLike[str], argument: str = "path") -> None:
    """Save tensors and plain values to a file; an older file stays whole until the new one is.

    Args:
        content: What ``torch.save`` can write and ``torch.load(weights_only=True)`` reads.
        path: Its folder is made if it is not there.
        argument: Name under which the caller knows the path.

    Raises:
        SparsityError: If no file can be written there.
    """
    check_writable(argument, path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        torch.save(content, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
