"""Files of the format ``"safetensors"``, read back as ordinary state dicts."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from lightning_sparse.files.held import held_state
from lightning_sparse.files.tensors import read_tensors
from lightning_sparse.functional.skips import unpack_skips
from lightning_sparse.layers.dense_state import dense_state_dict

__all__ = ["KIND", "VERSION", "load_exported"]

KIND, VERSION = "sparse state dict", 1
"""What a file says that it is."""


def load_exported(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict of a file that `export` wrote in the format ``"safetensors"``.

    Args:
        path: The file.

    Returns:
        Tensors by name, dense and on the CPU, for ``load_state_dict`` of the module's untouched class. Tied
        weights are one tensor.

    Raises:
        SparsityError: If there is no such file, or it is another one, newer, or damaged.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from torch import nn
        >>> from lightning_sparse import sparsify_
        >>> from lightning_sparse.export import export
        >>> net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
        >>> _ = sparsify_(net, "erk", density=0.05)
        >>> with TemporaryDirectory() as folder:
        ...     file = export(net, f"{folder}/net", "safetensors")
        ...     state = load_exported(file)
        >>> torch.equal(state["0.weight"], net[0].weight)
        True
    """
    tensors, content = read_tensors(Path(path), KIND, VERSION)
    for name, shape in content["sparse"].items():
        values, code = tensors.pop(f"{name}.values"), tensors.pop(f"{name}.code")
        weight = torch.zeros(shape, dtype=values.dtype)
        tensors[name] = weight.put_(unpack_skips(code, weight.numel()), values)
    state = _with_offsets(tensors, content["offset_layers"]) if content["offset_layers"] else tensors
    return {**state, **{name: state[first] for name, first in content["tied"].items()}}


def _with_offsets(tensors: Mapping[str, Tensor], paths: list[str]) -> dict[str, Tensor]:
    """Return the state dict with the dense weights of layers that are written small."""
    state = dict(tensors)
    for path in paths:
        code = state.pop(f"{path}.code")
        state[f"{path}.indices"] = unpack_skips(code, 2**62)
    return dense_state_dict(held_state(state))
