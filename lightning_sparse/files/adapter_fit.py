"""Whether a module is the net that an adapter was trained from."""

from collections.abc import Collection

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_choice
from lightning_sparse.files.adapter_content import AdaptedLayer, Adapter, tensors_of
from lightning_sparse.files.tensors import checksum
from lightning_sparse.layers.backends import BACKEND_ROWS
from lightning_sparse.layers.base import DensePlusSparse, compact_layers
from lightning_sparse.layers.convertible import unconverted_layers
from lightning_sparse.selection import layer_name, plain_name

__all__ = ["parts_by_name", "refuse_other_net", "refuse_unadapted"]

_RULE = "`module` must be the net that the adapter was trained from"


def refuse_unadapted(module: nn.Module) -> None:
    """Refuse a module without layers that train a change of their weight, or with layers of another kind.

    Raises:
        SparsityError: It names the layer.
    """
    layers = compact_layers(module)
    if not layers:
        raise SparsityError(
            "`module` must have layers with the offset 'pretrained', got none. Convert it first: "
            '`convert_(module, density, offset="pretrained")`.'
        )
    _refuse_other_offsets(layers)
    if module in layers.values():
        raise SparsityError(
            f"`module` must hold its converted layers, got a bare {type(module).__name__}. Save the module "
            "that holds it."
        )
    _refuse_meta(tensors_of(module)[0])


def refuse_other_net(module: nn.Module, adapter: Adapter) -> None:
    """Refuse a module that the adapter does not fit, to the last bit of its frozen weights.

    Raises:
        SparsityError: It names what is missing, too much, or of other values.
    """
    layers = compact_layers(module)
    _refuse_other_offsets(layers)
    if more := [name for name in layers if name not in adapter.layers]:
        raise SparsityError(
            f"{_RULE}, got one with {more[0]!r} converted, which the adapter leaves alone ({len(more)} such "
            "layers). Load it into a module as it was before."
        )
    tensors, tied = tensors_of(module)
    _refuse_other_names([*tensors, *tied], adapter)
    if tied != adapter.tied:
        name = min(tied.items() ^ adapter.tied.items())[0]
        raise SparsityError(
            f"{_RULE}, got one in which {name!r} is {'' if name in tied else 'not '}shared with another "
            f"parameter. {'Do not tie' if name in tied else 'Tie'} them first."
        )
    _refuse_meta(tensors)
    ordinary = set(unconverted_layers(module, ["*"]))
    parts = parts_by_name(module)
    for name, layer in adapter.layers.items():
        if name not in ordinary and name not in layers:
            raise SparsityError(
                f"{_RULE}, got {name!r} of {type(parts[name]).__name__}, which cannot be converted. Use the "
                "class of then."
            )
        _refuse_other_layout(name, tensors[f"{name}.weight"], layer)
    for name, tensor in {**adapter.trained, **adapter.buffers}.items():
        _refuse_other_kind(name, tensors[name], str(tensor.dtype), tuple(tensor.shape))
    _refuse_other_values(tensors, adapter)


def parts_by_name(module: nn.Module) -> dict[str, nn.Module]:
    """Return all submodules by the names that they have without ``torch.compile``."""
    return {plain_name(path): part for path, part in module.named_modules(remove_duplicate=False)}


def _refuse_other_offsets(layers: dict[str, DensePlusSparse]) -> None:
    for name, layer in layers.items():
        if layer.base is None:
            raise SparsityError(
                f"`module` must have no layers converted with another offset than 'pretrained', got {name!r} "
                f"with {layer.offset}. An adapter is a change of weights that are there."
            )


def _refuse_meta(tensors: dict[str, Tensor]) -> None:
    if waiting := [name for name, tensor in tensors.items() if tensor.is_meta]:
        raise SparsityError(
            f"`module` must have values, got {waiting[0]!r} on the meta device. Load the weights first."
        )


def _refuse_other_names(tensors: Collection[str], adapter: Adapter) -> None:
    names = {*adapter.frozen, *adapter.trained, *adapter.buffers, *adapter.tied}
    if missing := [name for name in sorted(names) if name not in tensors]:
        raise SparsityError(
            f"{_RULE}, got one without {missing[0]!r} ({len(missing)} such names).{_advice(names, tensors)}"
        )
    if more := [name for name in tensors if name not in names]:
        raise SparsityError(
            f"{_RULE}, got one with {more[0]!r}, which that net has not ({len(more)} such names). Use the "
            "class of then."
        )


def _advice(names: Collection[str], there: Collection[str]) -> str:
    """Say where names differ only by what stands before them; else what else may be wrong.

    >>> _advice(["fc.weight"], ["model.fc.weight", "head.weight"])
    ' It fits `module.model`: load it there.'
    >>> _advice(["model.fc.weight", "model.fc.bias"], ["fc.weight", "fc.bias"])
    ' It was saved from a module that has this one as `model`: save it by `save_adapter(module.model, path)`.'
    """
    shortest = min(names, key=len)
    for name in there:
        before = name.removesuffix(f".{shortest}")
        if before != name and all(f"{before}.{other}" in there for other in names):
            return f" It fits `module.{before}`: load it there."
    words = shortest.split(".")
    for i in range(1, len(words)):
        before = ".".join(words[:i])
        if all(name.startswith(f"{before}.") and name[len(before) + 1 :] in there for name in names):
            return (
                f" It was saved from a module that has this one as `{before}`: save it by "
                f"`save_adapter(module.{before}, path)`."
            )
    return " Use the class of then."


def _refuse_other_layout(name: str, weight: Tensor, layer: AdaptedLayer) -> None:
    check_choice("backend", layer.backend, ("auto", *BACKEND_ROWS))
    _refuse_other_kind(name, weight, layer.dtype, tuple(layer.shape))


def _refuse_other_kind(name: str, tensor: Tensor, dtype: str, shape: tuple[int, ...]) -> None:
    if (str(tensor.dtype), tuple(tensor.shape)) != (dtype, shape):
        raise SparsityError(
            f"{_RULE}, got {name!r} of shape {tuple(tensor.shape)} and {tensor.dtype}, which had {shape} and "
            f"{dtype}. Build it, and load its weights, as it was."
        )


def _refuse_other_values(tensors: dict[str, Tensor], adapter: Adapter) -> None:
    """Compare all that is frozen; last, as it takes the longest."""
    others = [name for name, expected in adapter.frozen.items() if checksum(tensors[name]) != expected]
    if others:
        raise SparsityError(
            f"{_RULE}, got other numbers in {layer_name(others[0])!r} ({len(others)} of "
            f"{len(adapter.frozen)} frozen tensors). Load the weights that it was trained from first."
        )
