"""How a budget of kept weights is shared out over the layers, as exact integers.

Every allocation gives each layer a proportion; one water-filling routine turns proportions into budgets.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from lightning_sparse.checks import SparsityError, check_callable, check_choice, check_count, check_number
from lightning_sparse.functional.budgets import layer_budget, total_budget
from lightning_sparse.functional.water_filling import share_out
from lightning_sparse.registry import add_row
from lightning_sparse.types import Budgets, Shapes

__all__ = [
    "ALLOCATIONS",
    "AllocationName",
    "Proportion",
    "allocate",
    "epf",
    "epl",
    "erk",
    "register_allocation",
    "uniform",
]

Proportion: TypeAlias = Callable[[torch.Size], int]
"""Gives the proportion of a layer's budget from the shape of its weight, a whole number."""

ALLOCATIONS: dict[str, Callable[..., Budgets]] = {}
"""Every allocation by name; all share the signature ``(shapes, density, *, fixed=None, min_weights=1)``."""

_PROPORTIONS: dict[str, Proportion] = {}


def register_allocation(name: str, proportion: Proportion) -> None:
    """Add an allocation: from then on its name is good wherever an allocation is asked for.

    Args:
        name: Its name.
        proportion: Gives the proportion of a layer's budget, 1 or more, from the shape of its weight.

    Raises:
        SparsityError: If another allocation has that name.

    Examples:
        >>> register_allocation("per_input", lambda shape: shape[1])
        >>> allocate({"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}, 0.25, "per_input")
        {'fc1': 11, 'fc2': 7}
        >>> del ALLOCATIONS["per_input"]
    """
    check_callable("proportion", proportion)
    if name == "global":
        raise SparsityError("`name` must not be 'global', which ranks all layers together. Take another.")
    if name not in ALLOCATIONS:  # it may have been taken out
        _PROPORTIONS.pop(name, None)
    add_row(_PROPORTIONS, name, proportion)
    ALLOCATIONS[name] = partial(allocate, allocation=name)


def uniform(shapes: Shapes, density: float, *, min_weights: int = 1) -> Budgets:
    """Give each layer a budget proportional to its size: the same density everywhere.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, *kernel)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).

    Returns:
        Number of weights to keep per layer; they sum to ``total_budget(N, density)`` exactly.

    Raises:
        SparsityError: If ``shapes`` is empty, ``density`` is not in (0, 1] or keeps too few for
            ``min_weights``.

    Examples:
        >>> uniform({"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}, 0.5)
        {'fc1': 30, 'fc2': 6}
    """
    return allocate(shapes, density, "uniform", min_weights=min_weights)


def erk(shapes: Shapes, density: float, *, min_weights: int = 1) -> Budgets:
    """Give each layer a budget proportional to its sum(shape) (Erdos-Renyi-Kernel).

    Small layers stay denser at an unchanged total. A layer whose share would pass its size is kept
    dense and the rest is shared again, until every share fits.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, *kernel)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).

    Returns:
        Number of weights to keep per layer; they sum to ``total_budget(N, density)`` exactly.

    Raises:
        SparsityError: If ``shapes`` is empty, ``density`` is not in (0, 1] or keeps too few for
            ``min_weights``.

    Source:
        Evci et al., "Rigging the Lottery", ICML 2020, section 3 (arXiv:1911.11134).

    Examples:
        >>> erk({"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}, 0.5)  # 36 shared as 16 : 8
        {'fc1': 24, 'fc2': 12}
    """
    return allocate(shapes, density, "erk", min_weights=min_weights)


def epl(shapes: Shapes, density: float, *, min_weights: int = 1) -> Budgets:
    """Give each layer the same budget (equal per layer).

    A layer smaller than its share is kept dense and the rest is shared again, until every share fits.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, *kernel)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).

    Returns:
        Number of weights to keep per layer; they sum to ``total_budget(N, density)`` exactly.

    Raises:
        SparsityError: If ``shapes`` is empty, ``density`` is not in (0, 1] or keeps too few for
            ``min_weights``.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655).

    Examples:
        >>> epl({"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}, 0.5)  # fc2 is full
        {'fc1': 24, 'fc2': 12}
    """
    return allocate(shapes, density, "epl", min_weights=min_weights)


def epf(shapes: Shapes, density: float, *, min_weights: int = 1) -> Budgets:
    """Give each layer a budget proportional to its number of filters (equal per filter).

    A filter is one output unit, so the proportion is ``shape[0]``. Within a layer each filter gets its equal
    share, rounded down or up (``functional.filters``). A layer whose share would pass its size is
    kept dense and the rest is shared again, until every share fits.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, *kernel)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).

    Returns:
        Number of weights to keep per layer; they sum to ``total_budget(N, density)`` exactly.

    Raises:
        SparsityError: If ``shapes`` is empty, ``density`` is not in (0, 1] or keeps too few for
            ``min_weights``.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655).

    Examples:
        >>> epf({"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}, 0.5)  # 4.5 per filter
        {'fc1': 27, 'fc2': 9}
    """
    return allocate(shapes, density, "epf", min_weights=min_weights)


def allocate(
    shapes: Shapes,
    density: float,
    allocation: str,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
    filters: Mapping[str, int] | None = None,
    alive: Mapping[str, int] | None = None,
) -> Budgets:
    """Share the budget of a density out over the layers, some of them at a density of their own.

    The total does not depend on ``fixed``: these layers are served first, the others share what remains.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, *kernel)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        allocation: "uniform", "erk", "epl", "epf", or another name in `ALLOCATIONS`.
        fixed: Density of some layers by name, fractions in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).
        filters: For "epf", the number of filters of layers where it is not ``shape[0]``.
        alive: How many weights each layer has left, and keeps at most. ``None``: all.

    Returns:
        Number of weights to keep per layer, in the order of ``shapes``; they sum to
        ``total_budget(N, density)`` exactly.

    Raises:
        SparsityError: If ``shapes`` is empty, a density is not in (0, 1], a name is unknown, or what
            ``fixed`` leaves is less than the minimum or more than the size of the other layers, or if a
            proportion is no whole number of 1 or more.

    Examples:
        >>> shapes = {"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}
        >>> allocate(shapes, 0.5, "uniform", fixed={"fc2": 0.25})
        {'fc1': 33, 'fc2': 3}
    """
    check_choice("allocation", allocation, ALLOCATIONS)
    check_count("min_weights", min_weights, 0)
    if not shapes:
        raise SparsityError("`shapes` must hold at least one layer, got none. Check `include` and `exclude`.")
    total = total_budget(sum(map(math.prod, shapes.values())), density)
    most = {name: math.prod(shape) for name, shape in shapes.items()} | dict(alive or {})
    own = _fixed_budgets(shapes, fixed or {}, min_weights)
    taken = {name: min(budget, most[name]) for name, budget in own.items()}
    free = [name for name in shapes if name not in taken]
    sizes = [most[name] for name in free]
    rest = total - sum(taken.values())
    _check_reachable(sizes, rest, density, total, min_weights, overridden=bool(taken))
    if allocation == "epf":
        shapes = {**shapes, **{name: torch.Size([number]) for name, number in (filters or {}).items()}}
    proportions = [_proportion(allocation, shapes[name]) for name in free]
    budgets = taken | dict(zip(free, share_out(proportions, sizes, rest, min_weights), strict=True))
    return {name: budgets[name] for name in shapes}


def _fixed_budgets(shapes: Shapes, fixed: Mapping[str, float], min_weights: int) -> Budgets:
    budgets = {}
    for name, density in fixed.items():
        if name not in shapes:
            raise SparsityError(f"`fixed` must name layers among {', '.join(shapes)}, got {name!r}.")
        way_out = "Keep a layer dense with 1.0; leave it out altogether with `exclude`."
        check_number(f"fixed[{name!r}]", density, "(0, 1]", way_out)
        budgets[name] = layer_budget(math.prod(shapes[name]), density, min_weights)
    return budgets


def _proportion(allocation: str, shape: torch.Size) -> int:
    proportion = _PROPORTIONS[allocation](shape)
    least = min(math.prod(shape), 1)  # an empty weight gets nothing anyway
    check_count(f"{allocation}({tuple(shape)})", proportion, least, "It is the proportion of a budget.")
    return proportion


def _check_reachable(
    sizes: Sequence[int], rest: int, density: float, total: int, min_weights: int, overridden: bool
) -> None:
    least, most = sum(min(min_weights, size) for size in sizes), sum(sizes)
    if least <= rest <= most:
        return
    if not overridden:
        raise SparsityError(
            f"`density` must keep at least {least} weights ({min_weights} in each of {len(sizes)} layers), "
            f"got {density}, which keeps {total}. Raise `density` or lower `min_weights_per_layer` "
            "(`min_weights` of `allocate`)."
        )
    way_out = "Lower the overrides or raise" if rest < least else "Raise the overrides or lower"
    raise SparsityError(
        f"`density_overrides` must leave the other {len(sizes)} layers between {least} and {most} weights, "
        f"got {rest}: they take {total - rest} of the {total} that `density` {density} keeps. "
        f"{way_out} `density`. `allocate` calls the overrides `fixed`."
    )


register_allocation("uniform", math.prod)
register_allocation("erk", sum)
register_allocation("epl", lambda _shape: 1)
register_allocation("epf", lambda shape: shape[0])

if TYPE_CHECKING:
    AllocationName: TypeAlias = str
else:  # the command line shows the names, and takes others that were registered
    AllocationName = Literal[tuple(ALLOCATIONS)] | str
"""How a layerwise budget is shared out: the name of an allocation."""
