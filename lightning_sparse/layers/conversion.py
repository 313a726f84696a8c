"""Ordinary layers to Dense-plus-Sparse ones and back."""

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_count, check_density, check_selection
from lightning_sparse.functional.allocation import AllocationName, allocate
from lightning_sparse.layers.alphas import Alpha, check_alpha, starting_alphas
from lightning_sparse.layers.backends import Backend
from lightning_sparse.layers.base import DensePlusSparse, compact_layers
from lightning_sparse.layers.convertible import (
    Convertible,
    convertible_layers,
    copies_of,
    layers_converted_before,
)
from lightning_sparse.layers.draws import Draw, draw_supports
from lightning_sparse.layers.offsets import Offset, OffsetName, offset_from_name
from lightning_sparse.layers.replacement import compact_layer, dense_layer, replace_
from lightning_sparse.layers.signal import advice_on_signal
from lightning_sparse.selection import layer_name, match_overrides, plain_name
from lightning_sparse.types import Budgets

__all__ = ["convert_", "convert_alike_", "merge_", "replace_layers_", "to_dense_"]


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
    """Replace linear and convolutional layers by ``alpha C + S`` with a random support, in place.

    S starts at zero, or, without an offset, with what the layer's weight has there: a sparse layer that is
    stored as k values and k positions. Biases stay as they are. Layers that are zero throughout get alpha 0,
    unless a pattern of ``alpha`` says otherwise, so that what starts as nothing still does. Only layers whose
    type is exactly ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d`` are replaced (and
    ``out_proj`` of ``nn.MultiheadAttention``); a warning names the others. A second call with the same
    selection changes nothing. Frozen copies of layers, as in the target net of a momentum method, get the
    same support, alpha and values, with a warning that names them; they count for no budget.

    Modules on the meta device work as well, and are how the dense net is never stored: the new layers are
    made on ``device``, with biases drawn as the ordinary layer's; `materialize_` makes the rest. Which layers
    would be zero is not known there: name their alpha.

    Args:
        module: Any module that holds such layers; before an optimizer is made.
        density: Share of all selected weights to keep in S, a fraction in (0, 1].
        allocation: How S's entries are shared out over the layers: "epl", "epf", "erk" or "uniform".
        offset: The matrix C: ``"dct"``, cropped to the layer's shape, ``"none"`` for plain sparse layers,
            ``"pretrained"`` for the layer's own weight, frozen, the name of another one that is registered,
            or an `Offset`.
        include: Patterns (``fnmatch``) of weights to convert; without it, all linear and convolutional.
        exclude: Patterns of weights to leave alone.
        density_overrides: Density of S by pattern; the total stays.
        alpha: Scale of C: a number, "match_norm", or either by pattern (the last match wins; 1.0 elsewhere).
        alpha_requires_grad: Whether alpha is trained.
        backend: How the layers multiply: "materialize", "transform", "kernels" or "auto".
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
    if done := layers_converted_before(module, include, exclude):
        return done
    layers = convertible_layers(module, include, exclude)
    copies = copies_of(module, layers, include, exclude)
    shapes = {name: layer.weight.shape for name, layer in layers.items()}
    fixed = match_overrides(shapes, density_overrides)
    budgets = allocate(shapes, density, allocation, fixed=fixed, min_weights=min_weights_per_layer)
    weights = {name: layer.weight for name, layer in layers.items()}
    alphas = starting_alphas(weights, alpha, offset)
    if advice := advice_on_signal(weights, alpha, offset):
        warnings.warn(advice, stacklevel=2)
    draws = generator if isinstance(generator, torch.Generator) else torch.Generator().manual_seed(generator)
    drawn = Draw(draws.initial_seed(), "equal_rows" if allocation == "epf" else "any")
    replace_layers_(
        module,
        layers,
        draw_supports(shapes, budgets, drawn.kind, draws),
        draws,
        copies=copies,
        alphas=alphas,
        device=device,
        drawn=drawn,
        offset=offset,
        alpha_requires_grad=alpha_requires_grad,
        backend=backend,
    )
    return budgets


def replace_layers_(
    module: nn.Module,
    layers: Mapping[str, Convertible],
    supports: Mapping[str, Tensor],
    draws: torch.Generator,
    *,
    copies: Sequence[tuple[Convertible, str]] = (),
    alphas: Mapping[str, float] | None = None,
    device: torch.device | str = "cpu",
    drawn: Draw | None = None,
    **options: Any,
) -> None:
    """Replace layers by Dense-plus-Sparse ones with given supports; only once all of them could be made.

    Args:
        module: Holds the layers.
        layers: Those to replace, by the name of their weight.
        supports: Flat positions of the entries of S, by the same names.
        draws: For biases and values of layers on the meta device.
        copies: Frozen copies of such layers, each with the name of its original's weight.
        alphas: Scale of the offset by the same names; 1 without it.
        device: Where layers on the meta device are made.
        drawn: How the supports were drawn, if they were.
        **options: ``offset``, ``alpha_requires_grad`` and ``backend``, as the layers have them.
    """
    scales = alphas or dict.fromkeys(layers, 1.0)
    new = [
        (old, compact_layer(old, supports[name], device, draws, alpha=scales[name], **options))
        for old, name in [*((layer, name) for name, layer in layers.items()), *copies]
    ]
    for _, original in new[: len(layers)]:
        original.drawn = drawn
    for old, replacement in new:
        replace_(module, old, replacement)  # only now that nothing can fail any more
        if replacement.base is not None:
            replacement.base.requires_grad_(False).grad = None
    for _, replacement in new[len(layers) :]:
        replacement.values.requires_grad_(False)  # also where the values of any layer are trained
    if copies:
        warnings.warn(
            f"Frozen copies of layers are converted alike: {len(copies)}, such as one of "
            f"{layer_name(copies[0][1])!r}; name them in `exclude` to leave them dense.",
            stacklevel=3,
        )


def convert_alike_(copy: nn.Module, module: nn.Module) -> None:
    """Replace the layers of a copy that was made before the module was converted, by copies of the new ones.

    They lie where the copy's layers did: an average may be kept on the CPU.

    Raises:
        SparsityError: If the copy lacks a layer.
    """
    there = {plain_name(path): layer for path, layer in copy.named_modules()}
    for path, layer in compact_layers(module).items():
        old = there.get(path)
        if old is None:
            raise SparsityError(
                f"`module` must have its layers when an average is made of it, got {path!r} made later. Make "
                "layers in `__init__`, not in `configure_model`."
            )
        if not isinstance(old, DensePlusSparse):
            new, place = deepcopy(layer), next(old.parameters()).device
            replace_(copy, old, new if place.type == "meta" else new.to(place))


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
    return _replace_by_ordinary_(module, compact_layers(module))


def merge_(module: nn.Module) -> list[str]:
    """Add sparse changes to the pretrained weights that they are of, and give back ordinary layers.

    The weights are W0 + S to the bit, rounded to the dtype of W0; keys of the state dict are those from
    before the conversion. Merged weights can be trained as S could; what was frozen besides stays so, until
    ``module.requires_grad_(True)``. Layers with another matrix than their own weight stay: `to_dense_`
    replaces all.

    Args:
        module: Any module that was fine-tuned by `SparseFineTuning`, or converted with
            ``offset="pretrained"``; changed in place. Optimizers made before are of no use any more.

    Returns:
        Names of the layers replaced.

    Raises:
        SparsityError: If there is no such layer, or ``module`` itself is one.

    Examples:
        >>> net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
        >>> _ = convert_(net, density=0.01, offset="pretrained")
        >>> merge_(net)
        ['0', '2']
        >>> list(net.state_dict())
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    layers = {path: layer for path, layer in compact_layers(module).items() if layer.base is not None}
    if not layers:
        raise SparsityError(
            f"`module` must hold sparse changes of pretrained weights, got {type(module).__name__} without. "
            "`SparseFineTuning` makes such layers; `to_dense_` replaces those with other matrices."
        )
    return _replace_by_ordinary_(module, layers)


def _replace_by_ordinary_(module: nn.Module, layers: Mapping[str, DensePlusSparse]) -> list[str]:
    for layer in layers.values():
        replace_(module, layer, dense_layer(layer))
    return list(layers)
