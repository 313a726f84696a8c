"""Parameter groups with learning rates of their own."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_sparse.checks import SparsityError, check_number, shown
from lightning_sparse.selection import matches, parameters_by_name
from lightning_sparse.selection.names import did_you_mean

__all__ = ["check_lr_factors", "multiply_rates_", "rate_groups"]

_FACTOR = "lr_factor"


def check_lr_factors(factors: object) -> None:
    """Refuse what is not a dict of positive factors by pattern; ``None`` is none.

    Raises:
        SparsityError: If it is none, or a factor is not above 0.
    """
    if factors is not None and not isinstance(factors, Mapping):
        raise SparsityError(
            f"`lr_factors` must be a dict of factors by pattern, got {shown(factors)}. Write "
            '{"*.bias": 0.1}.'
        )
    for pattern, factor in (factors or {}).items():
        hint = "Parameters that are to stay as they are take `requires_grad_(False)`."
        check_number(f"lr_factors[{pattern!r}]", factor, "(0, inf)", hint)


def rate_groups(module: nn.Module, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Sort parameters into groups by the factor of their learning rate, for an optimizer.

    Args:
        module: Its parameters are sorted, under the names that it has for them.
        factors: Factor by pattern on names (``*`` is any text); of several patterns that match, the last
            counts. Parameters that none matches have factor 1.

    Returns:
        A group per factor, that of 1 first if there is one. `multiply_rates_` takes the factors out of the
        groups again, once the optimizer is made.

    Raises:
        SparsityError: If a pattern matches no parameter.

    Examples:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        >>> [(len(g["params"]), g["lr_factor"]) for g in rate_groups(net, {"*.bias": 0.1, "1.*": 0.5})]
        [(1, 1.0), (1, 0.1), (2, 0.5)]
    """
    parameters = parameters_by_name(module)
    for pattern in factors:
        if not any(matches(name, pattern) for name in parameters):
            raise SparsityError(
                f"`lr_factors` pattern {pattern!r} must match a parameter, got none."
                f"{did_you_mean(pattern, list(parameters))}"
            )
    groups: dict[float, list[nn.Parameter]] = {factor: [] for factor in (1.0, *map(float, factors.values()))}
    for name, parameter in parameters.items():
        factor = [1.0, *(factor for pattern, factor in factors.items() if matches(name, pattern))][-1]
        groups[float(factor)].append(parameter)
    return [{"params": found, _FACTOR: factor} for factor, found in groups.items() if found]


def multiply_rates_(optimizer: Optimizer) -> None:
    """Multiply the learning rates of groups from `rate_groups`, before a scheduler takes them for the first.

    Raises:
        SparsityError: If the optimizer's groups have no learning rate.
    """
    for group in optimizer.param_groups:
        factor = group.pop(_FACTOR, 1.0)
        if factor == 1:
            continue
        if "lr" not in group:
            raise SparsityError(
                "`lr_factors` must go with an optimizer whose groups have a learning rate, got "
                f"{type(optimizer).__name__}. Leave them out, or choose another optimizer."
            )
        group["lr"] = factor * group["lr"]
