"""Times alternatives side by side in one process.

The alternatives take turns, one sample each per round, in an order that changes from round to round: what
else the machine does meets all of them alike, and none is always timed after the same other. A ratio is that
of two samples of one round; the figure is the median over the rounds. Its interval is that of the order
statistics, which assumes nothing about how times are distributed: it covers the true median with 95%, or,
at five rounds, where it goes from the lowest to the highest ratio, with 94%.
"""

import argparse
import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

FEWEST_ROUNDS = 5


class Sample(NamedTuple):
    """Seconds that one turn of an alternative took."""

    wall: float
    cpu: float

    def plus(self, other: "Sample") -> "Sample":
        """Return the sum."""
        return Sample(self.wall + other.wall, self.cpu + other.cpu)

    def per(self, calls: int) -> "Sample":
        """Return the share of one of so many calls."""
        return Sample(self.wall / calls, self.cpu / calls)


class Ratio(NamedTuple):
    """Median of paired ratios, with its interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"


Alternative = Callable[[], Sample]
Clocks = Callable[[], Sample]


def read_clocks() -> Sample:
    """Return wall clock and the CPU time of the process, all its threads together."""
    return Sample(time.perf_counter(), time.process_time())


def since(start: Sample, clocks: Clocks = read_clocks) -> Sample:
    """Return what has passed since the clocks showed ``start``."""
    now = clocks()
    return Sample(now.wall - start.wall, now.cpu - start.cpu)


def timed(function: Callable[[], Any], calls: int = 1, clocks: Clocks = read_clocks) -> Alternative:
    """Return an alternative: it calls ``function`` some times and returns the mean time of a call."""

    def alternative() -> Sample:
        start = clocks()
        for _ in range(calls):
            function()
        return since(start, clocks).per(calls)

    return alternative


def timed_at_length(
    function: Callable[[], Any], seconds: float = 0.02, clocks: Clocks = read_clocks
) -> Alternative:
    """Return an alternative that calls ``function`` as often as takes about so many seconds of wall clock."""
    return timed(function, calls_to_fill(seconds, function, clocks), clocks)


def calls_to_fill(seconds: float, function: Callable[[], Any], clocks: Clocks = read_clocks) -> int:
    """Return how many calls take about so many seconds of wall clock, one at least.

    It is called four times here: once for what happens only once, and three times to see what a call takes.
    """
    function()
    shortest = min(timed(function, clocks=clocks)().wall for _ in range(3))
    return max(1, math.ceil(seconds / shortest))


def turns(names: Sequence[str], number: int) -> list[str]:
    """Return the order of a round: it begins with the next one each time; every other cycle is reversed."""
    cycle, first = divmod(number, len(names))
    order = [*names[first:], *names[:first]]
    return order[::-1] if cycle % 2 else order


_OPEN_BLOCKS: list[None] = []  # `gc.get_freeze_count` does not tell: Python 3.12 starts with frozen objects


@contextlib.contextmanager
def short_collections() -> Iterator[None]:
    """Let garbage collections leave out all that is there now; until the outermost such block ends."""
    gc.collect()
    gc.freeze()  # what an outer block has frozen stays so, and what came since, such as imports, is added
    _OPEN_BLOCKS.append(None)
    try:
        yield
    finally:
        _OPEN_BLOCKS.pop()
        if not _OPEN_BLOCKS:
            gc.unfreeze()


def interleave(
    alternatives: Mapping[str, Alternative], rounds: int, warmup: int = 1
) -> dict[str, list[Sample]]:
    """Let the alternatives take turns; return the samples of each, without those of the warm-up rounds."""
    samples: dict[str, list[Sample]] = {name: [] for name in alternatives}
    with short_collections():
        for number in range(rounds + warmup):
            for name in turns(list(alternatives), number):
                gc.collect()  # nobody pays for what another has left behind
                samples[name].append(alternatives[name]())
    return {name: taken[warmup:] for name, taken in samples.items()}


def paired_ratio(times: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Return the median of the ratios, round by round, with its interval."""
    ratios = sorted(a / b for a, b in zip(times, baseline, strict=True))
    rank = interval_rank(len(ratios))
    return Ratio(statistics.median(ratios), ratios[rank - 1], ratios[-rank])


def interval_rank(rounds: int, coverage: float = 0.95) -> int:
    """Return k such that the k-th lowest and the k-th highest value enclose the true median that surely.

    A value lies below the true median with probability 1/2, so the number that do is binomial.
    """
    rank, outside = 1, 2 / 2**rounds
    while outside + 2 * math.comb(rounds, rank) / 2**rounds <= 1 - coverage:
        outside += 2 * math.comb(rounds, rank) / 2**rounds
        rank += 1
    return rank


def add_sections(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add the argument that says which sections of a benchmark are run."""

    def known(section: str) -> str:
        if section not in names:
            raise argparse.ArgumentTypeError(f"`sections` must be among {', '.join(names)}, got {section!r}.")
        return section

    parser.add_argument("sections", nargs="*", type=known, default=list(names), help="default: all")


def parse(
    description: str | None,
    argv: Sequence[str] | None,
    rounds: int,
    add_own: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> argparse.Namespace:
    """Return the options that all benchmarks share and its own, and let PyTorch use so many threads."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds (default: {rounds})")
    parser.add_argument("--smoke", action="store_true", help="one small round, to see that it runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    add_own(parser)
    options = parser.parse_args(argv)
    if options.smoke:
        options.rounds = 1
    elif options.rounds < FEWEST_ROUNDS:
        parser.error(f"`--rounds` must be at least {FEWEST_ROUNDS}, got {options.rounds}.")
    torch.set_num_threads(options.threads)
    return options
