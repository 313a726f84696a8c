"""The net as a small file: of sparse weights what is not zero, and where it lies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_choice
from lightning_sparse.export.base import ExportFormat, register_format
from lightning_sparse.export.loading import KIND, VERSION
from lightning_sparse.files.tensors import write_tensors
from lightning_sparse.functional.skips import pack_skips
from lightning_sparse.layers.dense_state import dense_state_dict
from lightning_sparse.layers.offsets.state import OFFSET_KEY, offsets_in
from lightning_sparse.selection import plain_name

__all__ = ["SparseTensors"]

_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_RECORD = 200  # bytes that names, shapes and checksums of a sparse tensor take beside those of a dense one
_OFFSETS = ("dense", "small")


@register_format
@dataclass(frozen=True)
class SparseTensors(ExportFormat):
    """A small safetensors file: of each weight what is not zero, and where; nine lines of Python load it.

    A tensor ``w`` with enough zeros is stored as ``w.values``, what is not zero in row-major order, and
    ``w.code``, where that lies (`functional.skips`); all others as they are, tied ones once. Under
    ``lightning_sparse`` in the metadata stand, as JSON, the shapes of sparse tensors, the names of tied ones,
    and checksums.

    A layer of DCTpS, or of sparse fine-tuning, is ``alpha C + S``, and so not sparse: it is written as a
    dense weight, or small, and then only `load_exported` reads it.

    Args:
        offsets: How such layers are written: ``"dense"`` or ``"small"``.
    """

    name = "safetensors"
    suffix = ".safetensors"
    calls_net = False
    loading = "net.load_state_dict(lightning_sparse.load_exported({path!r}))"

    offsets: str = field(
        default="dense",
        metadata={
            "help": "how layers of DCTpS are written: dense, or small, which needs this package to load"
        },
    )

    def __post_init__(self) -> None:
        check_choice("offsets", self.offsets, _OFFSETS)

    def write(self, module: nn.Module, path: Path) -> list[str]:
        """Write the tensors, each once, with checksums."""
        state = dense_state_dict(module)
        parts = _offset_layers(module)
        said = []
        if parts and self.offsets == "dense":
            said.append(
                f"{len(parts)} layers with a dense part, such as {next(iter(parts))!r}, are written as dense "
                "weights; the option `offsets` small keeps them small, and needs lightning_sparse to load."
            )
            parts = {}
        write_tensors(*_content(state, parts), path, KIND, VERSION)
        return said


def _content(
    state: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what is written: tensors by name, and plain values."""
    tensors: dict[str, Tensor] = {}
    sparse: dict[str, list[int]] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    _check_tensors(state)
    small = {f"{path}.weight" for path in parts}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and first.setdefault(place, name) != name:
            tied[name] = first[place]
        elif name not in small:
            coded = _coded(tensor)
            sparse |= {} if coded is None else {name: list(tensor.shape)}
            _add_(tensors, {name: tensor} if coded is None else _under(name, coded))
    for path, part in parts.items():
        if f"{path}.weight" not in tied:
            _add_(tensors, _under(path, part))
    layers = [path for path in parts if f"{path}.weight" not in tied]
    return tensors, {"sparse": sparse, "tied": tied, "offset_layers": layers}


def _check_tensors(state: Mapping[str, Any]) -> None:
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise SparsityError(
            f"`module` must have a state dict of tensors for the format 'safetensors', got {others[0]!r} of "
            f"type {type(state[others[0]]).__name__}. Use the format 'dense'."
        )


def _coded(tensor: Tensor) -> dict[str, Tensor] | None:
    """Return what is not zero and where it lies; ``None`` where the tensor itself takes no more."""
    if tensor.dtype not in _NUMBERS or tensor.nbytes <= _RECORD:
        return None
    flat = tensor.detach().reshape(-1)
    positions = flat.nonzero()[:, 0]
    values = flat[positions]
    if values.nbytes + _RECORD >= tensor.nbytes:
        return None
    code = pack_skips(positions, flat.numel())
    smaller = values.nbytes + code.nbytes + _RECORD < tensor.nbytes
    return {"values": values, "code": code} if smaller else None


def _under(name: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{part}": tensor for part, tensor in parts.items()}


def _add_(tensors: dict[str, Tensor], new: Mapping[str, Tensor]) -> None:
    if taken := sorted(tensors.keys() & new.keys()):
        raise SparsityError(
            f"`module` must not have a parameter of the name {taken[0]!r}, which the file needs for parts of "
            "another one. Rename it."
        )
    tensors.update(new)


def _offset_layers(module: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return what layers with an offset have in the state dict, but for biases; positions are coded."""
    state = {plain_name(name): value for name, value in module.state_dict().items()}
    found = {path: offset for path, offset in offsets_in(state).items() if not offset.is_zero}
    return {path: dict(_parts_of(state, path)) for path in found}


def _parts_of(state: Mapping[str, Tensor], path: str) -> Iterator[tuple[str, Tensor]]:
    for key in ("values", "alpha", "base", OFFSET_KEY):
        if f"{path}.{key}" in state:
            yield key, state[f"{path}.{key}"]
    indices = state[f"{path}.indices"].cpu().long()
    yield "code", pack_skips(indices, int(indices[-1]) + 1 if len(indices) else 0)
