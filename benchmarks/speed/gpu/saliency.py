"""Exact global ranking, iterations of SynFlow, steps of FORCE: each against the authors' way."""

from collections.abc import Iterator

import torch

from benchmarks.harness.nets import cifar_resnet18, tiny_net
from benchmarks.harness.runner import Sample, interleave
from benchmarks.speed.gpu.rows import Bench, Row, row_of
from benchmarks.speed.gpu.training import FULL, SMOKE, sample_of
from benchmarks.speed.saliency import (
    FORCE_AT_MOST,
    IMAGE,
    SYNFLOW_AT_MOST,
    Stretch,
    Turn,
    force_turns,
    random_masks,
    random_scores,
    ranking_turns,
    synflow_turns,
)

BATCH = 128


def measure(bench: Bench) -> Iterator[Row]:
    """Yield all comparisons."""
    torch.manual_seed(0)
    yield from rank(bench)
    yield from flow(bench)
    yield from push(bench)


def rank(bench: Bench) -> Iterator[Row]:
    """Yield the ranking of the scores of ResNet-50 against ``topk`` of them laid end to end."""
    net = (SMOKE if bench.smoke else FULL).make().to(bench.device)
    scores = random_scores(net)
    size = sum(score.numel() for score in scores.values())
    for density in (0.1, 0.01):
        samples = bench.in_turn(ranking_turns(scores, int(density * size)))
        yield row_of(f"ranking of {size:,} scores, {density:.0%}", samples, "ours", "topk")


def flow(bench: Bench) -> Iterator[Row]:
    """Yield iterations of SynFlow on ResNet-18 at CIFAR shapes."""
    net = (tiny_net() if bench.smoke else cifar_resnet18()).to(bench.device)
    density = 0.1 if bench.smoke else 0.01
    for which in ("first", "last"):
        method = Stretch(bench.rounds + 1, which)
        masks = random_masks(net, method.path(density)[0]) if which == "last" else None
        samples = one_each(bench, synflow_turns(net, method, density, masks))
        for theirs, at_most in {"authors' in float64": SYNFLOW_AT_MOST, "authors' in float32": None}.items():
            yield row_of(f"SynFlow, {which} iterations", samples, "ours", theirs, at_most)


def push(bench: Bench) -> Iterator[Row]:
    """Yield steps of FORCE on ResNet-18 at CIFAR shapes."""
    net = (tiny_net() if bench.smoke else cifar_resnet18()).to(bench.device)
    images = torch.randn(4 if bench.smoke else BATCH, *IMAGE, device=bench.device)
    labels = torch.randint(10, images.shape[:1], device=bench.device)
    samples = one_each(bench, force_turns(net, (images, labels)))
    yield row_of("FORCE, steps", samples, "ours", "authors'", FORCE_AT_MOST)


def one_each(bench: Bench, turns: dict[str, Turn]) -> dict[str, list[Sample]]:
    """Return samples of one call each: no two calls do the same."""
    return interleave({name: sample_of(bench, turn) for name, turn in turns.items()}, bench.rounds)
