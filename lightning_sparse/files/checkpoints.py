"""Modules out of checkpoints, without the callbacks that they were trained with."""

import glob
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
import torch
from torch import Tensor, nn

from lightning_sparse.layers import convert_
from lightning_sparse.layers.convertible import convertible_layers, unconverted_layers
from lightning_sparse.layers.offsets.state import OFFSET_KEY, offset_from_state
from lightning_sparse.layers.signal import ABOUT_SIGNAL
from lightning_sparse.selection import plain_name
from lightning_sparse.trainer.packages import LightningModule

__all__ = ["load_from_checkpoint"]

Module = TypeVar("Module", bound=LightningModule)


def load_from_checkpoint(module_class: type[Module], path: str | Path | IO[bytes], **kwargs: Any) -> Module:
    """Load a module that was trained with our callbacks, where they are not.

    Checkpoints of masked modules are vanilla, and loaded by ``module_class.load_from_checkpoint``, to which
    this then comes down. For converted ones layers are replaced by Dense-plus-Sparse ones first: which, and
    with how many values, the checkpoint says.

    Args:
        module_class: The LightningModule's class.
        path: A checkpoint, with or without the states of callbacks: a path, URL or open file.
        **kwargs: For ``module_class.load_from_checkpoint``: ``map_location``, ``strict``, ``weights_only``,
            ``hparams_file``, and hyperparameters that the checkpoint does not hold.

    Returns:
        The module, in training mode if its class makes it so; `to_dense_` turns its layers into
        ordinary ones with the same weights.
    """
    checkpoint = _read(path, kwargs.get("map_location") or "cpu", kwargs.get("weights_only") is not False)
    supports = _supports(checkpoint["state_dict"])
    if not supports:
        return module_class.load_from_checkpoint(path, **kwargs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found keys that are")
        module = module_class.load_from_checkpoint(path, **{**kwargs, "strict": False})
    with warnings.catch_warnings():
        for about in ("Frozen copies of layers", ABOUT_SIGNAL):  # weights are loaded right after
            warnings.filterwarnings("ignore", message=about)
        _convert_(module, supports, checkpoint)
    module.on_load_checkpoint(checkpoint)  # once more: it may change what is to be loaded
    strict = kwargs.get("strict")
    module.load_state_dict(
        checkpoint["state_dict"], strict=module.strict_loading if strict is None else strict
    )
    return module


def _read(path: str | Path | IO[bytes], map_location: Any, weights_only: bool) -> dict[str, Any]:
    """Read a checkpoint from wherever Lightning, which reads it once more, could."""
    is_url = isinstance(path, str) and "://" in path
    with fsspec.open(path, "rb") if is_url else nullcontext(path) as source:
        checkpoint: dict[str, Any] = torch.load(source, map_location, weights_only=weights_only)
    if not isinstance(path, str | Path):
        path.seek(0)
    return checkpoint


def _supports(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the positions of the values of all compact layers that a state dict holds, by layer."""
    ending = f".{OFFSET_KEY}"
    found: dict[str, Tensor] = {}
    for path in (key.removesuffix(ending) for key in weights if key.endswith(ending)):
        values, indices = weights.get(f"{path}.values"), weights.get(f"{path}.indices")
        if isinstance(values, Tensor) and isinstance(indices, Tensor) and values.shape == indices.shape:
            found[path] = indices
    return found


def _convert_(module: nn.Module, supports: Mapping[str, Tensor], checkpoint: Mapping[str, Any]) -> None:
    """Replace the layers at these places; support and number of values come with the weights."""
    options = _options(checkpoint)
    for path, indices in supports.items():
        if plain_name(path) not in unconverted_layers(module, ["*"]):
            continue  # loading says what is wrong with it, if anything is; or it is a copy of an earlier one
        name = glob.escape(plain_name(f"{path}.weight"))
        (layer,) = convertible_layers(module, [name]).values()
        offset = offset_from_state(checkpoint["state_dict"][f"{path}.{OFFSET_KEY}"].cpu())
        density = max(len(indices), 1) / layer.weight.numel()
        convert_(module, density, include=[name], offset=offset, **options)


def _options(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the layers were made, as far as weights do not say: from the callback that made them."""
    for state in checkpoint.get("callbacks", {}).values():
        config = state.get("config", {}) if isinstance(state, Mapping) and "backend" in state else {}
        if "alpha_requires_grad" in config:
            return {"backend": state["backend"], "alpha_requires_grad": config["alpha_requires_grad"]}
    return {}
