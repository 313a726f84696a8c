"""What is fine-tuned on what: a pretrained net, data, and how many weights are trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

Batch = tuple[tuple[Tensor, ...], Tensor]
"""Inputs of the net and labels."""

TUNING_SEED = 100
"""Of the runs that choose rates: their data are in no run that counts."""


class Images(NamedTuple):
    """Images, as the net takes them, and labels."""

    images: Tensor
    labels: Tensor

    def batches(self, order: Sequence[int], size: int) -> list[Batch]:
        """Cut an order into batches."""
        parts = torch.tensor(order).split(size)
        return [((self.images[places],), self.labels[places]) for places in parts]


class Data(NamedTuple):
    """Batches in the order in which they are trained on, and those to measure accuracy with."""

    train: list[Batch]
    held_out: list[Batch]


@dataclass(frozen=True)
class Budget:
    """So many trained weights, in the form that each library takes them.

    Args:
        name: How tables call it.
        count: Number of weights, the same for all methods.
        rank: That makes LoRA and SHiRA train so many.
        targets: Names of the layers that these two change.
    """

    name: str
    count: int
    rank: int
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A pretrained net and data.

    Args:
        name: How the command and the records call it.
        net: Makes the pretrained net, whose output are features, from the folder of data.
        features: Number of these; ``None`` for a net that has its head already.
        classes: Number of classes.
        include: Patterns of the weights that may be changed, as parameters of the net are called.
        weights: How many they are.
        budgets: The columns of the table.
        data: Returns the data of a seed; takes folder, seed, epochs and whether it is a smoke run.
        methods: Which methods can be used.
        epochs: Of the runs that count.
        rate_epochs: Of those that choose rates.
        move_every: Steps between updates of supports that move.
        move_until: Share of the steps after which they rest.
        warmup: Steps until the rate is reached.
    """

    name: str
    net: Callable[[str], nn.Module]
    features: int | None
    classes: int
    include: tuple[str, ...]
    weights: int
    budgets: tuple[Budget, ...]
    data: Callable[[str, int, int, bool], Data]
    methods: tuple[str, ...]
    epochs: int = 2
    rate_epochs: int = 1
    move_every: int = 10
    move_until: float = 0.6
    warmup: int = 20


def draw_order(items: Sequence[int], draws: torch.Generator) -> list[int]:
    """Return items in a random order."""
    return [items[place] for place in torch.randperm(len(items), generator=draws).tolist()]


def bucketed(
    order: Sequence[int], lengths: Sequence[int], size: int, draws: torch.Generator, buckets: int = 16
) -> list[list[int]]:
    """Cut an order into batches of items of about equal length, in random order.

    So many batches at a time are sorted by length, so that little is padded and batches still differ from
    epoch to epoch.

    >>> draws = torch.Generator().manual_seed(0)
    >>> sorted(bucketed([0, 1, 2, 3], lengths=[5, 1, 6, 2], size=2, draws=draws))
    [[0, 2], [1, 3]]
    """
    batches = []
    for start in range(0, len(order), size * buckets):
        chunk = sorted(order[start : start + size * buckets], key=lambda item: lengths[item])
        batches += [sorted(chunk[place : place + size]) for place in range(0, len(chunk), size)]
    return [batches[place] for place in torch.randperm(len(batches), generator=draws).tolist()]
