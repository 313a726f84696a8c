"""How long two ways to compute the same take on this machine, beside each other."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

__all__ = ["ratio_of_times"]

_SECONDS = 0.004  # of one sample: what the clock shows of less is noise


def ratio_of_times(way: Callable[[], Any], other: Callable[[], Any], rounds: int) -> float:
    """Return how long one way takes as a share of another: a median over rounds in which both take turns.

    CPU time of the process is counted: what else the machine does counts little, and meets both alike.

    Args:
        way: Whose time is divided.
        other: By whose time.
        rounds: How many turns each has.
    """
    ways = [way, other]
    with torch.no_grad():
        calls = [max(1, round(_SECONDS / max(1e-7, min(_time(one, 1) for _ in range(3))))) for one in ways]
        ratios = []
        for i in range(rounds):
            order = (0, 1) if i % 2 else (1, 0)
            times = {j: _time(ways[j], calls[j]) for j in order}
            ratios.append(times[0] / max(1e-9, times[1]))
    return median(ratios)


def _time(way: Callable[[], Any], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        way()
    return (time.process_time() - start) / calls
