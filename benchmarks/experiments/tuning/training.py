"""One run: the same loop for all methods, with accuracy, time per step and peak memory."""

import contextlib
import io
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.experiments.tuning.methods import Method
from benchmarks.experiments.tuning.task import Batch, Budget, Data, Task
from benchmarks.harness.memory import MIB, peak_extra
from benchmarks.harness.training import bare_trainer

UNMEASURED = 5
"""Steps that are not in the time per step: the first ones do what is done once."""


@dataclass(frozen=True)
class Rates:
    """Learning rates of the net and of the linear head, and steps to warm up."""

    net: float
    head: float
    warmup: int


class Classifier(pl.LightningModule):
    """A net with a linear head.

    Args:
        net: Returns features.
        head: Makes logits of them.
        rates: Of both.
        steps: After which the rates are zero.
    """

    def __init__(self, net: nn.Module, head: nn.Module, rates: Rates, steps: int) -> None:
        super().__init__()
        self.net, self.head = net, head
        self.rates, self.steps = rates, steps

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.net(*inputs))

    def training_step(self, batch: Batch) -> Tensor:
        """Return the loss."""
        inputs, labels = batch
        return nn.functional.cross_entropy(self(*inputs), labels)

    def test_step(self, batch: Batch) -> None:
        """Log loss and accuracy."""
        inputs, labels = batch
        logits = self(*inputs)
        values = {
            "loss": nn.functional.cross_entropy(logits, labels),
            "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
        }
        self.log_dict(values, batch_size=len(labels))

    def configure_optimizers(self) -> dict[str, Any]:
        """Return Adam for what is trained, with warm-up and a cosine."""
        optimizer = optimizer_of(self.net, self.head, self.rates)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self, step: int) -> float:
        if step < self.rates.warmup:
            return (step + 1) / self.rates.warmup
        done = (step - self.rates.warmup) / max(1, self.steps - self.rates.warmup)
        return (1 + math.cos(math.pi * min(1.0, done))) / 2


def optimizer_of(net: nn.Module, head: nn.Module, rates: Rates) -> torch.optim.Adam:
    """Return the fused Adam for what is trained of both."""
    groups = [
        {"params": [p for p in part.parameters() if p.requires_grad], "lr": rate}
        for part, rate in ((net, rates.net), (head, rates.head))
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], fused=True)


class StepClock(pl.Callback):
    """Takes the CPU time of steps: forward, backward, optimizer and what callbacks do in between."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Start."""
        self._start = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop."""
        self.seconds.append(time.process_time() - self._start)


@cache
def pristine(make: Callable[[str], nn.Module], data_dir: str) -> nn.Module:
    """Return the pretrained net, read once; not to be changed."""
    return make(data_dir)


@dataclass(frozen=True)
class Training:
    """A run of a copy of the pretrained net."""

    task: Task
    pretrained: nn.Module
    method: Method
    budget: Budget
    seed: int
    rates: Rates
    data: Data

    def run(self) -> dict[str, Any]:
        """Train once; return accuracy, costs and any error."""
        clock, start, error = StepClock(), time.perf_counter(), None
        found: dict[str, Any] = {"accuracy": None, "loss": None, "trained": None}
        try:
            with quiet():
                extra = peak_extra(lambda: found.update(self._fit(clock)))
        except (RuntimeError, ValueError, TypeError) as failure:
            error, extra = f"{type(failure).__name__}: {failure}"[:400], None
        taken = clock.seconds[UNMEASURED:] or clock.seconds
        return {
            **found,
            "step_seconds": round(statistics.median(taken), 4) if taken else None,
            "mean_step_seconds": round(statistics.mean(taken), 4) if taken else None,
            "peak_mib": None if extra is None else round(extra / MIB, 1),
            "seconds": round(time.perf_counter() - start, 1),
            "error": error,
        }

    def _fit(self, clock: StepClock) -> dict[str, Any]:
        task, method, budget, seed = self.task, self.method, self.budget, self.seed
        pl.seed_everything(seed, verbose=False)
        # First, so that it is the same for all methods.
        head = nn.Identity() if task.features is None else nn.Linear(task.features, task.classes)
        net = method.adapt(deepcopy(self.pretrained), budget, seed)
        module = Classifier(net, head, self.rates, len(self.data.train))
        trainer = bare_trainer([*method.callbacks(task, budget, seed), clock])
        trainer.fit(module, _loader(self.data.train))
        trained = sum(p.numel() for p in module.net.parameters() if p.requires_grad)
        if method.budgeted and trained != budget.count:
            raise RuntimeError(f"{method.name} trained {trained} weights, not {budget.count}.")
        (metrics,) = trainer.test(module, _loader(self.data.held_out), verbose=False)
        accuracy, loss = round(100 * metrics["accuracy"], 3), round(metrics["loss"], 4)
        return {"accuracy": accuracy, "loss": loss, "trained": trained}


def _loader(batches: list[Batch]) -> DataLoader[Batch]:
    return DataLoader(batches, batch_size=None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and what is printed to itself."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
