"""What a step of fine-tuning MiniLM costs: forward, backward and Adam, 32 sentences of 28 tokens.

    python -m benchmarks.experiments.fine_tuning_steps --threads 1

All methods take turns in one process, a step each. Memory is what three steps need at most above what the
process held before the net was copied: weights, gradients, optimizer and activations.
"""

import statistics
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import nn

from benchmarks.experiments.tuning.methods import METHODS
from benchmarks.experiments.tuning.sentences import SENTENCES
from benchmarks.experiments.tuning.task import Budget
from benchmarks.experiments.tuning.training import Rates, optimizer_of
from benchmarks.harness.memory import MIB, peak_extra
from benchmarks.harness.report import Bar, Report
from benchmarks.harness.runner import interleave, parse, timed

BARS = [
    Bar("ours", "full", 0.75),
    Bar("ours", "LoRA", 1.1),
    Bar("ours", "SHiRA"),
    Bar("LoRA", "full"),
    Bar("head", "full"),
]
BATCH, TOKENS, SMOKE_BATCH = 32, 28, 2


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=15)
    report = Report("fine_tuning_steps", options)
    net = SENTENCES.net("")
    shape = (SMOKE_BATCH if options.smoke else BATCH, TOKENS)
    for budget in SENTENCES.budgets:
        case = f"{budget.count:,} ({budget.name})"
        makers = {name: partial(make_step, net, adapt, budget, shape) for name, adapt in ways().items()}
        turns = {name: timed(make()) for name, make in makers.items()}
        report.add(case, interleave(turns, options.rounds, warmup=2), BARS)
        del turns
        for name, make in makers.items():
            report.add_value(case, f"peak MiB, {name}", peak_of(make, 1 if options.smoke else 3))
    report.finish()


def ways() -> dict[str, Callable[[nn.Module, Budget, int], nn.Module]]:
    """Return what changes the net, by name; ours as `SparseFineTuning` does it, without a Trainer."""
    return {"ours": _ours, **{name: METHODS[name].adapt for name in ("full", "LoRA", "SHiRA", "head")}}


def _ours(net: nn.Module, budget: Budget, seed: int) -> nn.Module:
    from lightning_sparse.layers import convert_
    from lightning_sparse.layers.freezing import freeze_but_

    density, include = budget.count / SENTENCES.weights, list(SENTENCES.include)
    convert_(net, density, "erk", offset="pretrained", include=include, generator=seed)
    freeze_but_(net, [])
    return net


def make_step(
    pretrained: nn.Module,
    adapt: Callable[[nn.Module, Budget, int], nn.Module],
    budget: Budget,
    shape: tuple[int, int],
) -> Callable[[], None]:
    """Return a function that makes a step of training, always on the same sentences."""
    torch.manual_seed(0)
    head = nn.Linear(SENTENCES.features, SENTENCES.classes)
    tokens, labels = torch.randint(1_000, 30_000, shape), torch.randint(SENTENCES.classes, shape[:1])
    net = adapt(deepcopy(pretrained), budget, 0)
    optimizer = optimizer_of(net, head, Rates(1e-4, 1e-4, 0))

    def step() -> None:
        loss = nn.functional.cross_entropy(head(net(tokens, torch.ones_like(tokens))), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak_of(make: Callable[[], Callable[[], None]], steps: int) -> float:
    """Return MiB at the peak of some steps, with all that they need; the median of three tries."""

    def turn() -> None:
        step = make()
        for _ in range(steps):
            step()

    found = [peak_extra(turn) for _ in range(3)]
    return float("nan") if None in found else statistics.median(found) / MIB


if __name__ == "__main__":
    main()
