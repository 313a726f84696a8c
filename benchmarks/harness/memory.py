"""How much memory a piece of work takes at most: resident pages, as Linux with glibc tells them."""

import ctypes
import gc
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 2**20


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
