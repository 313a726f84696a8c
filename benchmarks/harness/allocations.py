"""How much memory of PyTorch a piece of work takes at most, to the byte: read off the profiler's events."""

import os
from collections.abc import Callable
from itertools import accumulate
from typing import TypeVar

from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


def peak_allocated(work: Callable[[], Result]) -> tuple[Result, int]:
    """Return what the work returns, and by how many bytes its tensors exceed, at most, what was there before.

    What oneDNN and MKL take for themselves is not seen. CPU only.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        result = work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return result, max(accumulate(changes), default=0)
