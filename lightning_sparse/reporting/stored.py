"""How sparse the net in a file is, from the file alone: masks, compact layers, or zeros of the weights."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_sparse.checks import SparsityError
from lightning_sparse.files.masks import packed_in, unpacked
from lightning_sparse.files.reading import read_dict
from lightning_sparse.functional.hyperplane import size_in_words
from lightning_sparse.layers.offsets.state import OFFSET_KEY, offsets_in, shape_from_state
from lightning_sparse.reporting.layers import not_counted
from lightning_sparse.reporting.summary import BytesInFile, LayerSummary, NetSummary
from lightning_sparse.selection import layer_name, plain_name
from lightning_sparse.types import Masks

__all__ = ["StoredNet", "read_net"]

Kind = Literal["checkpoint", "ticket", "file of masks", "state dict"]


@dataclass(frozen=True)
class StoredNet:
    """What a file says of a net.

    Attributes:
        path: The file.
        kind: What it is.
        net: Its sparse weights, in the order of the file, or all if none is known to be sparse; bytes are
            those in the file.
        dense: The other weights of two or more dimensions: the file does not say which are of layers.
        epoch: Epoch of a checkpoint, from 0; ``None`` of other files.
        step: Optimizer steps until then.
        made_by: The callbacks that made the net sparse, each with its arguments.
        prunings: How many prunings were made and are planned, where a net is pruned on its way.
        projected: How many numbers were trained in the place of how many weights, where these moved in a
            hyperplane.
    """

    path: Path
    kind: Kind
    net: NetSummary
    dense: tuple[LayerSummary, ...] = ()
    epoch: int | None = None
    step: int | None = None
    made_by: tuple[str, ...] = ()
    prunings: tuple[int, int] | None = None
    projected: tuple[int, int] | None = None

    def with_flops_of(self, built: NetSummary) -> NetSummary:
        """Return a summary of the net itself, with the bytes in the file in the place of those in memory."""
        there = {layer.name: layer for layer in (*self.net.layers, *self.dense)}
        layers = [
            replace(layer, stored=found.stored, values=found.values, base=found.base)
            for layer in built.layers
            if (found := there.get(layer.name)) is not None
        ]
        file, more = self.net.file, _weight_bytes(self.net.layers) - _weight_bytes(layers)
        file = file and replace(file, others=file.others + more)
        return replace(built, layers=tuple(layers), file=file)

    def __str__(self) -> str:
        when = "" if self.epoch is None else f", epoch {self.epoch} (from 0), step {self.step:,}"
        lines = [f"Read: {self.path} ({self.kind}{when})."]
        if self.made_by:
            verb = "Found" if self.kind == "ticket" else "Made sparse"
            if self.projected is not None:
                lines.append(size_in_words(*self.projected))
                verb = "Trained"
            lines.append(f"{verb} by {' and '.join(self.made_by)}.")
        if self.prunings is not None and self.prunings[0] < self.prunings[1]:
            lines.append(f"It is on its way: {self.prunings[0]} of {self.prunings[1]} prunings are made.")
        return "\n".join(lines)


def read_net(path: str | Path, argument: str = "path") -> StoredNet:
    """Read from a file alone how sparse the net in it is.

    Args:
        path: A checkpoint, a ticket, a file of masks, or a saved state dict.
        argument: What errors call it.

    Raises:
        SparsityError: If there is no such file, if it is damaged, or if it holds neither weights nor masks.
    """
    content = read_dict(path, argument, mmap=is_zipfile(path))
    weights, packed = _distinct(_weights_in(content)), packed_in(content)
    masks: Masks = unpacked(packed, path, argument) if packed else {}
    of_masks = {name: _bytes_of(entry) for name, entry in packed.items()}
    if not weights and not masks and content and all(map(_is_mask, content.values())):
        masks, of_masks = content, {name: _bytes_of(mask) for name, mask in content.items()}
    found = [*_with_weights(weights, masks, of_masks), *_masks_alone(weights, masks, of_masks, content)]
    sparse = tuple(layer for layer in found if layer.storage != "dense")
    dense = tuple(layer for layer in found if layer.storage == "dense")
    if not found:
        raise SparsityError(
            f"`{argument}` must be a checkpoint, a ticket, a file of masks or a state dict, got "
            f"{str(path)!r}, which has no weights of two or more dimensions and no masks."
        )
    is_checkpoint = "state_dict" in content
    states = _states(content) if is_checkpoint else []
    others = sum(map(_bytes_of, weights.values())) - _weight_bytes(sparse or dense) if weights else 0
    optimizers = _bytes_of(content.get("optimizer_states")) if is_checkpoint else 0
    file = BytesInFile(Path(path).stat().st_size, others, optimizers)
    return StoredNet(
        Path(path),
        _kind(content, is_checkpoint, bool(weights)),
        NetSummary(sparse or dense, note=_not_counted(sparse, dense), file=file),
        dense if sparse else (),
        content.get("epoch", 0) if is_checkpoint else None,
        content.get("global_step", 0) if is_checkpoint else None,
        tuple(_makers(states, content)),
        next(_prunings(states), None),
        next(_projections(states), None),
    )


def _weight_bytes(layers: Iterable[LayerSummary]) -> int:
    """Return the bytes of layers that are in the state dict; masks are elsewhere."""
    return sum(layer.stored if "compact" in layer.storage else layer.values for layer in layers)


def _not_counted(sparse: Collection[LayerSummary], dense: Collection[LayerSummary]) -> str:
    sizes = {layer.name: layer.weights for layer in dense} if sparse else {}
    return not_counted(sizes, sum(layer.weights for layer in sparse)).strip()


def _kind(content: Mapping[str, Any], is_checkpoint: bool, has_weights: bool) -> Kind:
    if is_checkpoint:
        return "checkpoint"
    if has_weights:
        return "state dict"
    return "ticket" if "centroids" in content else "file of masks"


def _weights_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's state dict, or of a state dict that was saved by itself."""
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or (weights is content and all(map(_is_mask, content.values()))):
        return {}
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


