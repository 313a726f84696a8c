"""The values and positions of a Dense-plus-Sparse layer."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_sparse.functional.saliency.base import Average
from lightning_sparse.layers import DensePlusSparse
from lightning_sparse.weights.base import Connections, GradientSum

__all__ = ["CompactWeight"]


class CompactWeight(Connections):
    """The sparse part S of a Dense-plus-Sparse layer; ``alpha C`` takes no part in any of it.

    Args:
        name: Name that the layer's weight would have.
        layer: The layer.
    """

    def __init__(self, name: str, layer: DensePlusSparse) -> None:
        super().__init__(name, layer.shape, layer.values)
        self._layer = layer

    @property
    def positions(self) -> Tensor:
        """Flat positions of the values, ascending, ``(k,)``."""
        return self._layer.indices.long()

    @property
    def active(self) -> Tensor:
        """The values of S, ``(k,)``."""
        return self.parameter.detach()

    def gradient(self, passes: GradientSum | None, average: Average, scale: float) -> Tensor | None:
        """Return the mean of what the backward passes of every process have summed up."""
        if self.parameter.grad is None:  # the same on all processes, unlike who has run this layer
            return None
        total = None if passes is None else passes.total
        if total is None:
            total = self.parameter.new_zeros(self.shape, requires_grad=False)
        return average(total.div_(scale))

    def ask(self) -> GradientSum:
        """Ask the layer for the gradient of the whole weight; what was summed up so far is forgotten."""
        passes = GradientSum(self.parameter)
        self._layer.ask_for_dense_grad(passes)
        return passes

    def forget(self) -> None:
        """Let the layer make k gradients only, as ever."""
        self._layer.forget_dense_grad()

    @torch.no_grad()
    def move_(self, positions: Tensor, optimizers: Iterable[Optimizer]) -> int:
        """Move S; what belongs to a value moves along, its gradient included. Tell how many are new."""
        place = self._layer.move_(positions)
        kept = [state.get(self.parameter, {}).values() for state in (o.state for o in optimizers)]
        tensors = [self.parameter.grad, *(value for values in kept for value in values)]
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.shape == self.parameter.shape:
                tensor.copy_(torch.where(place >= 0, tensor[place], 0))
        return int((place < 0).sum())

    def snapshot(self) -> Tensor:
        """Return the positions: k numbers, where bits would be in the size of the weight."""
        return self._layer.indices.detach().cpu().clone()

    def count_shared(self, snapshot: Tensor) -> int:
        """Count the positions that were among those."""
        return int(torch.isin(self._layer.indices.cpu(), snapshot).sum())

    def explored(self, before: Tensor | None) -> Tensor | None:
        """Return nothing: bits for the whole weight would be many times what the layer stores."""
        return None
