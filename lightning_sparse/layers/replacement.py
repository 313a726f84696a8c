"""A layer in the place of another: the compact one for the ordinary one, and back."""

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.dct import accumulation_dtype
from lightning_sparse.layers.base import DensePlusSparse
from lightning_sparse.layers.convolutions import (
    DensePlusSparseConv,
    DensePlusSparseConv1d,
    DensePlusSparseConv2d,
    DensePlusSparseConv3d,
)
from lightning_sparse.layers.dense_plus_sparse import DensePlusSparseLinear
from lightning_sparse.layers.offsets import Offset
from lightning_sparse.layers.ordinary import CONV_OPTIONS, Convertible, OrdinaryConv

__all__ = ["compact_layer", "dense_layer", "replace_"]

_REGISTERED = ("_parameters", "_buffers", "_modules")
_COMPACT: dict[type[OrdinaryConv], type[DensePlusSparseConv]] = {
    nn.Conv1d: DensePlusSparseConv1d,
    nn.Conv2d: DensePlusSparseConv2d,
    nn.Conv3d: DensePlusSparseConv3d,
}
_ORDINARY: dict[type[DensePlusSparse], type[OrdinaryConv]] = {new: old for old, new in _COMPACT.items()}


def compact_layer(
    layer: Convertible,
    support: Tensor,
    device: torch.device | str,
    draws: torch.Generator,
    **options: Any,
) -> DensePlusSparse:
    """Return the layer's compact counterpart with the layer's own bias.

    S starts at zero; without an offset it starts with the weight's own entries, drawn as the ordinary layer
    draws them if it is on the meta device. A stored offset is the weight itself, no longer trained, and S is
    then trained whether the weight was or not, in float32 at least.
    """
    weight = cast(nn.Parameter, layer.weight)
    bias = cast(nn.Parameter | None, layer.bias)
    offset: Offset = options["offset"]
    dtype = accumulation_dtype(weight.dtype) if offset.is_stored else weight.dtype
    options |= {"bias": False, "dtype": dtype, "device": device if weight.is_meta else weight.device}
    new: DensePlusSparse
    if isinstance(layer, nn.Linear):
        new = DensePlusSparseLinear(weight.shape[1], weight.shape[0], support, **options)
    else:
        options |= {name: getattr(layer, name) for name in CONV_OPTIONS}
        new = _COMPACT[type(layer)](layer.in_channels, layer.out_channels, indices=support, **options)
    if bias is not None and bias.is_meta:
        bias = nn.Parameter(_drawn(bias.shape, weight, draws).to(device), requires_grad=bias.requires_grad)
    new.bias = bias
    if offset.is_stored:
        new.base = _stored(weight, offset)
    elif not weight.requires_grad:
        new.values.requires_grad_(False)
        if new.alpha is not None:
            new.alpha.requires_grad_(False)
    if offset.is_zero:
        with torch.no_grad():
            new.values.copy_(_entries(weight, new.indices, draws))
    return new


def _stored(weight: nn.Parameter, offset: Offset) -> nn.Parameter:
    """Return the parameter itself, if it has values."""
    if weight.is_meta:
        raise SparsityError(
            f"`offset` {offset.name!r} needs weights, got a layer of shape {tuple(weight.shape)} on the meta "
            "device. Load the pretrained weights first."
        )
    return weight


def _entries(weight: Tensor, positions: Tensor, draws: torch.Generator) -> Tensor:
    """Return a weight's entries at flat positions."""
    if weight.is_meta:
        return _drawn(positions.shape, weight, draws)
    return weight.detach().reshape(-1)[positions.long()]


def _drawn(size: torch.Size, weight: Tensor, draws: torch.Generator) -> Tensor:
    """Draw entries as ordinary layers draw theirs: uniform within ``1 / sqrt(patch)``."""
    bound = 1 / math.sqrt(math.prod(weight.shape[1:]))
    return torch.empty(size, dtype=weight.dtype, device="cpu").uniform_(-bound, bound, generator=draws)


def dense_layer(layer: DensePlusSparse) -> Convertible:
    """Return the ordinary layer with the same weight and the layer's own bias."""
    weight = layer.weight.detach()
    new: Convertible
    if isinstance(layer, DensePlusSparseLinear):
        new = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    else:
        options = {name: getattr(layer, name) for name in CONV_OPTIONS}
        new = _ORDINARY[type(layer)](
            layer.shape[1] * options["groups"], layer.shape[0], bias=False, device="meta", **options
        )
    new.weight = nn.Parameter(weight, requires_grad=layer.values.requires_grad)
    new.bias = layer.bias
    return new


def replace_(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a layer in another's place wherever it appears, with its mode and its hooks.

    That is also in lists, tuples and dicts of a module, which PyTorch does not look into: the forward pass
    may call it from there.
    """
    if old is module:
        raise SparsityError(f"`module` must hold the layers to convert, got a bare {type(old).__name__}.")
    new.train(old.training)
    for name, hooks in vars(old).items():
        if name.startswith(("_forward", "_backward")) and "hooks" in name:
            getattr(new, name).update(hooks)
    new._is_full_backward_hook = old._is_full_backward_hook
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
                if isinstance(parent, OptimizedModule):
                    _compile_anew_(parent)
        for name, value in list(vars(parent).items()):
            if name not in _REGISTERED and any(leaf is old for leaf in _leaves(value)):
                vars(parent)[name] = tree_map_only(type(old), partial(_exchanged, old, new), value)


def _leaves(value: object) -> list[object]:
    """Return what an attribute holds: most are no containers, or empty."""
    if not isinstance(value, list | tuple | dict):
        return [value]
    return tree_leaves(value) if value else []


def _exchanged(old: nn.Module, new: nn.Module, held: nn.Module) -> nn.Module:
    return new if held is old else held


def _compile_anew_(compiled: OptimizedModule) -> None:
    """Let what ``torch.compile`` returned call the module it holds now: it has kept the old one's call."""
    compiled.__setstate__(compiled.__getstate__())