def _distinct(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out weights that are tied to an earlier one: a file has them once."""
    found: dict[Any, str] = {}
    for name, value in weights.items():
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
        found.setdefault(place if value.numel() else name, name)
    return {name: weights[name] for name in found.values()}


def _with_weights(
    weights: Mapping[str, Tensor], masks: Masks, of_masks: Mapping[str, int]
) -> Iterator[LayerSummary]:
    """Yield compact layers, masked weights, and what else has a weight of two or more dimensions."""
    compact = offsets_in(weights)
    for key, value in weights.items():
        layer, _, last = key.rpartition(".")
        name = plain_name(key)
        if layer in compact:
            shape = shape_from_state(weights[f"{layer}.{OFFSET_KEY}"])
            if last == "values" and shape is not None:
                base, positions = (_bytes_of(weights.get(f"{layer}.{part}")) for part in ("base", "indices"))
                offset, values = compact[layer], _bytes_of(value)
                total, storage = values + positions + base, offset.layer_storage
                yield _row(plain_name(layer), shape, value.numel(), storage, total, values, base)
        elif name in masks:
            stored = _bytes_of(value) + of_masks[name]
            yield _row(name, value.shape, int(masks[name].sum()), "masked", stored, _bytes_of(value))
        elif value.is_floating_point() and value.dim() > 1 and "weight" in last:
            size = _bytes_of(value)
            yield _row(name, value.shape, int(value.count_nonzero()), "dense", size, size)


def _masks_alone(
    weights: Mapping[str, Tensor], masks: Masks, of_masks: Mapping[str, int], content: Mapping[str, Any]
) -> Iterator[LayerSummary]:
    """Yield masks without a weight beside them; a ticket has signs and two numbers of each."""
    there = {plain_name(key) for key in weights}
    parts = [part for part in (content.get("signs"), content.get("centroids")) if isinstance(part, Mapping)]
    for name, mask in masks.items():
        if name not in there:
            values = sum(_bytes_of(part.get(name)) for part in parts)
            yield _row(name, mask.shape, int(mask.sum()), "masked", values + of_masks[name], values)


def _row(
    name: str, shape: Any, kept: int, storage: str, stored: int, values: int, base: int = 0
) -> LayerSummary:
    return LayerSummary(
        layer_name(name), tuple(shape), shape.numel(), kept, storage, stored, values=values, base=base
    )


def _states(content: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the states of those callbacks that make nets sparse, each with the name of its class."""
    states = content.get("callbacks")
    return [
        (str(key).partition("{")[0], state)
        for key, state in (states.items() if isinstance(states, Mapping) else ())
        if isinstance(state, Mapping) and isinstance(state.get("config"), Mapping)
    ]


def _makers(states: list[tuple[str, Mapping[str, Any]]], content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the callbacks that made a net sparse, with their arguments; of a ticket who found it."""
    for name, state in states:
        yield f"{name}({_in_words(state['config'])})"
    if isinstance(found := content.get("provenance"), Mapping) and found:
        yield f"ASNISigmoidPruner({_in_words(found)})"


def _in_words(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items() if value is not None)


def _prunings(states: list[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[int, int]]:
    """Yield how many prunings of how many were made, where there is a path of them."""
    for _, state in states:
        if isinstance(state.get("path"), list) and isinstance(state.get("prunings"), int):
            yield state["prunings"], len(state["path"])


def _projections(states: list[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[int, int]]:
    """Yield how many numbers were trained for how many weights, where they moved in a hyperplane."""
    for _, state in states:
        theta, start = state.get("theta"), state.get("start")
        if isinstance(theta, Tensor) and isinstance(start, Tensor):
            yield theta.numel(), start.numel()


def _bytes_of(value: object) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _is_mask(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool
