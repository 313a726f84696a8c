"""Ordinary layers to Dense-plus-Sparse ones and back."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_sparse.checks import (
    SparsityError,
    check_count,
    check_density,
    check_selection,
)
from lightning_sparse.functional.allocation import AllocationName, allocate
from lightning_sparse.layers.alphas import Alpha, check_alpha, starting_alphas
from lightning_sparse.layers.backends import Backend
from lightning_sparse.layers.base import compact_layers
from lightning_sparse.layers.offsets import Offset, OffsetName, offset_from_name
from lightning_sparse.layers.replacement import compact_layer, dense_layer, replace_
from lightning_sparse.layers.support import draw_support
from lightning_sparse.selection import match_overrides, matches_any, plain_name, select_weights
from lightning_sparse.types import Budgets

__all__ = ["convert_", "convertible_layers", "to_dense_", "unconverted_layers"]


def convert_(
    module: nn.Module,
    density: float,
    allocation: AllocationName = "epl",
    *,
    offset: Offset | OffsetName = "dct",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    density_overrides: Mapping[str, float] | None = None,
    alpha: Alpha | Mapping[str, Alpha] = 1.0,
    alpha_requires_grad: bool = True,
    backend: Backend = "auto",
    min_weights_per_layer: int = 1,
    generator: torch.Generator | int = 0,
    device: torch.device | str = "cpu",
) -> Budgets:
    """Replace linear layers and 2-d convolutions by ``alpha C + S`` with a random support, in place.

    S starts at zero; biases stay as they are. Layers that are zero throughout get alpha 0, unless a pattern
    of ``alpha`` says otherwise, so that what starts as nothing still does. Only layers whose type is exactly
    ``nn.Linear`` or ``nn.Conv2d`` are replaced (and ``out_proj`` of ``nn.MultiheadAttention``); a second call
    with the same selection changes nothing.

    Modules on the meta device work as well, and are how the dense net is never stored: the new layers are
    made on ``device``, with biases drawn as the ordinary layer's; `materialize_` makes the rest. Which layers
    would be zero is not known there: name their alpha.

    Args:
        module: Any module that holds such layers; before an optimizer is made.
        density: Share of all selected weights to keep in S, a fraction in (0, 1].
        allocation: How S's entries are shared out over the layers: "epl", "epf", "erk" or "uniform".
        offset: The matrix C: ``"dct"``, cropped to the layer's shape, ``"none"`` for plain sparse layers, the
            name of another one that is registered, or an `Offset`.
        include: Patterns (``fnmatch``) of weights to convert; without it, all linear and 2-d convolutional.
        exclude: Patterns of weights to leave alone.
        density_overrides: Density of S by pattern; the total stays.
        alpha: Scale of C: a number, "match_norm", or either by pattern (the last match wins; 1.0 elsewhere).
        alpha_requires_grad: Whether alpha is trained.
        backend: How the layers multiply: "materialize", "transform" or "auto".
        min_weights_per_layer: Entries that S has at least in each layer.
        generator: On the CPU, or a seed: the same support comes of it on every machine.
        device: Where layers on the meta device are made.

    Returns:
        Number of entries of S per weight, by the weight's name.

    Raises:
        SparsityError: If nothing is selected, a selected weight belongs to no layer that can be converted, is
            shared between layers or computed, a budget is out of reach, an argument is out of range, or
            "match_norm" meets a layer without values.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 4.

    Examples:
        >>> net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
        >>> convert_(net, density=0.01)
        {'0.weight': 1191, '2.weight': 1191}
    """
    _check_arguments(density, include, exclude, density_overrides, min_weights_per_layer, generator)
    check_alpha(alpha)
    offset = offset if isinstance(offset, Offset) else offset_from_name(offset)
    if done := _converted_before(module, include, exclude):
        return done
    layers = convertible_layers(module, include, exclude)
    shapes = {name: layer.weight.shape for name, layer in layers.items()}
    fixed = match_overrides(shapes, density_overrides)
    budgets = allocate(shapes, density, allocation, fixed=fixed, min_weights=min_weights_per_layer)
    alphas = starting_alphas({n: layer.weight for n, layer in layers.items()}, alpha, offset)
    draws = generator if isinstance(generator, torch.Generator) else torch.Generator().manual_seed(generator)
    supports = {name: draw_support(math.prod(shapes[name]), budgets[name], draws) for name in layers}
    options = {"offset": offset, "alpha_requires_grad": alpha_requires_grad, "backend": backend}
    new = {
        name: compact_layer(layer, supports[name], device, draws, alpha=alphas[name], **options)
        for name, layer in layers.items()
    }
    for name, layer in layers.items():  # only now that nothing can fail any more
        replace_(module, layer, new[name])
    return budgets


def _check_arguments(
    density: float,
    include: Sequence[str] | None,
    exclude: Sequence[str],
    density_overrides: Mapping[str, float] | None,
    min_weights_per_layer: int,
    generator: torch.Generator | int,
) -> None:
    """Refuse wrong values of `convert_`; what is not here is checked where it is used."""
    check_density("density", density)
    check_selection(include, exclude, density_overrides)
    check_count("min_weights_per_layer", min_weights_per_layer, 0)
    if not isinstance(generator, torch.Generator):
        check_count("generator", generator, 0, "Or give a `torch.Generator`.")


def to_dense_(module: nn.Module) -> list[str]:
    """Replace Dense-plus-Sparse layers by ordinary ones with the same weights, for tools that want these.

    Args:
        module: Any module that holds such layers; changed in place. Optimizers made before are of no use
            any more.

    Returns:
        Names of the layers replaced.

    Raises:
        SparsityError: If ``module`` itself is such a layer.

    Examples:
        >>> net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
        >>> _ = convert_(net, density=0.01)
        >>> to_dense_(net)
        ['0', '2']
        >>> net[2]
        Linear(in_features=300, out_features=10, bias=True)
    """
    layers = compact_layers(module)
    for layer in layers.values():
        replace_(module, layer, dense_layer(layer))
    return list(layers)


def _converted_before(module: nn.Module, include: Sequence[str] | None, exclude: Sequence[str]) -> Budgets:
    """Return the budgets of an earlier call with the same selection; empty if there was none."""
    done = {
        f"{path}.weight": layer.nnz
        for path, layer in compact_layers(module).items()
        if _selected(path, include, exclude)
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
        for path, layer in module.named_modules()
        if _is_convertible(layer)
        and _selected(path, include, exclude)
        and (include or _is_usual(module, layer.weight))
    ]


def _selected(path: str, include: Sequence[str] | None, exclude: Sequence[str]) -> bool:
    name = plain_name(f"{path}.weight")
    return (include is None or matches_any(name, include)) and not matches_any(name, exclude)


def convertible_layers(
    module: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the layers that would be converted by the names of their weights; warn of those left dense.

    Raises:
        SparsityError: If nothing is selected, or a selected weight belongs to no layer that can be converted,
            or to several.
    """
    weights = select_weights(module, include, exclude)
    owners = {name: _owners(module, weight) for name, weight in weights.items()}
    fit = {name: layers[0] for name, layers in owners.items() if _is_convertible(layers[0])}
    left = [name for name in weights if name not in fit]
    if (left and include is not None) or not fit:
        raise SparsityError(
            f"`include` must name weights of `nn.Linear` and `nn.Conv2d` themselves, got {left[0]!r} of "
            f"{type(owners[left[0]][0]).__name__}. Leave it out; `PruneAtInit` takes any weight."
        )
    if left:
        warnings.warn(
            f"Layers of other types than `nn.Linear` and `nn.Conv2d` stay dense: {', '.join(left[:3])} "
            f"({len(left)} in all); name them in `exclude` to say so.",
            stacklevel=3,
        )
    for name, layer in fit.items():
        _check_replaceable(module, name, layer, owners[name])
    return fit


def _is_convertible(layer: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    return type(layer) in (nn.Linear, nn.Conv2d, NonDynamicallyQuantizableLinear)


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
