"""Modules out of checkpoints, without the callbacks that they were trained with."""

import glob
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, TypeVar

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.files.masks import packed_in, unpacked
from lightning_sparse.files.reading import foreign_class, opened, read_file, shown_source
from lightning_sparse.layers import convert_
from lightning_sparse.layers.convertible import convertible_layers, unconverted_layers
from lightning_sparse.layers.offsets.state import OFFSET_KEY, describes_offset, offset_from_state
from lightning_sparse.layers.signal import ABOUT_SIGNAL
from lightning_sparse.selection import plain_name
from lightning_sparse.trainer.packages import LightningModule
from lightning_sparse.weights.state import state_of
from lightning_sparse.weights.unmoved import NOBODY

__all__ = ["load_from_checkpoint", "restore_"]

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

    Raises:
        SparsityError: If the file is damaged, is no checkpoint, lacks something that it says it holds, or
            holds objects of other classes, which are only read if ``weights_only=False`` says so, or if
            the class reads them so by itself.
    """
    checkpoint = _read(module_class, path, kwargs)
    supports = _supports(checkpoint["state_dict"], shown_source(path))
    if not supports:
        return _load(module_class, path, kwargs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found keys that are")
        module = _load(module_class, path, {**kwargs, "strict": False})
    _fill_(module, supports, checkpoint, kwargs.get("strict"))
    return module


def restore_(module: LightningModule, path: str | Path | IO[bytes]) -> None:
    """Give a module that was built anew the weights of a checkpoint, and its masks.

    What is compact there becomes so here. Masks are known to the module afterwards, as to one that was fitted
    in this process: kept entries that happen to be zero count as kept.

    Args:
        module: The net as its class makes it; changed in place.
        path: A checkpoint of tensors and plain values, with or without the states of callbacks.

    Raises:
        SparsityError: If the file is damaged, is no checkpoint, or lacks something that it says it holds.
        RuntimeError: If it is of another net.
    """
    checkpoint = _read(type(module), path, {"weights_only": True})
    if next(module.parameters(), None) is None:
        module.configure_model()
    _fill_(module, _supports(checkpoint["state_dict"], shown_source(path)), checkpoint, None)
    if packed := packed_in(checkpoint):
        state_of(module).install_(module, unpacked(packed, str(path), "path"), NOBODY)


def _fill_(
    module: LightningModule, supports: Mapping[str, Tensor], checkpoint: dict[str, Any], strict: bool | None
) -> None:
    """Replace the layers that have these supports, and load the weights."""
    with warnings.catch_warnings():
        for about in ("Frozen copies of layers", ABOUT_SIGNAL):  # weights are loaded right after
            warnings.filterwarnings("ignore", message=about)
        _convert_(module, supports, checkpoint)
    module.on_load_checkpoint(checkpoint)  # it may change what is to be loaded
    strict = getattr(module, "strict_loading", True) if strict is None else strict  # since Lightning 2.2
    module.load_state_dict(checkpoint["state_dict"], strict=strict)


def _load(module_class: type[Module], path: str | Path | IO[bytes], options: Mapping[str, Any]) -> Module:
    """Let the class load the file, without ``weights_only`` if it settles that by itself."""
    try:
        return module_class.load_from_checkpoint(path, **options)
    except TypeError as error:  # got two of them, or takes none: either way it has read nothing yet
        if "weights_only" not in options or "'weights_only'" not in str(error):
            raise
    rest = {name: value for name, value in options.items() if name != "weights_only"}
    return module_class.load_from_checkpoint(path, **rest)


def _read(
    module_class: type[Module], path: str | Path | IO[bytes], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Read a checkpoint from wherever Lightning, which reads it once more, could."""
    device, safely = options.get("map_location") or "cpu", options.get("weights_only")
    try:
        content = read_file(path, "path", map_location=device, weights_only=safely is not False)
    except UnpicklingError as error:
        refusal = SparsityError(
            f"`path` {shown_source(path)} holds {foreign_class(error)}, neither a tensor nor a plain value. "
            "If you trust the file, give `weights_only=False`."
        )
        if safely is not None:
            raise refusal from None
        try:  # a class that reads such files by itself has run what is in this one, and may again
            with nullcontext() if isinstance(path, str | Path) else opened(path):
                _load(module_class, path, {**options, "strict": False})
        except UnpicklingError:
            raise refusal from None
        content = read_file(path, "path", map_location=device, weights_only=False)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise SparsityError(
            f"`path` {shown_source(path)} is no checkpoint of a Trainer: it has no 'state_dict'. Give one "
            "that Lightning wrote."
        )
    return content


def _supports(weights: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the positions of the values of all compact layers that a state dict holds, by layer."""
    ending = f".{OFFSET_KEY}"
    found: dict[str, Tensor] = {}
    for path in (key.removesuffix(ending) for key in weights if key.endswith(ending)):
        values, indices = weights.get(f"{path}.values"), weights.get(f"{path}.indices")
        if isinstance(values, Tensor) and isinstance(indices, Tensor) and values.shape == indices.shape:
            found[path] = indices
        elif describes_offset(weights[path + ending]):
            raise SparsityError(
                f"`path` {source} must have as many values as positions for the layer {path!r}, got "
                f"{_count(values)} and {_count(indices)}. Use another file."
            )
    return found


def _count(numbers: object) -> str:
    return str(numbers.numel()) if isinstance(numbers, Tensor) else "none"


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
    callbacks = checkpoint.get("callbacks")
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        config = state.get("config") if isinstance(state, Mapping) and "backend" in state else None
        if isinstance(config, Mapping) and "alpha_requires_grad" in config:
            return {"backend": state["backend"], "alpha_requires_grad": config["alpha_requires_grad"]}
    return {}
