"""Giving memory to what is left on the meta device once the large layers are converted."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.base import DensePlusSparse

__all__ = ["materialize_"]


def materialize_(module: nn.Module, device: torch.device | str = "cpu") -> None:
    """Allocate everything that is still on the meta device, and let it initialise itself.

    Each submodule with tensors of its own on the meta device gets memory and is told to
    ``reset_parameters()``, which draws from the global generator. What the net did to a layer after making
    it is not repeated.

    Args:
        module: Any module; what has memory already stays as it is.
        device: Where the rest goes.

    Raises:
        SparsityError: If a submodule on the meta device cannot initialise itself, or shares a parameter with
            another one.
    """
    waiting = {path: layer for path, layer in module.named_modules() if _has_meta_tensors(layer)}
    uses = Counter(id(p) for layer in waiting.values() for p in layer._parameters.values() if p is not None)
    for path, layer in waiting.items():
        if _initializer(layer) is None or isinstance(layer, DensePlusSparse):
            raise SparsityError(
                "`module` must hold only submodules with `reset_parameters()` on the meta device, got "
                f"{path!r} of {type(layer).__name__}. Give it one, or build it on a real device."
            )
        if any(uses[id(p)] > 1 for p in layer._parameters.values()):
            raise SparsityError(
                f"`module` must not share parameters on the meta device, got one of {path!r} shared. "
                "Tie them after `materialize_`."
            )
    for layer in waiting.values():
        layer.to_empty(device=device, recurse=False)
        if (initialize := _initializer(layer)) is not None:
            initialize()


def _has_meta_tensors(layer: nn.Module) -> bool:
    own = (*layer._parameters.values(), *layer._buffers.values())
    return any(tensor is not None and tensor.is_meta for tensor in own)


def _initializer(layer: nn.Module) -> Callable[[], None] | None:
    """Return what initialises a module; some of PyTorch's own name it with an underscore."""
    return getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
