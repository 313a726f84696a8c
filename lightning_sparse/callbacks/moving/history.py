"""What connections have been through, for the logs: how many moved, survived, and were ever active."""

from collections.abc import Iterable
from numbers import Real
from typing import Any, ClassVar

from torch import Tensor

from lightning_sparse.callbacks.stateful import Stateful
from lightning_sparse.functional.packing import count_bits
from lightning_sparse.reporting.layers import OF_LAYERS
from lightning_sparse.selection import layer_name
from lightning_sparse.weights.base import SparseWeight

__all__ = ["History"]


class History(Stateful):
    """Remembers the first support of every weight, and all that was ever active of masked ones.

    For a masked weight of N entries these are two times N bits; for a Dense-plus-Sparse layer k positions,
    and nothing in the size of its weight.

    Attributes:
        moved: Connections moved since it was last cleared, by name of the weight.
        fraction: Drop fraction of the last update.
    """

    layout: ClassVar = {"moved": dict, "fraction": Real, "initial": dict, "ever": dict}

    def __init__(self) -> None:
        self.moved: dict[str, int] = {}
        self.fraction = 0.0
        self._initial: dict[str, Tensor] = {}
        self._ever: dict[str, Tensor] = {}

    def start(self, connections: Iterable[SparseWeight]) -> None:
        """Take down what is active at first, unless that is known."""
        for layer in connections:
            if layer.name not in self._initial:
                self._initial[layer.name] = layer.snapshot()
                self._explore(layer)

    def record(self, moves: Iterable[tuple[SparseWeight, int]]) -> None:
        """Take down how many connections of each weight have moved."""
        for layer, moved in moves:
            self.moved[layer.name] = self.moved.get(layer.name, 0) + moved
            self._explore(layer)

    def metrics(
        self, kind: str, connections: Iterable[SparseWeight], per_layer: bool = True
    ) -> dict[str, float]:
        """Return what is logged, under names that begin with ``kind``.

        ``drop_fraction`` of the last update; in total, and if asked for per layer, ``moved`` connections,
        ``churn`` (these over active ones), ``survived`` (share of the first support that is active) and
        ``explored`` (share of all weights that was ever active; masked weights only).
        """
        names = {layer.name: layer for layer in connections if layer.name in self._initial}
        sizes = {name: layer.shape.numel() for name, layer in names.items()}
        active = {name: layer.nnz for name, layer in names.items()}
        moved = {name: self.moved.get(name, 0) for name in names}
        survived = {name: layer.count_shared(self._initial[name]) for name, layer in names.items()}
        explored = {name: count_bits(self._ever[name]) for name in names if name in self._ever}
        counted: dict[str, tuple[dict[str, int], dict[str, int] | None]] = {
            "moved": (moved, None),
            "churn": (moved, active),
            "survived": (survived, active),
            "explored": (explored, sizes),
        }
        metrics = {f"{kind}/drop_fraction": self.fraction}
        for what, (counts, out_of) in counted.items():
            if counts:
                total, layers = _shares(counts, out_of)
                metrics[f"{kind}/{what}"] = total
                each = {f"{kind}{OF_LAYERS}/{what}/{name}": share for name, share in layers.items()}
                metrics |= each if per_layer else {}
        return metrics

    def settle(self) -> None:
        """Take all tensors to the CPU: an update leaves them where it finds them, and waits for nothing."""
        self._ever = {name: bits.cpu() for name, bits in self._ever.items()}

    def __getstate__(self) -> dict[str, Any]:
        self.settle()  # there may be no GPU to unpickle it
        return vars(self).copy()

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        self.settle()
        return {
            "moved": dict(self.moved),
            "fraction": self.fraction,
            "initial": dict(self._initial),
            "ever": dict(self._ever),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.moved, self.fraction = dict(state_dict["moved"]), state_dict["fraction"]
        self._initial, self._ever = dict(state_dict["initial"]), dict(state_dict["ever"])

    def _explore(self, layer: SparseWeight) -> None:
        ever = layer.explored(self._ever.get(layer.name))
        if ever is not None:
            self._ever[layer.name] = ever


def _shares(counts: dict[str, int], out_of: dict[str, int] | None) -> tuple[float, dict[str, float]]:
    """Return counts, or shares of others, in total and by the names of layers."""
    whole = {name: out_of[name] if out_of else 1 for name in counts}
    total = sum(counts.values()) / (max(1, sum(whole.values())) if out_of else 1)
    return total, {layer_name(name): count / max(1, whole[name]) for name, count in counts.items()}
