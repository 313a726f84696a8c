"""One interface to everything that holds a sparse weight."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.functional.saliency.base import Average

__all__ = ["Connections", "GradientSum"]


class GradientSum:
    """Sums up the gradients of a whole weight over the backward passes that add to its parameter's ``grad``.

    So a pass while the parameter is frozen does not count (`toggle_optimizer`), nor do those whose gradients
    were set to None (`zero_grad`). Under mixed precision gradients come in half precision; sums, of many
    passes and scaled, need more range: that of the parameter.

    Args:
        parameter: What optimizers hold of the weight.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.total: Tensor | None = None
        self._pass = -1

    def __call__(self, gradient: Tensor) -> None:
        """Add the gradient of one use of the weight; it may have several in one pass."""
        if not self.parameter.requires_grad:
            return
        this_pass = torch._C._current_graph_task_id()
        if self.parameter.grad is None and this_pass != self._pass:  # nothing counts that came before
            self.total = None
        self._pass = this_pass
        gradient = gradient.to(self.parameter.dtype)
        self.total = gradient if self.total is None else self.total.add_(gradient)


class Connections(ABC):
    """The active weights among those of one layer.

    Attributes:
        name: Parameter name of the weight.
        shape: Shape of the weight.
        parameter: What optimizers hold.
    """

    def __init__(self, name: str, shape: torch.Size, parameter: nn.Parameter) -> None:
        self.name, self.shape, self.parameter = name, shape, parameter

    @property
    @abstractmethod
    def positions(self) -> Tensor:
        """Flat positions of the active weights, ascending, ``(nnz,)``."""

    @property
    @abstractmethod
    def active(self) -> Tensor:
        """Values of the active weights, ``(nnz,)``."""

    @abstractmethod
    def gradient(self, passes: GradientSum | None, average: Average, scale: float) -> Tensor | None:
        """Return the gradient of all weights, unscaled and averaged over processes; None if there is none.

        Args:
            passes: What `ask` returned before the backward passes.
            average: Mean over processes of a tensor.
            scale: Factor that the loss was multiplied with.
        """

    def ask(self) -> GradientSum | None:
        """See to it that backward makes the gradient of all weights, from now on, if it would not anyway."""
        return None

    @abstractmethod
    def forget(self) -> None:
        """Let backward make no more than it would anyway."""

    @abstractmethod
    def move_(self, positions: Tensor, optimizers: Iterable[Optimizer]) -> int:
        """Make the weights at ``positions`` active instead; tell how many were not before.

        Dropped ones become zero, new ones start there, and what optimizers keep for either does as well.
        """

    @abstractmethod
    def snapshot(self) -> Tensor:
        """Return what is active now, to be kept: as small as the storage of the weight promises."""

    @abstractmethod
    def count_shared(self, snapshot: Tensor) -> int:
        """Count the active weights that were active at a ``snapshot``."""

    @abstractmethod
    def explored(self, before: Tensor | None) -> Tensor | None:
        """Return bits of all that was ever active, given those of before; None if they cost too much."""
