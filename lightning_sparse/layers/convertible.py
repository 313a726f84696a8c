"""Which layers can be converted, which are, and which are copies of those."""

import glob
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.isolation import differentiable
from lightning_sparse.functional.shards.layout import is_sharded, reshard_
from lightning_sparse.layers.base import compact_layers
from lightning_sparse.layers.copies import converted_copies, frozen_copies
from lightning_sparse.layers.ordinary import CONVERTIBLE, Convertible, is_convertible
from lightning_sparse.selection import matches_any, plain_name, select_weights, some_names
from lightning_sparse.types import Budgets

__all__ = [
    "Convertible",
    "convertible_layers",
    "copies_of",
    "frozen_too",
    "layers_converted_before",
    "unconverted_layers",
]


def layers_converted_before(
    module: nn.Module, include: Sequence[str] | None, exclude: Sequence[str]
) -> Budgets:
    """Return the budgets of an earlier call with the same selection; empty if there was none."""
    copies = converted_copies(module)
    done = {
        f"{path}.weight": layer.nnz
        for path, layer in compact_layers(module).items()
        if _selected(path, include, exclude) and path not in copies
    }
    still = unconverted_layers(module, include, exclude)
    if done and still:
        raise SparsityError(
            f"`module` must be converted in one call per selection, got {len(done)} layers converted before "
            f"and {still[0]!r} not. Name the others in `include`, or make them before the first call."
        )
    return done


def unconverted_layers(
    module: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> list[str]:
    """Return the selected layers that could be converted and are not, by name; there may be none."""
    return [
        path
        for path, layer in _ordinary_layers(module).items()
        if _selected(path, include, exclude) and (include or _is_usual(module, layer.weight))
    ]


@contextmanager
def frozen_too(
    module: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> Iterator[None]:
    """Let weights be selected for a while whether they are frozen or not, but for frozen copies of others."""
    ordinary = _ordinary_layers(module)
    copies = {id(ordinary[path].weight) for path in _copies_by_path(module, include, exclude)}
    with differentiable(p for p in module.parameters() if p.is_floating_point() and id(p) not in copies):
        yield


def _selected(path: str, include: Sequence[str] | None, exclude: Sequence[str]) -> bool:
    name = f"{path}.weight"
    return (include is None or matches_any(name, include)) and not matches_any(name, exclude)


def convertible_layers(
    module: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, Convertible]:
    """Return the layers that would be converted by the names of their weights; warn of those left dense.

    Raises:
        SparsityError: If nothing is selected, or a selected weight belongs to no layer that can be converted,
            or to several, or if it is split over processes.
    """
    reshard_(module)
    copies = [glob.escape(f"{path}.weight") for path in _copies_by_path(module, include, exclude)]
    weights = select_weights(module, include, [*exclude, *copies])
    if split := [name for name, weight in weights.items() if is_sharded(weight)]:
        raise SparsityError(
            f"Layers to be replaced must hold their weights whole, got {split[0]!r}, which is split over "
            "processes. Use masks (`storage='masked'`), or do not shard the module."
        )
    owners = {name: _owners(module, weight) for name, weight in weights.items()}
    fit = {name: layers[0] for name, layers in owners.items() if is_convertible(layers[0])}
    left = [name for name in weights if name not in fit]
    if (left and include is not None) or not fit:
        raise SparsityError(
            f"`include` must name weights of {CONVERTIBLE} themselves, got {left[0]!r} of "
            f"{type(owners[left[0]][0]).__name__}. Leave it out; masks (`storage='masked'`) take any weight."
        )
    if left:
        warnings.warn(
            f"Layers of other types than {CONVERTIBLE} stay dense: {_some_of(weights, left)}; name them in "
            "`exclude` to say so.",
            stacklevel=3,
        )
    for name, layer in fit.items():
        _check_replaceable(module, name, layer, owners[name])
    return fit


def _some_of(weights: Mapping[str, Tensor], names: Sequence[str]) -> str:
    """Return a few of the names, how many there are, and their share of all these weights.

    >>> import torch
    >>> _some_of({"rnn": torch.ones(3, 4), "fc": torch.ones(4, 2)}, ["rnn"])
    'rnn (1 in all, 60% of the selected weights)'
    """
    share = sum(weights[name].numel() for name in names) / sum(weight.numel() for weight in weights.values())
    return f"{some_names(names)} ({len(names)} in all, {100 * share:.3g}% of the selected weights)"


def _copies_by_path(
    module: nn.Module, include: Sequence[str] | None, exclude: Sequence[str]
) -> dict[str, str]:
    """Return the frozen copies of selected layers and their originals, by path; not those in ``exclude``."""
    layers = _ordinary_layers(module)
    frozen = {path: layer for path, layer in layers.items() if not layer.weight.requires_grad}
    return frozen_copies(
        {path: layer for path, layer in frozen.items() if _selected(path, None, exclude)},
        {p: one for p, one in layers.items() if p not in frozen and _selected(p, include, exclude)},
    )


def copies_of(
    module: nn.Module,
    layers: Mapping[str, nn.Module],
    include: Sequence[str] | None,
    exclude: Sequence[str],
) -> list[tuple[Convertible, str]]:
    """Return the frozen copies of these layers, each with the name of its original's weight."""
    pairs = _copies_by_path(module, include, exclude)
    ordinary = _ordinary_layers(module)
    return [
        (ordinary[path], f"{original}.weight")
        for path, original in pairs.items()
        if f"{original}.weight" in layers
    ]


def _ordinary_layers(module: nn.Module) -> dict[str, Convertible]:
    return {plain_name(path): layer for path, layer in module.named_modules() if is_convertible(layer)}


def _is_usual(module: nn.Module, weight: Tensor) -> bool:
    """Tell whether a weight is selected without being named: trained, and not shared with an embedding."""
    return weight.requires_grad and len(_owners(module, weight)) == 1


def _owners(module: nn.Module, weight: Tensor) -> list[nn.Module]:
    """Return the modules that hold a parameter, each once."""
    return [layer for layer in module.modules() if any(p is weight for p in layer._parameters.values())]


def _check_replaceable(module: nn.Module, name: str, layer: nn.Module, owners: Sequence[nn.Module]) -> None:
    if layer is module:
        raise SparsityError(
            f"`module` must hold the layers to convert, got a bare {type(layer).__name__}, which cannot be "
            "replaced in place. Wrap it: `nn.Sequential(layer)`."
        )
    if len(owners) > 1:
        raise SparsityError(
            f"`exclude` must name weights that layers share, got {name!r} selected, of {len(owners)} layers."
        )
