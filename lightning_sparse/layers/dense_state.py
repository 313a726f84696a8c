"""The state dict that a net would have with ordinary layers."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.base import DensePlusSparse
from lightning_sparse.selection import plain_name

__all__ = ["dense_state_dict"]


def dense_state_dict(module: nn.Module) -> dict[str, Any]:
    """Return a module's state dict on the CPU, with a ``weight`` for what each Dense-plus-Sparse layer holds.

    Args:
        module: Any module, such a layer itself included; not changed.

    Returns:
        A plain dict that the module loaded before conversion. Tensors that are on the CPU already are the
        module's own; the new weights are dense, as are those that the module holds in a sparse layout. Tied
        ones are one tensor.

    Raises:
        SparsityError: If a parameter or buffer is on the meta device and has no values yet.

    Examples:
        >>> from lightning_sparse.layers import convert_
        >>> net = nn.Sequential(nn.Linear(4, 3))
        >>> _ = convert_(net, density=0.5)
        >>> list(dense_state_dict(net))
        ['0.bias', '0.weight']
    """
    state = dict(module.state_dict())
    _check_values(state)
    weights: dict[nn.Module, Tensor] = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, DensePlusSparse):
            prefix = f"{path}." if path else ""
            for key in layer.state_dict().keys() - {"bias"}:
                del state[prefix + key]
            if layer not in weights:
                weights[layer] = layer.weight.detach()
            state[f"{prefix}weight"] = weights[layer]
    moved: dict[Any, Tensor] = {}
    return {plain_name(n): _on_cpu(v, moved) if isinstance(v, Tensor) else v for n, v in state.items()}


def _on_cpu(value: Tensor, moved: dict[Any, Tensor]) -> Tensor:
    """Return a tensor on the CPU, dense; one that is there under two names is so there, too."""
    if value.layout != torch.strided:
        return value.to_dense().cpu()
    place = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
    if place not in moved:
        moved[place] = value.cpu()
    return moved[place]


def _check_values(state: dict[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_meta:
            raise SparsityError(
                f"`module` must have values, got {name!r} on the meta device. Load a checkpoint, or call "
                "`materialize_` first."
            )
