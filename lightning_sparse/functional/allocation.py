"""How a budget of kept weights is shared out over the layers, as exact integers.

Every allocation gives each layer a proportion; one water-filling routine turns proportions into budgets.
Integers and fractions throughout, so the same budgets come out on every machine.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch

from lightning_sparse.checks import SparsityError
from lightning_sparse.types import AllocationName, Budgets, Shapes

__all__ = ["ALLOCATIONS", "allocate", "epf", "epl", "erk", "layer_budget", "total_budget", "uniform"]


def total_budget(num_weights: int, density: float) -> int:
    """Count the weights that a density keeps, rounded half up.

    Args:
        num_weights: Number of weights N.
        density: Share of them to keep, a fraction in (0, 1].

    Returns:
        ``floor(density * N + 0.5)``.

    Raises:
        ValueError: If ``density`` is not in (0, 1].

    Example:
        >>> total_budget(266200, 0.01)
        2662
    """
    if not 0 < density <= 1:
        raise SparsityError(
            f"`density` must be in (0, 1], got {density}. It is the share of weights kept: 1 - sparsity."
        )
    return math.floor(density * num_weights + 0.5)


def layer_budget(size: int, density: float, min_weights: int = 1) -> int:
    """Count the weights that a layer with a density of its own keeps.

    Args:
        size: Number of weights of the layer.
        density: Share of them to keep, a fraction in (0, 1].
        min_weights: Weights that it keeps at least (all of them if it has fewer).

    Returns:
        ``floor(density * size + 0.5)``, or the minimum if that is more.

    Raises:
        ValueError: If ``density`` is not in (0, 1].

    Example:
        >>> layer_budget(1000, 0.1), layer_budget(1000, 1e-4)
        (100, 1)
    """
    return max(total_budget(size, density), min(min_weights, size))


def uniform(shapes: Shapes, density: float, *, min_weights: int = 1) -> Budgets:
    """Give each layer a budget proportional to its size: the same density everywhere.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, height, width)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).

    Returns:
        Number of weights to keep per layer; they sum to ``total_budget(N, density)`` exactly.

    Raises:
        ValueError: If ``shapes`` is empty, ``density`` is not in (0, 1] or keeps too few for ``min_weights``.

    Example:
        >>> uniform({"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}, 0.5)
        {'fc1': 30, 'fc2': 6}
    """
    return allocate(shapes, density, "uniform", min_weights=min_weights)


def erk(shapes: Shapes, density: float, *, min_weights: int = 1) -> Budgets:
    """Give each layer a budget proportional to its sum(shape) (Erdos-Renyi-Kernel).

    Small layers stay denser at an unchanged total. A layer whose share would pass its size is kept
    dense and the rest is shared again, until every share fits.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, height, width)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).

    Returns:
        Number of weights to keep per layer; they sum to ``total_budget(N, density)`` exactly.

    Raises:
        ValueError: If ``shapes`` is empty, ``density`` is not in (0, 1] or keeps too few for ``min_weights``.

    Source:
        Evci et al., "Rigging the Lottery", ICML 2020, section 3 (arXiv:1911.11134).

    Example:
        >>> erk({"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}, 0.5)  # 36 shared as 16 : 8
        {'fc1': 24, 'fc2': 12}
    """
    return allocate(shapes, density, "erk", min_weights=min_weights)


def epl(shapes: Shapes, density: float, *, min_weights: int = 1) -> Budgets:
    """Give each layer the same budget (equal per layer).

    A layer smaller than its share is kept dense and the rest is shared again, until every share fits.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, height, width)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).

    Returns:
        Number of weights to keep per layer; they sum to ``total_budget(N, density)`` exactly.

    Raises:
        ValueError: If ``shapes`` is empty, ``density`` is not in (0, 1] or keeps too few for ``min_weights``.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655).

    Example:
        >>> epl({"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}, 0.5)  # fc2 is full
        {'fc1': 24, 'fc2': 12}
    """
    return allocate(shapes, density, "epl", min_weights=min_weights)


def epf(shapes: Shapes, density: float, *, min_weights: int = 1) -> Budgets:
    """Give each layer a budget proportional to its number of filters (equal per filter).

    A filter is one output unit, so the proportion is ``shape[0]``. A layer whose share would pass its size is
    kept dense and the rest is shared again, until every share fits.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, height, width)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).

    Returns:
        Number of weights to keep per layer; they sum to ``total_budget(N, density)`` exactly.

    Raises:
        ValueError: If ``shapes`` is empty, ``density`` is not in (0, 1] or keeps too few for ``min_weights``.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655).

    Example:
        >>> epf({"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}, 0.5)  # 4.5 per filter
        {'fc1': 27, 'fc2': 9}
    """
    return allocate(shapes, density, "epf", min_weights=min_weights)


ALLOCATIONS: dict[AllocationName, Callable[..., Budgets]] = {
    "uniform": uniform,
    "erk": erk,
    "epl": epl,
    "epf": epf,
}
"""Every allocation by name; all share the signature ``(shapes, density, *, min_weights=1)``."""

_PROPORTIONS: dict[AllocationName, Callable[[torch.Size], int]] = {
    "uniform": math.prod,
    "erk": sum,
    "epl": lambda _shape: 1,
    "epf": lambda shape: shape[0],
}


def allocate(
    shapes: Shapes,
    density: float,
    allocation: AllocationName,
    *,
    fixed: Mapping[str, float] | None = None,
    min_weights: int = 1,
) -> Budgets:
    """Share the budget of a density out over the layers, some of them at a density of their own.

    The total does not depend on ``fixed``: these layers are served first, the others share what remains.

    Args:
        shapes: Weight shape per layer name: ``(out, in)`` or ``(out, in / groups, height, width)``.
        density: Share of all these weights to keep, a fraction in (0, 1].
        allocation: "uniform", "erk", "epl" or "epf".
        fixed: Density of some layers by name, fractions in (0, 1].
        min_weights: Weights that each layer keeps at least (all of them if it has fewer).

    Returns:
        Number of weights to keep per layer, in the order of ``shapes``; they sum to
        ``total_budget(N, density)`` exactly.

    Raises:
        ValueError: If ``shapes`` is empty, a density is not in (0, 1], a name is unknown, or what ``fixed``
            leaves is less than the minimum or more than the size of the other layers.

    Example:
        >>> shapes = {"fc1": torch.Size([6, 10]), "fc2": torch.Size([2, 6])}
        >>> allocate(shapes, 0.5, "uniform", fixed={"fc2": 0.25})
        {'fc1': 33, 'fc2': 3}
    """
    _check_arguments(shapes, allocation, min_weights)
    total = total_budget(sum(map(math.prod, shapes.values())), density)
    taken = _fixed_budgets(shapes, fixed or {}, min_weights)
    free = [name for name in shapes if name not in taken]
    sizes = [math.prod(shapes[name]) for name in free]
    rest = total - sum(taken.values())
    _check_reachable(sizes, rest, density, total, min_weights, overridden=bool(taken))
    proportions = [_PROPORTIONS[allocation](shapes[name]) for name in free]
    budgets = taken | dict(zip(free, _share(proportions, sizes, rest, min_weights), strict=True))
    return {name: budgets[name] for name in shapes}


def _share(proportions: Sequence[int], sizes: Sequence[int], total: int, min_weights: int) -> list[int]:
    """Share ``total`` in proportion, between ``min(min_weights, size)`` and ``size`` each, to integers.

    Water-filling: the share is ``clip(rate * proportion)`` at the one rate that makes the sum right. Needs
    ``sum of minimums <= total <= sum of sizes``.
    """
    lowest = [min(min_weights, size) for size in sizes]
    shares = [Fraction(low) for low in lowest]
    free = [i for i, size in enumerate(sizes) if lowest[i] < size]
    rest = total - sum(low for low, size in zip(lowest, sizes, strict=True) if low == size)
    while free:
        rate = Fraction(rest, sum(proportions[i] for i in free))
        for i in free:
            shares[i] = min(max(rate * proportions[i], Fraction(lowest[i])), Fraction(sizes[i]))
        excess = sum(shares[i] for i in free) - rest
        # If clipping gave out too much, the rate can only fall: layers at the minimum stay there, full ones
        # may not. If it gave out too little, the other way round. Fixing both kinds at once would be wrong.
        done = [i for i in free if excess == 0 or (shares[i] - rate * proportions[i]) * excess > 0]
        rest -= sum(int(shares[i]) for i in done)
        free = [i for i in free if i not in done]
    return _round_to_sum(shares, total)


def _round_to_sum(shares: Sequence[Fraction], total: int) -> list[int]:
    """Round to integers that sum to ``total``: up where the remainder is largest, ties by order.

    The bounds of the shares are integers, so rounding a share up or down never crosses them.
    """
    rounded = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: rounded[i] - shares[i])
    for i in by_remainder[: total - sum(rounded)]:
        rounded[i] += 1
    return rounded


def _fixed_budgets(shapes: Shapes, fixed: Mapping[str, float], min_weights: int) -> Budgets:
    budgets = {}
    for name, density in fixed.items():
        if name not in shapes:
            raise SparsityError(
                f"`density_overrides` must name layers among {', '.join(shapes)}, got {name!r}."
            )
        if not 0 < density <= 1:
            raise SparsityError(
                f"`density_overrides` must be densities in (0, 1], got {density} for {name!r}. "
                "Keep a layer dense with 1.0; leave it out altogether with `exclude`."
            )
        budgets[name] = layer_budget(math.prod(shapes[name]), density, min_weights)
    return budgets


def _check_arguments(shapes: Shapes, allocation: str, min_weights: int) -> None:
    if not shapes:
        raise SparsityError("`shapes` must hold at least one layer, got none. Check `include` and `exclude`.")
    if allocation not in ALLOCATIONS:
        raise SparsityError(f"`allocation` must be one of {', '.join(ALLOCATIONS)}, got {allocation!r}.")
    if min_weights < 0:
        raise SparsityError(f"`min_weights_per_layer` must be 0 or more, got {min_weights}.")


def _check_reachable(
    sizes: Sequence[int], rest: int, density: float, total: int, min_weights: int, overridden: bool
) -> None:
    least, most = sum(min(min_weights, size) for size in sizes), sum(sizes)
    if least <= rest <= most:
        return
    if not overridden:
        raise SparsityError(
            f"`density` must keep at least {least} weights ({min_weights} in each of {len(sizes)} layers), "
            f"got {density}, which keeps {total}. Raise `density` or lower `min_weights_per_layer`."
        )
    way_out = "Lower the overrides or raise" if rest < least else "Raise the overrides or lower"
    raise SparsityError(
        f"`density_overrides` must leave the other {len(sizes)} layers between {least} and {most} weights, "
        f"got {rest}: they take {total - rest} of the {total} that `density` {density} keeps. "
        f"{way_out} `density`."
    )
