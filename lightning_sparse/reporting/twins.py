"""Dense copies of nets, of shapes alone or of numbers too: what theory is compared with."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from typing import Any

from torch import Tensor, nn

from lightning_sparse.layers import to_dense_

__all__ = ["dense_twin"]


def dense_twin(module: nn.Module, on_meta: bool, as_it_is: bool = False) -> nn.Module:
    """Return a copy of a module in eval mode, with ordinary layers in the place of compact ones.

    Args:
        module: Any module; left as it is. Hooks on its passes are not copied: what they write to is its own.
        on_meta: Whether the copy has shapes only, and so takes no memory; else it has the same numbers.
        as_it_is: Whether compact layers stay, so that only the mode and the hooks differ.

    Raises:
        Exception: Whatever copying an attribute raises.
    """
    memo: dict[int, Any] = {id(t): _shape_of(t) for t in _tensors_of(module)} if on_meta else {}
    holder = nn.ModuleList([deepcopy(module, memo)])  # a bare compact layer has to be held by something
    for layer in holder.modules():
        for name, hooks in vars(layer).items():
            if name.startswith(("_forward", "_backward")) and "hooks" in name:
                hooks.clear()
    if not as_it_is:
        to_dense_(holder)
    return holder[0].eval()


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield parameters, buffers and other tensors that modules hold themselves."""
    for layer in module.modules():
        for value in chain(layer._parameters.values(), layer._buffers.values(), vars(layer).values()):
            if isinstance(value, Tensor):
                yield value


def _shape_of(tensor: Tensor) -> Tensor:
    shape = tensor.detach().to("meta")
    return nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape
