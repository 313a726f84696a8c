"""Weights whose connections can move, masked or stored compactly, behind one interface."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.enforcement import all_finite
from lightning_sparse.functional.packing import pack_bits, unpack_bits
from lightning_sparse.functional.regrowth import positions_of
from lightning_sparse.functional.saliency.base import Average
from lightning_sparse.layers import DensePlusSparse, compact_layers
from lightning_sparse.state import SparseState, state_of

__all__ = [
    "CompactWeight",
    "Connections",
    "GradientSum",
    "MaskedWeight",
    "count_bits",
    "has_finite_gradients",
    "movable",
    "parameters_of",
    "skip_step_",
]


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


class MaskedWeight(Connections):
    """An ordinary weight under a mask.

    Args:
        name: Name of the weight.
        mask: Its mask.
        state: Owns the mask.
    """

    def __init__(self, name: str, mask: Tensor, state: SparseState) -> None:
        super().__init__(name, mask.shape, state.weights[name])
        self._mask, self._state = mask, state

    @cached_property
    def positions(self) -> Tensor:
        """Flat positions of the active weights, ascending, ``(nnz,)``."""
        return positions_of(self._mask)

    @property
    def active(self) -> Tensor:
        """Values of the active weights, ``(nnz,)``."""
        return self.parameter.detach().reshape(-1).index_select(0, self.positions)

    def gradient(self, passes: GradientSum | None, average: Average, scale: float) -> Tensor | None:
        """Return the parameter's gradient: Lightning has unscaled it, and processes have averaged it."""
        return self.parameter.grad

    def forget(self) -> None:
        """Do nothing: backward makes this gradient anyway."""

    def move_(self, positions: Tensor, optimizers: Iterable[Optimizer]) -> int:
        """Change the mask; tell how many active weights were not before."""
        stay = self._mask.reshape(-1).index_select(0, positions)
        flat = torch.zeros(self.shape.numel(), dtype=torch.bool, device=positions.device)
        self._mask = flat.index_fill_(0, positions, True).view(self.shape)
        self.positions = positions
        self._state.move_({self.name: self._mask}, optimizers)
        return len(positions) - int(stay.sum())

    def snapshot(self) -> Tensor:
        """Return the mask in bits."""
        return pack_bits(self._mask)

    def count_shared(self, snapshot: Tensor) -> int:
        """Count the bits that are set now as they were then."""
        return count_bits(snapshot & self.snapshot())

    def explored(self, before: Tensor | None) -> Tensor | None:
        """Return the bits set now or before."""
        return self.snapshot() if before is None else before | self.snapshot()


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


def movable(module: nn.Module) -> dict[str, Connections]:
    """Return the masked weights and the Dense-plus-Sparse layers of a module by name of the weight."""
    state = state_of(module)
    masked = {name: MaskedWeight(name, mask, state) for name, mask in state.masks.items()}
    layers = {f"{path}.weight": layer for path, layer in compact_layers(module).items()}
    return {**masked, **{name: CompactWeight(name, layer) for name, layer in layers.items()}}


def count_bits(packed: Tensor) -> int:
    """Count the bits that are set."""
    return int(unpack_bits(packed, [8 * len(packed)]).count_nonzero())


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return what an optimizer holds."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def has_finite_gradients(optimizer: Optimizer) -> bool:
    """Tell whether there are gradients and all are finite: a scaler skips the step for any that is not."""
    gradients = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
    entries = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    return bool(entries) and all(map(all_finite, entries))


def skip_step_(optimizer: Optimizer) -> None:
    """Take the gradients away: optimizers leave such parameters, and what they keep for them, alone."""
    for parameter in parameters_of(optimizer):
        parameter.grad = None
