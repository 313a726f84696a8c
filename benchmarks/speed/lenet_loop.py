"""LeNet-300-100 in a whole Trainer loop: what ``PruneAtInit`` adds to a step of a millisecond.

    python -m benchmarks.speed.lenet_loop --threads 2

Each turn is one fit: a fresh module and optimizer, random batches in memory, nothing logged, shown or saved.
The first steps are not counted, nor what happens once per fit, such as making masks. Every Trainer has two
callbacks, a stopwatch with empty hooks and the one that is compared; for the dense net that one is empty too.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.harness.report import Report
from benchmarks.harness.runner import Sample, interleave, parse, read_clocks, since
from benchmarks.harness.training import OPTIMIZERS, Empty, Task, bare_trainer, bars, contenders, loader
from lightning_sparse.models import LeNet300100

AT_MOST = 1.10
SHAPE = (60, 1, 28, 28)


class Length(NamedTuple):
    """Steps of a fit that are not counted, and those that are."""

    uncounted: int
    counted: int


FULL, SMOKE = Length(20, 500), Length(1, 2)


class Stopwatch(Empty):
    """Two empty hooks, and one that clocks the steps between a first and a last one."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.start = self.per_step = Sample(0, 0)

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Read the clocks twice per fit."""
        if arguments[-1] == self.first:
            self.start = read_clocks()
        elif arguments[-1] == self.last:
            self.per_step = since(self.start).per(self.last - self.first)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=15)
    report = Report("lenet_loop", options)
    length = SMOKE if options.smoke else FULL
    for optimizer in OPTIMIZERS:
        fits = {name: partial(fit, name, optimizer, length) for name in contenders(nn.Identity())}
        report.add(optimizer, interleave(fits, options.rounds), bars(AT_MOST))
    report.finish()


def fit(name: str, optimizer: str, length: Length) -> Sample:
    """Train a fresh net, and return the mean time of a step."""
    torch.manual_seed(0)
    task = Task(LeNet300100(), OPTIMIZERS[optimizer])
    stopwatch = Stopwatch(length.uncounted - 1, sum(length) - 1)
    trainer = bare_trainer([stopwatch, contenders(task.net)[name]])
    trainer.fit(task, loader(SHAPE, sum(length)))
    return stopwatch.per_step


if __name__ == "__main__":
    main()
