"""What a step of LeNet-5 costs in a random hyperplane against a dense step: time and memory, U kept or not.

    python -m benchmarks.speed.hyperplane --threads 1
    python -m benchmarks.speed.hyperplane --smoke

A step is forward, backward and Adam on 64 images. Memory is what a basis keeps, and what the process holds at
most during one more step, above what it held before: on Linux only.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.harness.memory import MIB, peak_extra
from benchmarks.harness.report import Bar, Report
from benchmarks.harness.runner import interleave, parse, timed
from lightning_sparse import project_
from lightning_sparse.models import LeNet5

DIMENSIONS = (100, 300, 1_000, 3_000)
BATCH = 64


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=5, add_own=_add_own)
    report = Report("hyperplane", options)
    for dimension in (8,) if options.smoke else options.dimensions:
        compare(report, options, dimension)
    report.finish()


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dimensions", type=int, nargs="+", default=DIMENSIONS, help="numbers to train")


def compare(report: Report, options: argparse.Namespace, dimension: int) -> None:
    """Time a step of k numbers, with U kept and drawn anew, beside one of all weights."""
    case = f"LeNet-5, {dimension:,} numbers"
    steps = {"dense": step_of(None, 0)}
    for name, mib in (("U kept", 10_000), ("U drawn", 0)):
        steps[name] = step_of(dimension, mib)
    turns = {name: timed(step) for name, step in steps.items()}
    bars = [Bar("U kept", "dense"), Bar("U drawn", "dense")]
    report.add(case, interleave(turns, options.rounds), bars)
    for name, step in steps.items():
        if (extra := peak_extra(step)) is not None:
            report.add_value(case, f"peak extra MiB of a step, {name}", extra / MIB)
    report.add_value(case, "MiB kept of U", 4 * dimension * weights() / MIB)


def step_of(dimension: int | None, keep_mib: int) -> Callable[[], Any]:
    """Return what makes a training step."""
    torch.manual_seed(0)
    net = LeNet5()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    if dimension is not None:
        hyperplane = project_(net, optimizer, dimension, seed=0, keep_mib=keep_mib)
        assert hyperplane.basis.kept == (4 * dimension * weights() if keep_mib else 0)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    return partial(_step, net, optimizer, images, labels)


def _step(net: LeNet5, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(net(images), labels).backward()
    optimizer.step()


def weights() -> int:
    """Return the number of weights."""
    return sum(parameter.numel() for parameter in LeNet5().parameters())


if __name__ == "__main__":
    main()
