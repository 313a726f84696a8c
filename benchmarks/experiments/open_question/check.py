"""The compiled step against the package's own layers and masks: losses and weights over some steps.

Beside it what rounding alone does: the package against itself, with images laid out with channels last.
Where either differs by more than rounding, an activation within rounding of zero has got the other sign, and
ReLU passes its gradient on in one of the two only. Given the signs of the compiled step, gradients in float64
at the same weights are its own.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam

from benchmarks.experiments.open_question.kernel import State
from benchmarks.experiments.open_question.pack import DECAY, RATE, Pack
from benchmarks.experiments.open_question.starts import STARTS, has_path, make, state_of
from benchmarks.experiments.open_question.stream import Batch, Stream
from benchmarks.harness import tables
from lightning_sparse import keep_sparse_
from lightning_sparse.layers import alpha_groups, compact_layers

STEPS = 50


class Trajectory(NamedTuple):
    """Losses of some steps, and where they lead."""

    losses: list[float]
    state: State

    def minus(self, other: "Trajectory") -> tuple[float, float]:
        """Return the largest relative difference of losses, and the largest of weights and scales."""
        losses = max(abs(a - b) / abs(b) for a, b in zip(self.losses, other.losses, strict=True))
        pairs = zip(self.state[1:3], other.state[1:3], strict=True)
        return losses, max(float((a - b).abs().max()) for a, b in pairs if len(a))


def table(stream: Stream, folder: Path, budgets: Sequence[int], steps: int = STEPS) -> list[str]:
    """Return a row per way to start and budget."""
    rows = [("", "budget", "losses", "weights", "layouts: losses", "weights")]
    for start, budget in itertools.product(STARTS, budgets):
        nets = [make(start, budget, 0, stream) for _ in range(2)]
        state = state_of(nets[0])
        if not has_path(state):
            rows.append((start.name, f"{budget:,}", "no path", "", "", ""))
            continue
        given = list(batches(stream, steps))
        ours = by_kernel(Pack([start.name], [state], 0, folder), given)
        theirs, again = (by_package(net, given, last) for net, last in zip(nets, (False, True), strict=True))
        found = *ours.minus(theirs), *again.minus(theirs)
        rows.append((start.name, f"{budget:,}", *(f"{difference:.1e}" for difference in found)))
    return tables.table(rows)


def batches(stream: Stream, steps: int) -> Iterator[Batch]:
    """Yield batches, epoch after epoch."""
    draws = torch.Generator().manual_seed(1)
    epochs = (batch for _ in itertools.count() for batch in stream.epoch(draws))
    return itertools.islice(epochs, steps)


def by_kernel(pack: Pack, given: Sequence[Batch]) -> Trajectory:
    """Train the one net of a pack."""
    return Trajectory([pack.step(batch)[0] for batch in given], pack.states[0])


def by_package(net: nn.Module, given: Sequence[Batch], channels_last: bool = False) -> Trajectory:
    """Train a net as the package does it without a Trainer."""
    optimizer = Adam(alpha_groups(net, DECAY), lr=RATE, fused=True)
    if not compact_layers(net):
        keep_sparse_(net, optimizer)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    losses = []
    for images, labels in given:
        optimizer.zero_grad()
        x = images.permute(3, 0, 1, 2)[: len(labels)].contiguous(memory_format=layout)
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Trajectory(losses, state_of(net))
