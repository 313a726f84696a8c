"""The compiled step against the package's own layers and masks: losses and weights over some steps."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from benchmarks.experiments.open_question.pack import DECAY, RATE, Pack
from benchmarks.experiments.open_question.starts import STARTS, has_path, make, state_of
from benchmarks.experiments.open_question.stream import Batch, Stream
from benchmarks.harness import tables
from lightning_sparse import keep_sparse_
from lightning_sparse.layers import alpha_groups, compact_layers

STEPS = 50


def table(stream: Stream, folder: Path, budgets: Sequence[int], steps: int = STEPS) -> list[str]:
    """Return a row per way to start and budget: the largest difference of a loss, of a weight, of a scale."""
    rows = [("", "budget", "loss, relative", "weights", "scales")]
    for start, budget in itertools.product(STARTS, budgets):
        net = make(start, budget, 0, stream)
        state = state_of(net)
        if not has_path(state):
            rows.append((start.name, f"{budget:,}", "no path", "", ""))
            continue
        found = differences(net, Pack([start.name], [state], 0, folder), batches(stream, steps))
        rows.append((start.name, f"{budget:,}", *(f"{difference:.1e}" for difference in found)))
    return tables.table(rows)


def batches(stream: Stream, steps: int) -> Iterator[Batch]:
    """Yield batches, epoch after epoch."""
    draws = torch.Generator().manual_seed(1)
    epochs = (batch for _ in itertools.count() for batch in stream.epoch(draws))
    return itertools.islice(epochs, steps)


def differences(net: nn.Module, pack: Pack, given: Iterator[Batch]) -> tuple[float, float, float]:
    """Train both; return the largest differences: of losses (relative), of weights and of scales."""
    optimizer = Adam(alpha_groups(net, DECAY), lr=RATE, fused=True)
    if not compact_layers(net):
        keep_sparse_(net, optimizer)
    losses = []
    for images, labels in given:
        (ours,) = pack.step((images, labels))
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images.permute(3, 0, 1, 2)[: len(labels)]), labels)
        loss.backward()
        optimizer.step()
        losses.append(abs(ours - loss.item()) / loss.item())
    theirs, ours = state_of(net), pack.states[0]
    return max(losses), _largest(theirs.values - ours.values), _largest(theirs.scales - ours.scales)


def _largest(of: Tensor) -> float:
    return float(of.abs().max()) if len(of) else 0.0
