"""State dicts as modules: for whoever needs the tensors of a net, and has a checkpoint but not the class."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, shown
from lightning_sparse.files.reading import read_dict, shown_source
from lightning_sparse.layers import (
    DensePlusSparse,
    DensePlusSparseConv1d,
    DensePlusSparseConv2d,
    DensePlusSparseConv3d,
    DensePlusSparseLinear,
)
from lightning_sparse.layers.offsets import Offset
from lightning_sparse.layers.offsets.state import OFFSET_KEY, offsets_in, shape_from_state
from lightning_sparse.selection import plain_name

__all__ = ["held_checkpoint", "held_state"]

_CONVS: dict[int, Any] = {
    3: DensePlusSparseConv1d,
    4: DensePlusSparseConv2d,
    5: DensePlusSparseConv3d,
}


class _Held(nn.Module):
    """A part of a net without a forward pass."""


class _HeldWithState(nn.Module):
    """One whose own class put something else into the state dict."""

    extra: Any = None

    def get_extra_state(self) -> Any:
        return self.extra


def held_checkpoint(path: Any, argument: str = "path") -> nn.Module:
    """Return the state dict of a checkpoint as a module.

    Args:
        path: A checkpoint of a Trainer, or a saved state dict.
        argument: What errors call it.

    Raises:
        SparsityError: If there is no such file, it is damaged, or there are no weights in it.
    """
    content = read_dict(path, argument)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise SparsityError(
            f"`{argument}` must be a checkpoint or a saved state dict, got {shown_source(path)}, which has "
            "no weights. Use another file."
        )
    return held_state(state, argument)


def held_state(state: Mapping[str, Any], argument: str = "path") -> nn.Module:
    """Return a module that has this state dict, and layers for what compact ones have left in it.

    It has no forward pass. Entries that share their memory are one parameter, as they were.

    Args:
        state: Tensors by name, and whatever else a state dict holds.
        argument: What errors call the place that it comes from.

    Raises:
        SparsityError: If something in it is no tensor, a compact layer is incomplete, or its offset is not
            registered here.

    Examples:
        >>> from lightning_sparse.layers import convert_
        >>> net = nn.Sequential(nn.Linear(20, 10))
        >>> _ = convert_(net, 0.1)
        >>> torch.equal(held_state(net.state_dict()).get_submodule("0").weight, net[0].weight)
        True
    """
    plain = {plain_name(name): value for name, value in state.items()}
    for name, value in plain.items():
        if not isinstance(value, Tensor) and name.rpartition(".")[2] != OFFSET_KEY:
            raise SparsityError(
                f"`{argument}` must hold a state dict of tensors, got {name!r}: {shown(value)}. Save what "
                "else there is elsewhere."
            )
    offsets = offsets_in(plain)
    inside = {
        f"{path}.{key}" for path in offsets for key in ("values", "indices", "alpha", "base", OFFSET_KEY)
    }
    root = _HeldWithState() if OFFSET_KEY in plain else _Held()
    with_state = {n.rpartition(".")[0] for n in plain if n.endswith(f".{OFFSET_KEY}")} - offsets.keys()
    layers: dict[Any, DensePlusSparse] = {}
    for path, offset in offsets.items():
        parent, _, name = path.rpartition(".")
        layer, values = _layer(plain, path, offset, argument), plain[f"{path}.values"]
        place = values.data_ptr() if values.numel() else path  # one layer may stand in several places
        _part(root, parent, with_state)._modules[name] = layers.setdefault(place, layer)
    shared: dict[tuple[Any, ...], nn.Parameter] = {}
    for name, value in plain.items():
        if name not in inside:
            path, _, own = name.rpartition(".")
            _put(_part(root, path, with_state), own, value, shared)
    return root


def _part(root: nn.Module, path: str, with_state: set[str]) -> nn.Module:
    """Return the part at a path, made if it is not there."""
    part, so_far = root, ""
    for name in path.split(".") if path else ():
        so_far = f"{so_far}.{name}" if so_far else name
        if name not in part._modules:
            part._modules[name] = _HeldWithState() if so_far in with_state else _Held()
        part = part._modules[name]  # type: ignore[assignment]
    return part


def _put(part: nn.Module, name: str, value: Any, shared: dict[tuple[Any, ...], nn.Parameter]) -> None:
    """Give a part a tensor, under whatever name: past `register_buffer`, which refuses some."""
    if name == OFFSET_KEY:
        vars(part)["extra"] = value
    elif value.is_floating_point():
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        one = shared.setdefault(place, nn.Parameter(value, requires_grad=False)) if value.numel() else value
        part._parameters[name] = one if isinstance(one, nn.Parameter) else nn.Parameter(one, False)
    else:
        part._buffers[name] = value


def _layer(state: Mapping[str, Any], path: str, offset: Offset, argument: str) -> DensePlusSparse:
    """Return the compact layer at a path; how it convolves is not known, and its weight does not ask."""
    found = {key: state.get(f"{path}.{key}") for key in ("values", "indices", "alpha", "base")}
    values, indices, alpha, base = found.values()
    shape = shape_from_state(state[f"{path}.{OFFSET_KEY}"])
    complete = isinstance(values, Tensor) and isinstance(indices, Tensor) and values.shape == indices.shape
    complete = complete and (not offset.has_alpha or isinstance(alpha, Tensor))
    complete = complete and (not offset.is_stored or isinstance(base, Tensor))
    if not complete or shape is None or not 2 <= len(shape) <= 5:
        raise SparsityError(
            f"`{argument}` must hold values, positions, shape and offset of the layer {path!r}, got "
            f"{', '.join(key for key, value in found.items() if value is not None) or 'none of them'}. Use "
            "another file."
        )
    assert isinstance(values, Tensor)
    options: dict[str, Any] = {"indices": indices, "bias": False, "offset": offset, "dtype": values.dtype}
    with torch.device("cpu"):
        if len(shape) == 2:
            layer: DensePlusSparse = DensePlusSparseLinear(shape[1], shape[0], **options)
        else:
            layer = _CONVS[len(shape)](shape[1], shape[0], tuple(shape[2:]), **options)
    order = indices.argsort()  # type: ignore[union-attr]
    layer.values = nn.Parameter(values[order], requires_grad=False)
    layer.alpha = layer.alpha if alpha is None else nn.Parameter(alpha, requires_grad=False)
    layer.base = layer.base if base is None else nn.Parameter(base, requires_grad=False)
    return layer
