"""Remembers what a fit has logged, epoch by epoch, whichever loggers there are."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_sparse.reporting.layers import LayerCount, count_weight, sparsity_metrics
from lightning_sparse.reporting.runs import Curve
from lightning_sparse.weights.found import sparse_weights

__all__ = ["Recorder"]


class Recorder:
    """Takes down metrics while they are made; of several values in an epoch the last counts.

    A Trainer goes on showing a metric that was not logged again, such as one of a validation every five
    epochs. It shows the same tensor then, and by that it is told from a new value.

    Examples:
        >>> import torch
        >>> recorder, accuracy = Recorder(), torch.tensor(0.5)
        >>> recorder.note(0, {"val/acc": accuracy})
        >>> recorder.note(1, {"val/acc": accuracy})
        >>> recorder.curves
        {'val/acc': {0: 0.5}}
    """

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self._seen: dict[str, Tensor] = {}
        self._counted: set[str] = set()

    def note(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Take down what is new among the metrics that a Trainer shows, unless it was counted."""
        for name, value in metrics.items():
            if isinstance(value, Tensor) and value.numel() == 1 and self._seen.get(name) is not value:
                self._seen[name] = value
                if name not in self._counted:
                    self.curves.setdefault(name, {})[epoch] = float(value)

    def count(self, epoch: int, values: Mapping[str, float]) -> None:
        """Take down what was counted: exactly, where metrics of the same name are rounded to 32 bits."""
        self._counted.update(values)
        for name, value in values.items():
            self.curves.setdefault(name, {})[epoch] = value

    def forget_metrics(self) -> None:
        """Hold no tensor any longer."""
        self._seen = {}

    def state(self) -> dict[str, list[list[float]]]:
        """Return the curves in plain values for a checkpoint."""
        return {
            name: [[epoch, value] for epoch, value in curve.items()] for name, curve in self.curves.items()
        }

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        self.curves = {
            name: {int(epoch): float(value) for epoch, value in curve} for name, curve in state.items()
        }

    def count_layers(self, epoch: int, module: nn.Module) -> None:
        """Take down one minus the density of all sparse weights of a net, by layer and in total."""
        groups: dict[str, list[LayerCount]] = {}
        for weight in sparse_weights(module).values():
            groups.setdefault(weight.shown.metric, []).append(count_weight(weight))
        for metric, layers in groups.items():
            self.count(epoch, sparsity_metrics(layers, metric))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_seen": {}}
