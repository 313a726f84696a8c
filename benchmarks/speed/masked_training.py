"""Masked training of ResNet-18 at CIFAR shapes: what a step costs against dense training.

    python -m benchmarks.speed.masked_training --threads 2

A step takes half a second and the effect is a hundredth of it, while other load comes and goes within
seconds: the alternatives have to take turns step by step. But a Trainer does not return before it is done.
So the fits are nested. Each one runs through Lightning's whole start (strategy, optimizers, callbacks'
hooks) up to its first batch, hands out a function that does its next batch with the training loop's own
``advance``, and starts the next fit; inside the innermost one, the functions are called in turn. Every step
is one of a real ``Trainer.fit`` with its optimizer, hooks and state, and all run in one thread: a thread each
would have its own OpenMP team and its own memory arena, which are costs of their own.

"masking alone" is the time that masking gradients and weights takes within the steps of ``PruneAtInit``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import nn

from benchmarks.harness.nets import cifar_resnet18, tiny_net
from benchmarks.harness.report import Bar, Report
from benchmarks.harness.runner import (
    Alternative,
    Clocks,
    Sample,
    interleave,
    parse,
    read_clocks,
    since,
    timed,
)
from benchmarks.harness.training import OPTIMIZERS, Empty, Task, bare_trainer, bars, contenders, loader
from lightning_sparse.weights.state import SparseState, state_of

Fit = tuple[pl.Trainer, pl.LightningModule, Any]
AT_MOST = 1.02


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=30)
    report = Report("masked_training", options)
    setting = SMOKE if options.smoke else FULL
    bar = Bar("masking alone", "dense", AT_MOST - 1)
    for name in OPTIMIZERS:
        report.add(name, measure(name, setting, options.rounds), [*bars(AT_MOST), bar])
    report.finish()


class Setting(NamedTuple):
    """A net and the shape of its batches."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


FULL, SMOKE = Setting(cifar_resnet18, (32, 3, 32, 32)), Setting(tiny_net, (2, 3, 32, 32))


def measure(optimizer: str, setting: Setting, rounds: int) -> dict[str, list[Sample]]:
    """Return the times of the steps, after two to warm up."""
    fits = {name: prepare(name, optimizer, setting, rounds + 2) for name in contenders(nn.Identity())}
    masking = Masking(state_of(fits["PruneAtInit"][1]))
    samples: dict[str, list[Sample]] = {}

    def take_turns(steps: dict[str, Callable[[], None]]) -> None:
        alternatives = {name: timed(step) for name, step in steps.items()}
        alternatives["PruneAtInit"] = masking.clocked_apart(alternatives["PruneAtInit"])
        samples.update(interleave(alternatives, rounds, warmup=2))

    inside_all(fits, take_turns)
    return {**samples, "masking alone": masking.samples[-rounds:]}


def prepare(name: str, optimizer: str, setting: Setting, steps: int) -> Fit:
    """Return Trainer, module and data of one alternative; all start from the same weights."""
    torch.manual_seed(0)
    task = Task(setting.make(), OPTIMIZERS[optimizer])
    return bare_trainer([Empty(), contenders(task.net)[name]]), task, loader(setting.shape, steps)


def inside_all(fits: dict[str, Fit], then: Callable[[dict[str, Callable[[], None]]], None]) -> None:
    """Start all fits, one inside the other, and call ``then`` with what does the next batch of each."""
    _nest(list(fits.items()), {}, then)


def _nest(left: list[tuple[str, Fit]], steps: dict[str, Callable[[], None]], then: Any) -> None:
    if not left:
        then(steps)
        return
    (name, (trainer, module, data)), *others = left
    loop = trainer.fit_loop.epoch_loop

    def run(fetcher: Any) -> None:
        """Stand in for the loop over the batches."""
        loop.reset()
        loop.on_run_start(fetcher)
        _nest(others, {**steps, name: partial(_next_batch, loop, fetcher)}, then)
        trainer.should_stop = True

    loop.run = run
    trainer.fit(module, data)


def _next_batch(loop: Any, fetcher: Any) -> None:
    loop.advance(fetcher)
    loop.on_advance_end(fetcher)
    loop.on_iteration_done()


class Masking:
    """Clocks what a state does in a step, while it does it.

    Args:
        state: The state whose methods are to be clocked.
        clocks: What tells the time.
    """

    def __init__(self, state: SparseState, clocks: Clocks = read_clocks) -> None:
        self.samples: list[Sample] = []
        self.clocks = clocks
        self._spent = Sample(0, 0)
        for name in ("mask_gradients_", "mask_weights_"):
            setattr(state, name, self._clocked(getattr(state, name)))

    def clocked_apart(self, step: Alternative) -> Alternative:
        """Return a step that leaves its share of masking in ``samples``."""

        def alternative() -> Sample:
            self._spent = Sample(0, 0)
            sample = step()
            self.samples.append(self._spent)
            return sample

        return alternative

    def _clocked(self, method: Callable[..., None]) -> Callable[..., None]:
        def clocked(*arguments: Any) -> None:
            start = self.clocks()
            method(*arguments)
            self._spent = self._spent.plus(since(start, self.clocks))

        return clocked


if __name__ == "__main__":
    main()
