"""The scale of the offset: where it starts, and what weight decay does to it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_number
from lightning_sparse.layers.base import compact_layers
from lightning_sparse.layers.offsets import Offset
from lightning_sparse.selection import matches

__all__ = [
    "LSUV",
    "Alpha",
    "alpha_groups",
    "asks_for_data",
    "check_alpha",
    "check_last_layer_factor",
    "lsuv_names",
    "plain_alpha",
    "starting_alphas",
    "without_data",
]

Alpha: TypeAlias = float | Literal["match_norm", "lsuv"]
"""Scale of the offset at the start; "match_norm" gives it the norm of the weight it replaces, and "lsuv" the
layer's output standard deviation 1 on a batch (see `lsuv_`)."""

LSUV = "lsuv"


def check_alpha(alpha: object) -> None:
    """Raise SparsityError unless ``alpha`` is a finite number, "match_norm" or "lsuv", or a dict of these."""
    named = (
        {"alpha": alpha} if not isinstance(alpha, Mapping) else {f"alpha[{p!r}]": a for p, a in alpha.items()}
    )
    for argument, value in named.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value not in ("match_norm", LSUV) and not is_number:
            raise SparsityError(
                f"`{argument}` must be a finite number, 'match_norm' or 'lsuv', got {value!r}."
            )


def check_last_layer_factor(factor: object, alpha: Alpha | Mapping[str, Alpha]) -> None:
    """Raise SparsityError unless it is a finite number, and 1 unless some alpha comes from data."""
    check_number("last_layer_factor", factor, "(-inf, inf)")
    if factor != 1 and not asks_for_data(alpha):
        raise SparsityError(
            f"`last_layer_factor` {factor} is for alphas from data, got `alpha` {alpha!r}. Set "
            '`alpha="lsuv"`, or that of the last layer by pattern.'
        )


def asks_for_data(alpha: Alpha | Mapping[str, Alpha]) -> bool:
    """Tell whether some alpha comes from data."""
    return LSUV in (alpha.values() if isinstance(alpha, Mapping) else [alpha])


def lsuv_names(names: Iterable[str], alpha: Alpha | Mapping[str, Alpha]) -> list[str]:
    """Return the weights whose alpha comes from data; the last pattern that matches counts.

    >>> lsuv_names(["a.weight", "b.weight"], {"*": "lsuv", "b.*": 0.1})
    ['a.weight']
    """
    patterns = alpha if isinstance(alpha, Mapping) else {"*": alpha}
    return [name for name in names if [a for p, a in patterns.items() if matches(name, p)][-1:] == [LSUV]]


def without_data(alpha: Alpha | Mapping[str, Alpha]) -> Alpha | dict[str, Alpha]:
    """Return alpha with 1 in the place of what data will say."""
    if isinstance(alpha, Mapping):
        return {pattern: 1.0 if value == LSUV else value for pattern, value in alpha.items()}
    return 1.0 if alpha == LSUV else alpha


def plain_alpha(alpha: Alpha | Mapping[str, Alpha]) -> str | float:
    """Return alpha as a plain value; patterns keep their order, since the last match wins."""
    if isinstance(alpha, Mapping):
        return str({p: a if isinstance(a, str) else float(a) for p, a in alpha.items()})
    return alpha


def alpha_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer that keep weight decay off every alpha.

    Decay pulls alpha towards zero, and the layer towards S alone.

    Args:
        module: A converted module.
        weight_decay: For all other parameters.

    Returns:
        One group for trained parameters other than alphas, one for trained alphas; empty ones are left out.

    Raises:
        SparsityError: If ``weight_decay`` is negative or no finite number.

    Examples:
        >>> from lightning_sparse.layers import convert_
        >>> net = nn.Sequential(nn.Linear(20, 10))
        >>> _ = convert_(net, 0.1)
        >>> [(len(g["params"]), g["weight_decay"]) for g in alpha_groups(net, 5e-4)]
        [(2, 0.0005), (1, 0.0)]
    """
    check_number("weight_decay", weight_decay, "[0, inf)")
    alphas = {id(layer.alpha) for layer in compact_layers(module).values()}
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in alphas], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in alphas], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def starting_alphas(
    weights: Mapping[str, Tensor], alpha: Alpha | Mapping[str, Alpha], offset: Offset
) -> dict[str, float]:
    """Return alpha by weight: as a pattern says, else 0 for a weight of zeros, else the usual one."""
    if not offset.has_alpha:
        if alpha != 1.0:
            raise SparsityError(
                f"`alpha` scales the offset, and {offset.name!r} has nothing to scale, got {alpha!r}. Leave "
                "it out."
            )
        return dict.fromkeys(weights, 1.0)
    patterns = alpha if isinstance(alpha, Mapping) else {}
    for pattern in patterns:
        if not any(matches(name, pattern) for name in weights):
            raise SparsityError(
                f"`alpha` pattern {pattern!r} must match a converted weight, such as {next(iter(weights))!r}."
            )
    usual: Alpha = 1.0 if isinstance(alpha, Mapping) else alpha
    named = {name: [a for p, a in patterns.items() if matches(name, p)] for name in weights}
    zero = {name for name, weight in weights.items() if not named[name] and _is_zero(weight)}
    return {
        name: 0.0 if name in zero else _alpha(name, weight, [usual, *named[name]][-1], offset)
        for name, weight in weights.items()
    }


def _alpha(name: str, weight: Tensor, alpha: Alpha, offset: Offset) -> float:
    if isinstance(alpha, int | float):
        return float(alpha)
    if alpha == LSUV:
        raise SparsityError(
            "`alpha` 'lsuv' needs a batch, got none. Leave it out, and call `lsuv_` afterwards."
        )
    if weight.is_meta:
        raise SparsityError(f"`alpha` must be a number on the meta device, got 'match_norm' for {name!r}.")
    return float(weight.detach().norm()) / offset.norm(weight.shape)


def _is_zero(weight: Tensor) -> bool:
    return not weight.is_meta and not bool(weight.detach().any())
