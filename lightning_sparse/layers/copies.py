"""Frozen copies of layers that are trained: the target nets of momentum methods (BYOL, MoCo, mean teacher).

An average such as ``target.mul_(m).add_(online)`` goes through the parameters of both nets side by side. So
what is done to a layer has to be done to its copy.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.base import DensePlusSparse, compact_layers
from lightning_sparse.layers.ordinary import CONV_OPTIONS, Convertible

__all__ = ["converted_copies", "frozen_copies", "nets_of_copies"]

Layer = TypeVar("Layer", bound=nn.Module)


def frozen_copies(frozen: Mapping[str, Convertible], trained: Mapping[str, Convertible]) -> dict[str, str]:
    """Return which frozen layers are copies of trained ones, by path: ``{"target.fc": "online.fc"}``.

    A copy has the same options and the same weight, and its path ends as the original's does, or one name
    is a part of the other (``fc_target``). Where a weight tells nothing, such as one of zeros, another layer
    of the same two nets has to be a copy.

    Args:
        frozen: Layers whose weight is not trained, by path.
        trained: Layers that are to be converted, by path.

    Raises:
        SparsityError: If layers that may be copies are on the meta device, and have no weights to compare.
    """
    return _pairs(frozen, trained, _same_layer, lambda layer: _tells(layer.weight))


def converted_copies(module: nn.Module) -> dict[str, str]:
    """Return which frozen Dense-plus-Sparse layers have the support of a trained one, by path."""
    layers = compact_layers(module)
    trained = {path: layer for path, layer in layers.items() if layer.values.requires_grad}
    frozen = {path: layer for path, layer in layers.items() if path not in trained}
    return _pairs(frozen, trained, _same_support, lambda layer: 0 < layer.nnz < layer.shape.numel())


def nets_of_copies(module: nn.Module) -> set[str]:
    """Return the paths of nets that hold converted copies: all of such a net follows another one."""
    pairs = (_nets(path, original) for path, original in converted_copies(module).items())
    return {nets[0] for nets in pairs if nets is not None}


def _pairs(
    frozen: Mapping[str, Layer],
    trained: Mapping[str, Layer],
    same: Callable[[Layer, Layer], bool],
    tells: Callable[[Layer], bool],
) -> dict[str, str]:
    """Pair copies and originals: first where layers tell, then the others of the nets found by that."""
    rows = [
        (path, original, nets)
        for path, copy in frozen.items()
        for original, layer in trained.items()
        if (nets := _nets(path, original)) is not None and same(copy, layer)
    ]
    sure = {nets for path, _, nets in rows if tells(frozen[path])}
    nearest = sorted((row for row in rows if row[2] in sure), key=lambda row: len(row[2][0]), reverse=True)
    return {path: original for path, original, _ in nearest}  # the last, of the longest common ending, counts


def _nets(path: str, original: str) -> tuple[str, str] | None:
    """Return the paths of the two nets that hold a layer under the same name; None if there are none.

    >>> _nets("target.net.0", "online.net.0"), _nets("fc_target", "fc"), _nets("a.0", "b.1")
    (('target', 'online'), ('fc_target', 'fc'), None)
    """
    copy_parts, parts = path.split("."), original.split(".")
    while copy_parts and parts and copy_parts[-1] == parts[-1]:
        copy_parts.pop()
        parts.pop()
    nets = ".".join(copy_parts), ".".join(parts)
    if nets != (path, original):
        return nets
    names = copy_parts[-1], parts[-1]
    related = all(name.isidentifier() for name in names) and (names[0] in names[1] or names[1] in names[0])
    return nets if related and copy_parts[:-1] == parts[:-1] else None


def _same_layer(copy: Convertible, layer: Convertible) -> bool:
    alike = (
        type(copy) is type(layer)
        and (copy.weight.shape, copy.weight.dtype) == (layer.weight.shape, layer.weight.dtype)
        and (copy.bias is None) == (layer.bias is None)
        and all(getattr(copy, name, None) == getattr(layer, name, None) for name in CONV_OPTIONS)
    )
    if alike and (copy.weight.is_meta or layer.weight.is_meta):
        raise SparsityError(
            f"`module` must hold frozen layers that may be copies on a real device, got {copy} on the meta "
            "device, beside a trained one like it: whether it is a copy cannot be seen. Name it in `exclude`."
        )
    return alike and _equal(copy.weight, layer.weight)


def _same_support(copy: DensePlusSparse, layer: DensePlusSparse) -> bool:
    return copy.shape == layer.shape and _equal(copy.indices, layer.indices)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Compare a few entries first: nets may hold many layers of one size."""
    if a.shape != b.shape or a.device != b.device:
        return False
    return torch.equal(a.flatten()[:16], b.flatten()[:16]) and torch.equal(a, b)


def _tells(weight: Tensor) -> bool:
    """Tell whether another layer would hardly have this weight by chance: not zeros, ones or an identity."""
    values: Tensor = torch.unique(weight.detach())
    return len(values) > 2
