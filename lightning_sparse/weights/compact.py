"""The values and positions of a Dense-plus-Sparse layer."""

from collections.abc import Iterable, Mapping, Sequence
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.layers import DensePlusSparse, compact_layers
from lightning_sparse.layers.work import offset_work
from lightning_sparse.types import Average
from lightning_sparse.weights.base import SPARSE, Shown, SparseWeight, storage
from lightning_sparse.weights.optimizers import forget_curvature_, numbers_of, state_like

__all__ = ["CompactWeight", "GradientSum", "dense_sums", "give_back_sums_", "support_keys"]


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


PLUS_DENSE = Shown(
    metric="trainable_sparsity",
    title="Trained values of Dense-plus-Sparse layers (their weights are dense)",
    columns=("entries", "trained", "share"),
    histogram="values",
)


@storage
class CompactWeight(SparseWeight):
    """The sparse part S of a Dense-plus-Sparse layer; its offset takes no part in any of it.

    Args:
        name: Name that the layer's weight would have.
        layer: The layer.
    """

    storage_name = "compact"
    takes_masks = False
    support_noun = "supports"

    def __init__(self, name: str, layer: DensePlusSparse) -> None:
        super().__init__(name, layer.shape, layer.values)
        self._layer, self.base = layer, layer.base
        self.shown = SPARSE if layer.offset.is_zero else PLUS_DENSE
        self.offset_work = offset_work(layer.offset, layer.shape)

    @classmethod
    def found_in(cls, module: nn.Module) -> Sequence[SparseWeight]:
        """Return the weights of Dense-plus-Sparse layers."""
        return [cls(f"{path}.weight", layer) for path, layer in compact_layers(module).items()]

    @property
    def stored_as(self) -> str:
        """``"compact"``, after what is beside it."""
        return self._layer.offset.layer_storage

    @property
    def in_force(self) -> bool:
        """True: nothing else is stored."""
        return True

    @property
    def nnz(self) -> int:
        """Number of values k."""
        return self._layer.nnz

    @property
    def positions(self) -> Tensor:
        """Flat positions of the values, ascending, ``(k,)``."""
        return self._layer.indices.long()

    @property
    def active(self) -> Tensor:
        """The values of S, ``(k,)``."""
        return self.parameter.detach()

    @property
    def stored(self) -> int:
        """Bytes of k values and k positions, and of the weight beside them if that is stored."""
        parts = [self.parameter, self._layer.indices, *([] if self.base is None else [self.base])]
        return sum(part.numel() * part.element_size() for part in parts)

    def digest(self) -> int:
        """Return the checksum of the positions."""
        return crc32(self._layer.indices.cpu().numpy().tobytes())

    def ask_for_gradient(self) -> None:
        """Ask the layer for the gradient of the whole weight; what was summed up so far is forgotten."""
        self._layer.ask_for_dense_grad(GradientSum(self.parameter))

    def gradient(self, average: Average, scale: float) -> Tensor | None:
        """Return the mean of what the backward passes of every process have summed up."""
        if self.parameter.grad is None:  # the same on all processes, unlike who has run this layer
            return None
        passes = self._layer.dense_gradient.consumer
        total = passes.total if isinstance(passes, GradientSum) else None
        if total is None:
            total = self.parameter.new_zeros(self.shape, requires_grad=False)
        return average(total.div_(scale))

    def forget_gradient(self) -> None:
        """Let the layer make k gradients only, as ever."""
        self._layer.forget_dense_grad()

    @torch.no_grad()
    def move_(self, positions: Tensor, optimizers: Iterable[Optimizer]) -> int:
        """Move S; what belongs to a value moves along, its gradient included."""
        optimizers = list(optimizers)
        place = self._layer.move_(positions)
        kept = [value for _, value in state_like(self.parameter, optimizers)]
        for tensor in [*kept, *([] if self.parameter.grad is None else [self.parameter.grad])]:
            there = place.to(tensor.device)
            tensor.copy_(torch.where(there >= 0, numbers_of(tensor)[there], 0))
        moved = int((place < 0).sum())
        if moved:
            forget_curvature_(optimizers)
        return moved

    def snapshot(self) -> Tensor:
        """Return the positions: k numbers, where bits would be in the size of the weight."""
        return self._layer.indices.detach().cpu().clone()

    def count_shared(self, snapshot: Tensor) -> int:
        """Count the positions that were among those."""
        return int(torch.isin(self._layer.indices.cpu(), snapshot).sum())

    def explored(self, before: Tensor | None) -> Tensor | None:
        """Return nothing: bits for the whole weight would be many times what the layer stores."""
        return None


def support_keys(module: nn.Module) -> list[str]:
    """Return the keys that a state dict of the module has for positions of Dense-plus-Sparse layers."""
    return [f"{path}.indices" for path, one in module.named_modules() if isinstance(one, DensePlusSparse)]


def dense_sums(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of what has been summed up of gradients of whole weights, by name of the weight."""
    sums = ((name, layer.dense_gradient.consumer) for name, layer in compact_layers(module).items())
    return {
        f"{name}.weight": one.total.detach().clone()
        for name, one in sums
        if isinstance(one, GradientSum) and one.total is not None
    }


def give_back_sums_(module: nn.Module, sums: Mapping[str, Tensor]) -> None:
    """Let layers that have been asked for the gradient of their whole weight go on from these sums."""
    for name, layer in compact_layers(module).items():
        one, total = layer.dense_gradient.consumer, sums.get(f"{name}.weight")
        if isinstance(one, GradientSum) and total is not None:
            one.total = total.to(one.parameter.device, copy=True)
