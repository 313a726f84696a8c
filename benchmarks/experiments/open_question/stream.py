"""CIFAR-10 as the trainings take it: cropped, mirrored, and with the images of a batch innermost."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.experiments.offset_nets import load_raw
from benchmarks.experiments.open_question.kernel import BATCH

PADDING = 4

Batch = tuple[Tensor, Tensor]
"""Images ``(3, 32, 32, 64)``, the last of which may be black, and as many labels as there are images."""


@dataclass(frozen=True)
class Stream:
    """Images to train on, with a black margin, and batches to look at."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    val: list[Batch]
    test: list[Batch]

    def epoch(self, draws: torch.Generator) -> Iterator[Batch]:
        """Yield an epoch of batches: each image once, cropped out of its margin, every second mirrored."""
        order = torch.randperm(len(self.labels), generator=draws)
        corners = torch.randint(2 * PADDING + 1, (2, len(order)), generator=draws)
        mirrored = torch.rand(len(order), generator=draws) < 0.5
        for places, *how in zip(
            order.split(BATCH), *(h.split(BATCH, -1) for h in (corners, mirrored)), strict=True
        ):
            yield self.batch(places, *how), self.labels[places]

    def batch(self, places: Tensor, corners: Tensor, mirrored: Tensor) -> Tensor:
        """Return images, cropped where ``corners`` say, and mirrored."""
        side = 32 + 2 * PADDING
        columns = torch.arange(32).view(-1, 1)
        columns = torch.where(mirrored, 31 - columns, columns)
        first = (places * 3 * side + corners[0]) * side + corners[1] + columns
        rows = torch.arange(3).view(3, 1) * side * side + torch.arange(32) * side
        found = self.images.view(-1)[rows[:, :, None, None] + first]
        return _filled(normalised(found, self.mean, self.std))


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return bytes, channels first, as floats of mean 0 and standard deviation 1."""
    return images.float().sub_(mean.view(3, 1, 1, 1)).div_(std.view(3, 1, 1, 1))


def load(data_dir: Path, cache: Path) -> Stream:
    """Return the data set as the package's data module splits it."""
    return stream(load_raw("cifar10-jpeg", data_dir, cache))


def noise() -> Stream:
    """Return few images without a meaning, to see that everything runs."""
    draws = torch.Generator().manual_seed(0)
    sizes = (100, 70, 70)
    parts = [
        (torch.randint(256, (n, 3, 32, 32), generator=draws).byte(), torch.randint(10, (n,), generator=draws))
        for n in sizes
    ]
    scale = torch.full((3, 1, 1), 127.0), torch.full((3, 1, 1), 74.0)
    return stream([(*part, *scale) for part in parts])


def stream(parts: list[tuple[Tensor, ...]]) -> Stream:
    """Return a stream of three parts, each images, labels, means and deviations."""
    images, labels, mean, std = parts[0]
    looked_at = [_batches(*part) for part in parts[1:]]
    return Stream(F.pad(images, 4 * (PADDING,)).contiguous(), labels, mean, std, *looked_at)


def _batches(images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> list[Batch]:
    pairs = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    return [(_filled(normalised(i.permute(1, 2, 3, 0), mean, std).contiguous()), y) for i, y in pairs]


def _filled(images: Tensor) -> Tensor:
    """Fill a batch up with black images."""
    return images if images.shape[-1] == BATCH else F.pad(images, (0, BATCH - images.shape[-1])).contiguous()
