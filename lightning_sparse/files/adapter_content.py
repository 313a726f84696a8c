"""What a file of sparse fine-tuning holds: all that training has changed, and checksums of all else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.files.tensors import checksum
from lightning_sparse.functional.positions import pack_positions, unpack_positions
from lightning_sparse.layers.base import DensePlusSparse, compact_layers
from lightning_sparse.layers.draws import Draw, draw_again
from lightning_sparse.selection import matches_any, plain_name

__all__ = ["AdaptedLayer", "Adapter", "adapter_of", "from_file", "tensors_of", "to_file"]


@dataclass(frozen=True)
class AdaptedLayer:
    """A layer whose weight is W0 + S.

    Attributes:
        shape: Of the weight.
        dtype: Of W0.
        backend: How the layer multiplies.
        trained: Whether S is trained.
        draw: How its support was drawn, if it was; it may have moved since.
        drawn: Checksum of the support if it is still the one that was drawn: a file need not hold it.
        values: The entries of S.
        support: Where they are: ascending int64.
    """

    shape: torch.Size
    dtype: str
    backend: str
    trained: bool
    draw: Draw | None
    drawn: str | None
    values: Tensor
    support: Tensor


@dataclass(frozen=True)
class Adapter:
    """All that a net has beside the one that it was trained from.

    Attributes:
        layers: By name, in the order in which supports are drawn.
        trained: All other parameters that are trained, by name.
        buffers: Buffers by name.
        frozen: Checksums of all other parameters and buffers, by their names in a net without such layers.
        tied: Second names of parameters, and the first one of each.
    """

    layers: dict[str, AdaptedLayer]
    trained: dict[str, Tensor]
    buffers: dict[str, Tensor]
    frozen: dict[str, str]
    tied: dict[str, str]


def adapter_of(module: nn.Module, buffers: Sequence[str]) -> Adapter:
    """Return what a net with converted layers has beside the one that was converted.

    Args:
        module: Its converted layers all have the offset ``"pretrained"``.
        buffers: Patterns of the buffers that may have changed; of all others there will be checksums.
    """
    layers = compact_layers(module)
    again = draw_again({path: (layer.drawn, layer.shape, layer.nnz) for path, layer in layers.items()})
    tensors, tied = tensors_of(module)
    bases = {f"{path}.weight" for path in layers}
    rest = {name: tensor for name, tensor in tensors.items() if name not in bases}
    trained = {n: t for n, t in rest.items() if t.requires_grad}
    kept = {n: t for n, t in rest.items() if not isinstance(t, nn.Parameter) and matches_any(n, buffers)}
    frozen = {n: checksum(t) for n, t in tensors.items() if n not in trained and n not in kept}
    adapted = {path: _adapted(layer, again.get(path)) for path, layer in layers.items()}
    return Adapter(adapted, trained, kept, frozen, tied)


def _adapted(layer: DensePlusSparse, again: Tensor | None) -> AdaptedLayer:
    assert layer.base is not None
    support = layer.indices.detach().cpu().long()
    return AdaptedLayer(
        shape=layer.shape,
        dtype=str(layer.base.dtype),
        backend=layer.backend,
        trained=layer.values.requires_grad,
        draw=layer.drawn,
        drawn=None if again is None or not torch.equal(again, support) else checksum(support),
        values=layer.values,
        support=support,
    )


def tensors_of(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return parameters and persistent buffers of a module by the names that they have in an ordinary one.

    Returns:
        Tensors by name, each once; and the other names of parameters, with the first one of each. The W0 of a
        converted layer is its ``weight``; S is left out.
    """
    tensors: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in _named_tensors(module):
        if isinstance(tensor, nn.Parameter) and first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
        else:
            tensors[name] = tensor
    return tensors, tied


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, part in module.named_modules(remove_duplicate=False):
        prefix = f"{plain_name(path)}." if plain_name(path) else ""
        is_compact = isinstance(part, DensePlusSparse)
        for name, parameter in part._parameters.items():
            if parameter is not None and not (is_compact and name == "values"):
                yield prefix + ("weight" if is_compact and name == "base" else name), parameter
        for name, buffer in part._buffers.items():
            if buffer is not None and not is_compact and name not in part._non_persistent_buffers_set:
                yield prefix + name, buffer


def to_file(adapter: Adapter) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the plain values that a file holds."""
    tensors = {**adapter.trained, **adapter.buffers}
    records: dict[str, dict[str, Any]] = {}
    for path, layer in adapter.layers.items():
        tensors[f"{path}.values"] = layer.values
        if layer.drawn is None:
            tensors[f"{path}.positions"] = pack_positions(layer.support, layer.shape.numel())
        records[path] = {
            "shape": list(layer.shape),
            "dtype": layer.dtype,
            "backend": layer.backend,
            "trained": layer.trained,
            "draw": None if layer.draw is None else list(layer.draw),
            "drawn": layer.drawn,
        }
    names = {"buffers": list(adapter.buffers), "frozen": adapter.frozen, "tied": adapter.tied}
    return tensors, {"layers": records, **names}


def from_file(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> Adapter:
    """Return what `to_file` returned the tensors and plain values of.

    Raises:
        SparsityError: If supports are drawn otherwise than when they were saved.
    """
    rest, records = dict(tensors), content["layers"]
    values = {path: rest.pop(f"{path}.values") for path in records}
    shapes = {path: torch.Size(record["shape"]) for path, record in records.items()}
    draws = {path: record["draw"] and Draw(*record["draw"]) for path, record in records.items()}
    again = draw_again({path: (draws[path], shapes[path], len(values[path])) for path in records})
    layers = {}
    for path, record in records.items():
        packed = rest.pop(f"{path}.positions", None)
        support = again[path] if packed is None else unpack_positions(packed, shapes[path].numel())
        if packed is None and checksum(support) != record["drawn"]:
            raise SparsityError(
                f"`path` holds a seed for the support of {path!r}, from which this version of PyTorch draws "
                "another one. Load it with the version of then."
            )
        places = {"shape": shapes[path], "draw": draws[path], "values": values[path], "support": support}
        layers[path] = AdaptedLayer(**{**record, **places})
    buffers = {name: rest.pop(name) for name in content["buffers"]}
    return Adapter(layers, rest, buffers, content["frozen"], content["tied"])
