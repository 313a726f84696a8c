"""Updates of RigL and the masking of gradients over ResNet-50: whole, and part by part, against ``topk``.

``drop_and_grow`` and ``move_support`` are our functions for one layer. What `RigLCallback` does at an update
is "all parts": gradients looked at, positions read off masks, all layers ranked together, masks, weights and
momentum changed, and the bits of what was ever active packed. The same for one layer of 2.36 million weights.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.nets import weights_of
from benchmarks.speed.gpu.rows import Bench, Row, row_of
from benchmarks.speed.gpu.training import FULL, SMOKE
from benchmarks.speed.rigl import DROPPED, OURS, WAYS, Layer, each, random_layer
from lightning_sparse.functional.growth import ActiveWeights, RigL, move_together
from lightning_sparse.functional.packing import bits_of
from lightning_sparse.functional.ranking import mask_at, positions_of
from lightning_sparse.weights.optimizers import has_finite_gradients
from lightning_sparse.weights.state import SparseState, state_of

DENSITIES = (0.1, 0.5)
THEIRS = ("topk", "topk of active")
LARGE, SMALL = (512, 512, 3, 3), (8, 8, 3, 3)


def measure(bench: Bench) -> Iterator[Row]:
    """Yield the parts of an update and of masking, then both of our functions against both of theirs."""
    setting = SMOKE if bench.smoke else FULL
    yield from parts_of(bench, "one layer", [nn.Parameter(torch.randn(SMALL if bench.smoke else LARGE))])
    net = "tiny net" if bench.smoke else "ResNet-50"
    yield from parts_of(bench, net, list(weights_of(setting.make()).values()))
    for density in DENSITIES:
        torch.manual_seed(0)
        layers = layers_of(bench, list(weights_of(setting.make()).values()), density)
        samples = bench.in_turn({way: partial(each, WAYS[way], layers) for way in (*OURS, *THEIRS)})
        for ours in OURS:
            for theirs in THEIRS:
                yield row_of(f"RigL's update, {density:.0%}, {ours}", samples, ours, theirs)


def parts_of(bench: Bench, what: str, weights: Sequence[Tensor]) -> Iterator[Row]:
    """Yield what each part of an update takes, and the masking of gradients, against ``topk`` per layer."""
    torch.manual_seed(0)
    layers = layers_of(bench, weights, DENSITIES[0])
    update = Update(layers)
    turns = {"topk": partial(each, WAYS["topk"], layers), "one fill per layer": update.fill, **update.parts}
    samples = bench.in_turn(turns)
    for part in update.parts:
        against = "one fill per layer" if part == "gradients masked" else "topk"
        yield row_of(f"{what}, {DENSITIES[0]:.0%}, {part}", samples, part, against)


def layers_of(bench: Bench, weights: Sequence[Tensor], density: float) -> list[Layer]:
    """Return weights under random masks, on the device."""
    made = [random_layer(weight, density) for weight in weights]
    return [Layer(*(tensor.to(bench.device) for tensor in layer)) for layer in made]


class Update:
    """A net of these layers in training with SGD and momentum, and what an update does, by part."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.net = nn.ParameterList([nn.Parameter(layer.weight) for layer in layers])
        self.names = [name for name, _ in self.net.named_parameters()]
        self.optimizer = torch.optim.SGD(self.net.parameters(), 1e-6, momentum=0.9)
        self.state: SparseState = state_of(self.net)
        masks = dict(zip(self.names, (layer.mask for layer in layers), strict=True))
        self.state.install_(self.net, masks, self)
        for weight, layer in zip(self.net, layers, strict=True):
            weight.grad = layer.gradient.clone()
        self.optimizer.step()
        self.pruned = [~layer.mask for layer in layers]
        self.found = self.rank()
        self.parts: dict[str, Callable[[], Any]] = {
            "gradients masked": partial(self.state.mask_gradients_, self.optimizer),
            "gradients found finite": partial(has_finite_gradients, self.optimizer),
            "positions of masks": self.positions,
            "layers ranked together": self.rank,
            "masks changed": self.change,
            "bits of masks": self.bits,
            "all parts of an update": self.all_parts,
        }

    def move_(self, *_: Any) -> None:
        """Do nothing: nobody asks the owner of these masks."""

    after_step = move_

    def fill(self) -> None:
        """Mask gradients one by one."""
        for weight, pruned in zip(self.net, self.pruned, strict=True):
            weight.grad.masked_fill_(pruned, 0)

    def positions(self) -> list[Tensor]:
        """Read the positions off all masks."""
        return [positions_of(self.state.mask(name), self.state.counts[name]) for name in self.names]

    def rank(self) -> list[Tensor]:
        """Return where connections shall be."""
        active = [
            ActiveWeights(
                layer.values,
                layer.support,
                layer.weight.shape,
                torch.Generator(),
                partial(_same, layer.gradient),
            )
            for layer in self.layers
        ]
        return move_together(RigL(), active, DROPPED, self.names)

    def change(self) -> None:
        """Go from some masks to others, or back."""
        self.found, before = [layer.support for layer in self.layers], self.found
        shapes = [layer.weight.shape for layer in self.layers]
        masks = [mask_at(places, shape) for places, shape in zip(before, shapes, strict=True)]
        self.state.move_(dict(zip(self.names, masks, strict=True)), [self.optimizer])

    def bits(self) -> list[Tensor]:
        """Pack all masks."""
        return [bits_of(self.state.mask(name)) for name in self.names]

    def all_parts(self) -> None:
        """Do all of it."""
        has_finite_gradients(self.optimizer)
        self.positions()
        self.found = self.rank()
        self.change()
        self.bits()


def _same(gradient: Tensor) -> Tensor:
    return gradient
