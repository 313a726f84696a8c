"""An update of RigL alone, over all layers of ResNet-50: ours against ``topk`` layer by layer."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.harness.nets import weights_of
from benchmarks.speed.gpu.rows import Bench, Row, row_of
from benchmarks.speed.gpu.training import FULL, SMOKE
from benchmarks.speed.rigl import OURS, WAYS, Layer, each, random_layer

DENSITIES = (0.1, 0.5)
THEIRS = ("topk", "topk of active")


def measure(bench: Bench) -> Iterator[Row]:
    """Yield both of our ways against both of theirs."""
    setting = SMOKE if bench.smoke else FULL
    for density in DENSITIES:
        torch.manual_seed(0)
        made = [random_layer(weight, density) for weight in weights_of(setting.make()).values()]
        layers = [Layer(*(tensor.to(bench.device) for tensor in layer)) for layer in made]
        samples = bench.in_turn({way: partial(each, WAYS[way], layers) for way in (*OURS, *THEIRS)})
        for ours in OURS:
            for theirs in THEIRS:
                yield row_of(f"RigL's update, {density:.0%}, {ours}", samples, ours, theirs)
