"""Memory: what tensors hold, and what a piece of work takes at most, as Linux with glibc tells it."""

import ctypes
import gc
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

MIB = 2**20


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors, each memory once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def peak_extra(turn: Callable[[], Any]) -> int | None:
    """Return the bytes of memory that a turn needs at most, or None where the system does not tell.

    What was freed before is first given back to the system, else a turn would use it unseen.
    """
    if platform.libc_ver()[0] != "glibc":
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before = _memory("VmRSS")
    result = turn()
    extra = _memory("VmHWM") - before
    del result
    return extra


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
