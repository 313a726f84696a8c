"""The sparse layers of a net, from a checkpoint or from the net itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.files.masks import packed_in, unpacked
from lightning_sparse.files.reading import read_dict
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.layers.offsets.state import OFFSET_KEY, offsets_in, shape_from_state
from lightning_sparse.layers.support import check_indices
from lightning_sparse.selection import layer_name, plain_name
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights

__all__ = ["Support", "supports_in_checkpoint", "supports_of_module"]


@dataclass(frozen=True)
class Support:
    """The connections of one layer.

    Attributes:
        parameter: Name of its weight.
        shape: Of the whole weight.
        positions: Flat positions of the connections, ascending, on the CPU.
        values: How strong they are; empty if that is not known.
        stored_as: ``"masked"``, ``"compact"``, or with a dense part before it, as in ``"dct + compact"``.
        prunes: Whether the other entries are zero, and not those of a dense part.
        item: Bytes of one value, as the net holds it.
    """

    parameter: str
    shape: tuple[int, ...]
    positions: Tensor
    values: Tensor
    stored_as: str
    prunes: bool
    item: int = 4

    @property
    def name(self) -> str:
        """Name of the layer."""
        return layer_name(self.parameter)

    @property
    def weights(self) -> int:
        """Number of entries of the whole weight."""
        return prod(self.shape)

    @property
    def kept(self) -> int:
        """Number of connections."""
        return len(self.positions)


def supports_of_module(module: nn.Module) -> list[Support]:
    """Return the sparse layers of a net, in its order."""
    place = {plain_name(path): i for i, (path, _) in enumerate(module.named_modules())}
    found = [_of_weight(weight) for weight in sparse_weights(module).values()]
    return sorted(found, key=lambda one: place.get(one.parameter.rpartition(".")[0], len(place)))


def supports_in_checkpoint(path: Path) -> list[Support]:
    """Return the sparse layers in a checkpoint, in the order of its weights; empty if there are none.

    Raises:
        SparsityError: If the file is damaged.
    """
    content = read_dict(path, "RUN")
    state: Mapping[str, Any] = content.get("state_dict") or {}
    weights = {plain_name(name): value for name, value in state.items()}
    found = [*_masked(content, weights, path), *_compact(state)]
    order = {layer_name(name).removesuffix(".values"): i for i, name in enumerate(weights)}
    return sorted(found, key=lambda one: order.get(one.name, len(order)))


def _of_weight(weight: SparseWeight) -> Support:
    positions, values = weight.positions.detach().cpu(), weight.active.detach().float().cpu()
    item = weight.parameter.element_size()
    return Support(weight.name, tuple(weight.shape), positions, values, weight.stored_as, weight.prunes, item)


def _masked(content: dict[str, Any], weights: Mapping[str, Any], path: Path) -> Iterable[Support]:
    packed = packed_in(content)
    for name, mask in (unpacked(packed, path, "RUN") if packed else {}).items():
        positions, weight = positions_of(mask), weights.get(name)
        if isinstance(weight, Tensor) and weight.shape == mask.shape:
            values = weight.detach().reshape(-1)[positions]
        else:
            values = positions.new_zeros(0).float()
        item = values.element_size()
        yield Support(name, tuple(mask.shape), positions, values.float(), "masked", True, item)


def _compact(state: Mapping[str, Any]) -> Iterable[Support]:
    for path, offset in offsets_in(state).items():
        shape = shape_from_state(state[f"{path}.{OFFSET_KEY}"])
        indices, values = state.get(f"{path}.indices"), state.get(f"{path}.values")
        if shape is None or not isinstance(indices, Tensor) or not isinstance(values, Tensor):
            raise SparsityError(f"`RUN` has a checkpoint without positions of {path!r}. Use another one.")
        check_indices(indices, shape.numel())
        name = plain_name(f"{path}.weight")
        numbers = (indices.long(), values.float())
        words, item = offset.layer_storage, values.element_size()
        yield Support(name, tuple(shape), *numbers, words, offset.is_zero, item)
