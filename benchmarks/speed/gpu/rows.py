"""What a section is given, and the rows that it makes of what it measures."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.harness.device import timed_on
from benchmarks.harness.report import verdict
from benchmarks.harness.runner import FEWEST_ROUNDS, Ratio, Sample, interleave, paired_ratio

SLOW = 0.25  # seconds of a call


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: What was measured.
        ours: Its figure.
        unit: Of the figure.
        against: Name of what it is compared with; empty if with nothing.
        theirs: The figure of that.
        ratio: Ours over theirs, with its interval.
        at_most: The bar: on the ratio, or on the figure if there is no ratio.
        verdict: Whether the bar is met.
        note: What else there is to say.
        samples: What the figures were made of.
    """

    what: str
    ours: float
    unit: str
    against: str = ""
    theirs: float | None = None
    ratio: Ratio | None = None
    at_most: float | None = None
    verdict: str = "-"
    note: str = ""
    samples: Mapping[str, list[Sample]] | None = None


@dataclass(frozen=True)
class Bench:
    """Where and how a section measures.

    Args:
        device: The GPU, or the CPU in smoke runs.
        smoke: Whether only to see that it runs, on tiny shapes.
        rounds: Samples of each alternative.
        deadline: When the section has to be through, as ``time.monotonic`` tells it.
    """

    device: torch.device
    smoke: bool
    rounds: int
    deadline: float

    @property
    def seconds_left(self) -> float:
        """Return how long the section may still take."""
        return self.deadline - time.monotonic()

    def in_turn(
        self, turns: Mapping[str, Callable[[], Any]], seconds: float = 0.01
    ) -> dict[str, list[Sample]]:
        """Return samples of all, taken in turn, each of as many calls as take about so many seconds.

        Where a call of one takes long, there are as few rounds as an interval needs.
        """
        length = 0.0 if self.smoke else seconds
        alternatives = {name: timed_on(self.device, turn, length) for name, turn in turns.items()}
        slowest = max(alternative().wall for alternative in alternatives.values())
        rounds = self.rounds if slowest <= SLOW else min(self.rounds, FEWEST_ROUNDS)
        return interleave(alternatives, rounds, warmup=0)


def row_of(
    what: str,
    samples: Mapping[str, list[Sample]],
    ours: str,
    against: str,
    at_most: float | None = None,
    note: str = "",
) -> Row:
    """Compare two alternatives by wall clock, which on a GPU is that of its events."""
    walls = {name: [sample.wall for sample in samples[name]] for name in (ours, against)}
    ratio = paired_ratio(walls[ours], walls[against])
    times = [1e3 * statistics.median(walls[name]) for name in (ours, against)]
    taken = {name: samples[name] for name in (ours, against)}
    found = verdict(ratio, at_most)
    return Row(what, times[0], "ms", against, times[1], ratio, at_most, found, note, taken)


def value_row(what: str, value: float, unit: str, at_most: float | None = None, note: str = "") -> Row:
    """Return a figure that is compared with nothing but its bar."""
    found = verdict(Ratio(value, value, value), at_most)
    return Row(what, value, unit, at_most=at_most, verdict=found, note=note)


def share_row(
    what: str, ours: float, theirs: float, unit: str, against: str, at_most: float | None = None
) -> Row:
    """Compare two figures that are no times, such as memory."""
    ratio = Ratio(*[ours / theirs] * 3)
    return Row(what, ours, unit, against, theirs, ratio, at_most, verdict(ratio, at_most))
