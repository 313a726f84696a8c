"""Masks in files of their own, and masks out of checkpoints."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_kind
from lightning_sparse.files.reading import read_dict
from lightning_sparse.files.record import with_record
from lightning_sparse.files.writing import write_whole
from lightning_sparse.functional.packing import pack_masks, unpack_masks
from lightning_sparse.functional.ranking import mask_at
from lightning_sparse.layers.offsets.state import OFFSET_KEY, offsets_in, shape_from_state
from lightning_sparse.layers.support import check_indices
from lightning_sparse.selection import plain_name
from lightning_sparse.types import Masks
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.shards import once_for_all

__all__ = ["load_masks", "packed_in", "save_masks", "states_in", "unpacked"]


def save_masks(module: nn.Module, path: str | Path) -> None:
    """Write the masks of a module to a file, as packed bits with checksums.

    Where weights are split over processes all of them have to call it, and the first writes.

    Args:
        module: A module that one of our callbacks has made sparse in this process, by masks or in compact
            layers. Layers of a dense matrix plus a sparse one have none.
        path: For ``PruneAtInit(FromFile(path))`` and ``load_masks``; `torch.load` reads it too. Its folder is
            made if it is not there.

    Raises:
        SparsityError: If the module has no masks, or no file can be written there.
    """
    check_kind("module", module, nn.Module)
    weights = {name: weight for name, weight in sparse_weights(module).items() if weight.prunes}
    masks = {name: weight.mask for name, weight in weights.items()}
    if not masks:
        raise SparsityError(
            "`module` must have masks, got none. Fit it with a callback that makes some, in this process."
        )
    with once_for_all({name: weight.parameter for name, weight in weights.items()}) as is_mine:
        if is_mine:
            write_whole(with_record({"masks": pack_masks(masks)}), path)


def load_masks(path: str | Path, argument: str = "path") -> Masks:
    """Read masks from a file of ``save_masks``, from a checkpoint, or from a saved dict of boolean tensors.

    Args:
        path: Nothing but tensors and plain values is read from it.
        argument: What errors call it: the caller's own name for it.

    Returns:
        Boolean mask by parameter name, on the CPU.

    Raises:
        SparsityError: If there is no such file, if it is damaged, if it lacks a mask that it says it holds,
            or if it holds no masks.
    """
    masks = _masks_in(read_dict(path, argument), path, argument)
    if not masks:
        raise SparsityError(
            f"`{argument}` {str(path)!r} holds no masks. Give a file of `save_masks`, a checkpoint of a "
            "sparse run (not `save_weights_only`), or a saved dict of boolean tensors by parameter name."
        )
    return masks


def unpacked(packed: dict[str, Any], path: str | Path, argument: str) -> Masks:
    """Return the masks that a file holds in bits.

    Raises:
        SparsityError: If they are not those that were written; it names the file.
    """
    try:
        return unpack_masks(packed)
    except SparsityError as error:
        raise SparsityError(f"`{argument}` {str(path)!r} is damaged: {error}") from None


def states_in(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what may hold masks: the states of a checkpoint's callbacks, and the content itself."""
    callbacks = content.get("callbacks")
    states = list(callbacks.values()) if isinstance(callbacks, dict) else []
    return [state for state in [*states, content] if isinstance(state, dict)]


def packed_in(content: dict[str, Any]) -> dict[str, Any]:
    """Return the packed masks that a checkpoint has in its callbacks' states, or a file by itself; or {}."""
    for state in states_in(content):
        packed = state.get("masks")
        if isinstance(packed, dict) and packed and all(isinstance(mask, dict) for mask in packed.values()):
            return packed
    return {}


def _masks_in(content: dict[str, Any], path: str | Path, argument: str) -> Masks:
    """Return the masks of a checkpoint (its callbacks' states), of a mask file, or of a plain dict."""
    if packed := packed_in(content):
        return unpacked(packed, path, argument)
    if isinstance(weights := content.get("state_dict"), dict) and (
        masks := _of_compact_layers(weights, path, argument)
    ):
        return masks
    masks = {name: mask for name, mask in content.items() if _is_mask(mask)}
    return masks if len(masks) == len(content) else {}


def _of_compact_layers(weights: dict[str, Any], path: str | Path, argument: str) -> Masks:
    """Return the masks of layers that hold what is kept and nothing else."""
    masks: Masks = {}
    for layer in [layer for layer, offset in offsets_in(weights).items() if offset.is_zero]:
        shape = shape_from_state(weights[f"{layer}.{OFFSET_KEY}"])
        indices = weights.get(f"{layer}.indices")
        if shape is not None and isinstance(indices, Tensor):
            try:
                check_indices(indices, shape.numel())
            except SparsityError as error:
                raise SparsityError(f"`{argument}` {str(path)!r} is damaged: {error}") from None
            masks[plain_name(f"{layer}.weight")] = mask_at(indices.long(), shape)
    return masks


def _is_mask(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool
