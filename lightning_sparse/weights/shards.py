"""Weights that are ``DTensor``: by which processes they are held, and masks that are split as they are.

FSDP2 (``fully_shard``) and Lightning's ``ModelParallelStrategy`` make parameters of this kind. Each process
holds rows of them, and so it does of their masks, gradients and what optimizers keep. Who sums over processes
is decided by the weights' own mesh: where a net is sharded and replicated, only some processes hold the rest.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.shards.layout import Shards, here, is_sharded, reshard_
from lightning_sparse.types import Masks, Shapes

__all__ = [
    "as_shards",
    "here",
    "is_sharded",
    "once_for_all",
    "part_for",
    "reshard_",
    "shards_of",
    "total_of",
    "whole",
    "whole_shapes",
]

_SHARD_ROWS = "Shard with `fully_shard` over one dimension of the mesh and no `shard_placement_fn`"


def shards_of(weights: Mapping[str, Tensor]) -> Shards | None:
    """Return which rows of weights this process holds; None if they are ordinary tensors.

    Raises:
        SparsityError: If some of them are split and others are not, or if they are split otherwise than by
            rows, over one dimension of one mesh.
    """
    split = {name: weight for name, weight in weights.items() if is_sharded(weight)}
    if not split:
        return None
    if plain := [name for name in weights if name not in split]:
        raise SparsityError(
            f"{plain[0]!r} is not sharded, and {next(iter(split))!r} is: nobody would keep its copies on the "
            "processes equal. Shard the module that holds it too, or name it in `exclude`."
        )
    # `fully_shard` without a mesh makes one for every layer: they are equal, and others.
    layouts = {(_mesh(w), _row_dimension(name, w)): name for name, w in split.items()}
    if len(layouts) > 1:
        first, other = list(layouts.values())[:2]
        raise SparsityError(
            f"All masked weights must be sharded over one mesh, got {first!r} and {other!r} over two. "
            f"{_SHARD_ROWS}."
        )
    name, weight = next(iter(split.items()))
    return _shards(weight, _row_dimension(name, weight))


def whole_shapes(weights: Mapping[str, Tensor]) -> Shapes:
    """Return the shapes of whole weights.

    Raises:
        SparsityError: As from `shards_of`.
    """
    shards_of(weights)
    return {name: weight.shape for name, weight in weights.items()}


def part_for(weight: Tensor, mask: Tensor) -> Tensor:
    """Return this process's part of a mask, whole or split, for a weight."""
    if is_sharded(mask) or not is_sharded(weight):
        return here(mask)
    shards = shards_of({"": weight})
    return mask if shards is None else shards.of(mask)


def as_shards(masks: Masks, weights: Mapping[str, Tensor]) -> Masks:
    """Return masks of this process's rows as parts of whole ones, split as their weights are."""
    return {name: _like(weights[name], mask) for name, mask in masks.items()}


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; of a split one every process has to ask, as its parts are gathered."""
    if not is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return gathered


def _like(weight: Tensor, part: Tensor) -> Tensor:
    if not is_sharded(weight):
        return part
    from torch.distributed.tensor import DTensor  # loaded already: the weight is one

    mesh, placements = _mesh(weight), weight.placements  # type: ignore[attr-defined]
    shape, stride = weight.shape, weight.stride()
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=shape, stride=stride)


def _mesh(weight: Tensor) -> Any:
    return weight.device_mesh  # type: ignore[attr-defined]


def _row_dimension(name: str, weight: Tensor) -> int | None:
    """Return over which dimension of its mesh a weight is split by rows; None if it is held whole."""
    placements = weight.placements  # type: ignore[attr-defined]
    rows = [number for number, placement in enumerate(placements) if _is_rows(placement)]
    if len(rows) > 1 or not all(_is_rows(p) or p.is_replicate() for p in placements):
        raise SparsityError(
            f"Masked weights must be split by rows over one dimension of the mesh, got {name!r} as "
            f"{', '.join(map(str, placements))}: masks of tensor parallel and other splits are not counted "
            f"yet. {_SHARD_ROWS}, or name such weights in `exclude`."
        )
    return rows[0] if rows else None


def _is_rows(placement: Any) -> bool:
    from torch.distributed.tensor import Shard

    return type(placement) is Shard and placement.dim == 0


def _shards(weight: Tensor, dimension: int | None) -> Shards:
    if dimension is None:
        return Shards(0, 1, lambda numbers: numbers)
    mesh, device = _mesh(weight), here(weight).device
    group = mesh.get_group(dimension)

    def sum_over(numbers: Tensor) -> Tensor:
        there = numbers.to(device, copy=True)
        torch.distributed.all_reduce(there, group=group)
        return there.cpu()

    shards = Shards(mesh.get_local_rank(dimension), mesh.size(dimension), sum_over)
    expected, held = shards.of(torch.empty(len(weight), device="meta")), here(weight)
    if len(expected) != len(held):
        raise SparsityError(
            f"Masked weights must be split as `torch.chunk` splits them, got {len(held)} rows of "
            f"{len(weight)} in part {shards.number} of {shards.count}. {_SHARD_ROWS}."
        )
    return shards


@contextmanager
def once_for_all(weights: Mapping[str, Tensor]) -> Iterator[bool]:
    """Tell which process does something for all that hold parts of weights; the others wait until it is done.

    Of ordinary weights every process does it for itself.

    Raises:
        SparsityError: On the others, if it fails on that one.
    """
    device = next((here(weight).device for weight in weights.values() if is_sharded(weight)), None)
    if device is None:
        yield True
        return
    failed = torch.ones(1, device=device)
    try:
        yield torch.distributed.get_rank() == 0
        failed.zero_()
    finally:
        torch.distributed.all_reduce(failed)  # no barrier: others would wait at it if this one has failed
    if failed:
        raise SparsityError("Process 0 has failed at what it does for all of them. Its own error says why.")


def total_of(tensors: Iterable[Tensor], shards: Shards | None) -> list[int]:
    """Count the entries of tensors that are not zero, on all processes that hold parts of them."""
    counts = [int(here(tensor).count_nonzero()) for tensor in tensors]
    return counts if shards is None else shards.total(counts)
