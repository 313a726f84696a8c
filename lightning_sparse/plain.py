"""Sparsity without a Trainer: for plain PyTorch loops, Fabric and notebooks."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from glob import escape
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lightning_sparse.checks import (
    SparsityError,
    check_callable,
    check_choice,
    check_count,
    check_density,
    check_kind,
    check_selection,
)
from lightning_sparse.files.from_file import SAYS_WHAT, FromFile
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.patterns import (
    Pattern,
    density_within,
    name_of_pattern,
    pattern_from_name,
    weights_within,
)
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.functional.saliency import (
    MethodName,
    PruningMethod,
    PruningProblem,
    method_from_name,
)
from lightning_sparse.functional.shards.pruning import prune_anywhere
from lightning_sparse.layers.compaction import store_compactly_
from lightning_sparse.layers.convertible import convertible_layers
from lightning_sparse.selection import match_overrides, select_weights
from lightning_sparse.types import Loss, Masks, Storage
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.multiplied import news_of_dense_products
from lightning_sparse.weights.optimizers import parameters_of
from lightning_sparse.weights.saving import mask_when_saved
from lightning_sparse.weights.shards import as_shards, reshard_, shards_of
from lightning_sparse.weights.state import state_of
from lightning_sparse.weights.unmoved import NOBODY

__all__ = ["keep_sparse_", "masks_of", "release_", "sparsify_"]

LossFunction = Callable[[nn.Module, Any], Tensor]
"""Returns the mean loss of a batch: ``loss_fn(module, batch)``."""


def sparsify_(
    module: nn.Module,
    method: MethodName | PruningMethod,
    density: float | None = None,
    *,
    loss_fn: LossFunction | None = None,
    batches: Iterable[Any] | None = None,
    min_weights_per_layer: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    density_overrides: Mapping[str, float] | None = None,
    seed: int | None = None,
    storage: Storage = "masked",
    pattern: str | int | Pattern = "unstructured",
) -> Masks:
    """Prune a module once, in place: what `PruneAtInit` does when training starts, without a Trainer.

    Pruned weights are zero afterwards; `keep_sparse_` holds them there while an optimizer trains the others.

    Args:
        module: Any module; with masks, its parameters stay the same objects.
        method: A name such as ``"erk"``, ``"snip"`` or ``"synflow"``, or a method object with options.
        density: Share of the selected weights to keep, a fraction in (0, 1]; ``floor(density * N + 0.5)`` of
            N are kept, exactly. ``FromFile`` says itself how many, and which.
        loss_fn: For methods with data: ``loss_fn(module, batch)`` returns the batch's mean loss.
        batches: For methods with data, and for SynFlow, which only looks at the shape of the first tensor.
            After the last comes the first. Tensors have to be on the module's device.
        min_weights_per_layer: No layer keeps fewer than this (or all, if it is smaller). ``None``: 1, or 0
            for a method with ``conformance="reference"``.
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers. ``"all"``: every trained weight of two or more dimensions.
        exclude: Patterns of weights to leave dense; they do not count towards the density.
        density_overrides: Density by pattern, for single layers; the total stays, the others share the rest.
        seed: Seed of all random draws. ``None``: that of torch's generator. `PruneAtInit` with the same seed
            makes the same masks.
        storage: ``"masked"``: weights stay dense parameters, with zeros. ``"compact"``: linear and
            convolutional layers are replaced by ones that hold only what is kept; make optimizers afterwards.
        pattern: ``"2:4"`` or another N:M, ``"n:4"``, or a `Pattern`, as for `PruneAtInit`.

    Returns:
        Boolean mask by parameter name, as `masks_of` tells it later; of a sharded module split as it is.

    Raises:
        SparsityError: If an argument is out of range or cannot be met, or a method lacks a loss or an input.

    Examples:
        >>> net = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 5))
        >>> masks = sparsify_(net, "erk", density=0.1)
        >>> {name: int(mask.sum()) for name, mask in masks.items()}
        {'0.weight': 17, '2.weight': 8}
        >>> int(net[0].weight.count_nonzero())
        17
    """
    check_kind("module", module, nn.Module)
    reshard_(module)
    if batches is not None:
        check_kind("batches", batches, Iterable)
    method, pattern = method_from_name(method), pattern_from_name(pattern)
    check_choice("storage", storage, ("masked", "compact"))
    _check_arguments(loss_fn, include, exclude, density_overrides, min_weights_per_layer, seed)
    if isinstance(method, FromFile):
        given = name_of_pattern(pattern)
        chosen = (density, min_weights_per_layer, include, exclude, density_overrides, given)
        method.refuse_beside(dict(zip(SAYS_WHAT, chosen, strict=True)))
        method.refuse_seed(seed)
        named = list(map(escape, method.weights_of(module)))  # refuses what does not fit
        layers = convertible_layers(module, named) if storage == "compact" else {}
        masks = method.masks()
        method.reinitialise_([module])
    else:
        share = density_within(pattern, density, method.allocation, density_overrides)
        check_density("density", share)
        assert share is not None
        layers = convertible_layers(module, include, exclude or ()) if storage == "compact" else {}
        weights: Mapping[str, Tensor] = {name: layer.weight for name, layer in layers.items()}
        if storage == "masked":
            weights = select_weights(module, include, exclude or ())
        weights = weights_within(weights, pattern)
        layers = {name: layer for name, layer in layers.items() if name in weights}
        draws = torch.Generator().manual_seed(torch.initial_seed() if seed is None else seed)
        problem = _problem(module, weights, draws, method, loss_fn, batches)
        least = method.least_per_layer if min_weights_per_layer is None else min_weights_per_layer
        fixed = match_overrides(weights, density_overrides)
        path = prune_anywhere(method, problem, share, fixed=fixed, min_weights=least, pattern=pattern)
        masks = as_shards(_last(path, module, method), weights)
    if storage == "compact":
        supports = {name: positions_of(masks[name]) for name in layers}
        store_compactly_(module, layers, supports, torch.Generator(), exclude or ())
        return masks
    state_of(module).install_(module, masks, NOBODY)
    if news := news_of_dense_products(module):
        warnings.warn(news, stacklevel=2)
    return masks


def masks_of(module: nn.Module) -> Masks:
    """Return the boolean mask of every sparse weight, by parameter name; empty for a dense module.

    Of weights under masks, and of layers that store their active entries only: there the mask is that of the
    entries which are trained.

    Args:
        module: One that `sparsify_`, `convert_` or a callback has made sparse in this process.

    Examples:
        >>> net = nn.Sequential(nn.Linear(20, 10))
        >>> masks_of(net)
        {}
        >>> _ = sparsify_(net, "magnitude", density=0.1)
        >>> int(masks_of(net)["0.weight"].sum())
        20
    """
    check_kind("module", module, nn.Module)
    return {name: weight.mask for name, weight in sparse_weights(module).items()}


def keep_sparse_(module: nn.Module, *optimizers: Optimizer) -> None:
    """Hold pruned weights at zero in every step of optimizers, in whatever loop they are used.

    Gradients of pruned weights are set to zero before a step, the weights after it, wherever anybody may have
    changed them; what optimizers have gathered for them before, as well. Later calls add optimizers. For
    clipping by norm to see the sparse net's gradient, call `mask_gradients_` before. Compact layers have
    nothing to be held: there it only sees to it that the optimizers hold their values.

    Args:
        module: A module with masks, or compact layers.
        *optimizers: Those that train it; with Fabric, as they were before ``fabric.setup``.

    Raises:
        SparsityError: If the module has neither, or an optimizer holds none of their weights.

    Examples:
        >>> net = nn.Sequential(nn.Linear(20, 10))
        >>> optimizer = torch.optim.Adam(net.parameters())
        >>> _ = sparsify_(net, "magnitude", density=0.1)
        >>> keep_sparse_(net, optimizer)
        >>> net(torch.randn(4, 20)).square().mean().backward()
        >>> optimizer.step()
        >>> int(net[0].weight.count_nonzero())
        20
    """
    check_kind("module", module, nn.Module)
    state = state_of(module)
    weights = sparse_weights(module)
    if not weights:
        raise SparsityError("`module` must have masks, got none. Call `sparsify_` first.")
    if not optimizers:
        raise SparsityError("`optimizers` must be those that train the module, got none.")
    held = {id(weight.parameter) for weight in weights.values()}
    for optimizer in optimizers:
        check_kind("optimizers", optimizer, Optimizer)
        if not any(id(parameter) in held for parameter in parameters_of(optimizer)):
            raise SparsityError(
                f"`optimizers` must hold sparse weights, got {type(optimizer).__name__} without any. Make it "
                "after `sparsify_`, and give it as it was before `fabric.setup`."
            )
    if state.before_step not in (None, state.mask_gradients_):
        raise SparsityError("`module` is held by a ConnectionMover already. Call `release_` first.")
    if not state.weights:
        return
    state.attach([*dict.fromkeys([*state.attached, *optimizers])], before_step=state.mask_gradients_)
    state.until_detached([mask_when_saved(module)])


def release_(module: nn.Module) -> None:
    """Remove what `keep_sparse_` has put on optimizers; masks stay known, and weights as they are."""
    check_kind("module", module, nn.Module)
    state_of(module).detach()


def _check_arguments(
    loss_fn: object,
    include: object,
    exclude: object,
    density_overrides: object,
    min_weights_per_layer: object,
    seed: object,
) -> None:
    check_selection(include, exclude, density_overrides)
    if loss_fn is not None:
        check_callable("loss_fn", loss_fn)
    for argument, value in (("min_weights_per_layer", min_weights_per_layer), ("seed", seed)):
        if value is not None:
            check_count(argument, value, 0)


def _problem(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    draws: torch.Generator,
    method: PruningMethod,
    loss_fn: LossFunction | None,
    batches: Iterable[Any] | None,
) -> PruningProblem:
    if method.needs_loss and (loss_fn is None or batches is None):
        missing = "loss_fn" if loss_fn is None else "batches"
        raise SparsityError(
            f"`{missing}` is required by {type(method).__name__}, got None. It scores weights by losses; for "
            "methods without data take `synflow`, `erk` or `magnitude`."
        )
    inputs, shards = partial(_first_input, batches), shards_of(weights)
    if loss_fn is None or batches is None:
        return PruningProblem(module, weights, draws, inputs=inputs, shards=shards)
    drawn = _endless(batches)

    def losses(num_batches: int) -> Sequence[Loss]:
        return [partial(loss_fn, module, next(drawn)) for _ in range(num_batches)]

    # A loss of the caller's own may not be one of logits, which alone a temperature may divide.
    return PruningProblem(module, weights, draws, losses=losses, inputs=inputs, cools=False, shards=shards)


def _last(iterations: Iterator[Masks], module: nn.Module, method: PruningMethod) -> Masks:
    """Go through all iterations, and leave the module as found."""
    runs_code = method.needs_loss or method.needs_forward
    masks: Masks = {}
    with left_as_found(module, module.training, parameters=runs_code):
        for masks in iterations:  # noqa: B007 - the last one counts
            pass
    return masks


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        drawn = 0
        for drawn, batch in enumerate(batches, start=1):  # noqa: B007 - the last number counts
            yield batch
        if not drawn:
            raise SparsityError(
                "`batches` must hold batches, and give them again from the start, got none any more. Give a "
                "list or a DataLoader, not an iterator."
            )


def _first_input(batches: Iterable[Any] | None) -> Tensor:
    leaves = tree_leaves(next(iter(batches), None)) if batches is not None else []
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors:
        raise SparsityError(
            "`batches` must start with a tensor that the net takes, got none. Give one batch: `batches=[x]`, "
            "or set `input_shape` of SynFlow."
        )
    return tensors[0]
