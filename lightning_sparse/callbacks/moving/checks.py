"""What callbacks that move connections refuse, or warn of, with the way out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lightning_sparse.callbacks.moving.clock import check_step
from lightning_sparse.callbacks.sharding import COMPACT_HAS_NO_ROWS
from lightning_sparse.checks import ALL, SparsityError, check_choice, check_count, check_number
from lightning_sparse.functional.allocation import ALLOCATIONS
from lightning_sparse.functional.growth import GrowthRule
from lightning_sparse.functional.growth.shards import needs_whole_layers
from lightning_sparse.functional.patterns import UNSTRUCTURED, GroupPattern, Pattern, density_within
from lightning_sparse.functional.saliency import Random
from lightning_sparse.functional.schedules import DROP_SCHEDULES
from lightning_sparse.functional.shards.pruning import needs_whole_weights
from lightning_sparse.selection import matches, parameters_by_name
from lightning_sparse.trainer.packages import rank_zero_warn
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights

__all__ = [
    "allocation_within",
    "check_average",
    "check_names",
    "check_schedule",
    "density_of_own",
    "needs_whole",
    "refuse_layers_with_support",
    "refuse_nothing_moved",
    "refuse_other_support",
    "warn_of_raw_steps",
    "warn_of_rest",
]


def allocation_within(pattern: Pattern, allocation: str | None) -> str:
    """Return how a budget is shared out where nobody says so: by ERK, unless a pattern has one density."""
    if allocation is not None:
        check_choice("allocation", allocation, ALLOCATIONS)
        return allocation
    return "uniform" if isinstance(pattern, GroupPattern) and pattern.density is not None else "erk"


def check_names(module: nn.Module, include: Sequence[str] | None, exclude: Sequence[str]) -> None:
    """Refuse patterns on names that match nothing which can move, or could."""
    there = list(sparse_weights(module))
    _check_matched("include", include or [], there)
    _check_matched("exclude", exclude, [*there, *parameters_by_name(module)])


def _check_matched(argument: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """Refuse patterns that match none of the names."""
    for pattern in patterns if patterns != ALL else ():
        if not any(matches(name, pattern) for name in names):
            raise SparsityError(
                f"`{argument}` pattern {pattern!r} matches nothing that can move. Names here: "
                f"{', '.join(names[:3])}."
            )


def refuse_nothing_moved(callback: str, weights: Sequence[object], exclude: Sequence[str]) -> None:
    """Refuse to move none of the connections that are there."""
    if not weights:
        raise SparsityError(
            f"`exclude` must leave something for {callback} to move, got {list(exclude)}. Shorten it."
        )


def needs_whole(
    rule: GrowthRule, pattern: Pattern, storage: str, grad_average: int, allocation: str | None
) -> str:
    """Say why connections cannot move where each process holds some rows, and the way out; "" if they can."""
    if storage != "masked":
        return COMPACT_HAS_NO_ROWS
    if grad_average != 1:
        return "`grad_average` gathers gradients that checkpoints have of process 0 alone. Leave it out"
    return needs_whole_layers(rule) or needs_whole_weights(Random(allocation or "erk"), pattern)


def refuse_layers_with_support(callback: str, module: nn.Module, density: float) -> None:
    """Refuse to draw masks beside layers that have a support of their own."""
    if any(not weight.takes_masks for weight in sparse_weights(module).values()):
        raise SparsityError(
            f"`density` must be None beside Dense-plus-Sparse layers, got {density}: {callback} moves their "
            "supports, and draws none. Leave it out."
        )


def refuse_other_support(pattern: Pattern, weights: Sequence[SparseWeight]) -> None:
    """Refuse to move connections within a pattern that they do not start from."""
    for weight in weights if pattern != UNSTRUCTURED else ():
        nothing_new = torch.zeros(weight.shape, device=weight.positions.device)
        try:
            pattern.filled(weight.positions.long(), nothing_new, weight.nnz)
        except SparsityError as error:
            raise SparsityError(
                f"`pattern` must be that of the masks which connections start from, got {pattern} for "
                f"{weight.name!r}, which has another. {error}"
            ) from error


def check_schedule(
    every_n_steps: object, drop_fraction: object, drop_schedule: object, stop_at: object
) -> None:
    """Refuse arguments unless updates come every so many steps, of a share of weights, until a step."""
    check_count("every_n_steps", every_n_steps)
    check_number("drop_fraction", drop_fraction, "[0, 1]", "It is the share of active weights to drop.")
    check_choice("drop_schedule", drop_schedule, DROP_SCHEDULES)
    check_step("stop_at", stop_at)


def check_average(grad_average: object, every_n_steps: int, rule: GrowthRule) -> None:
    """Refuse a mean over steps before the last update, or for a rule that looks at no gradient."""
    check_count("grad_average", grad_average)
    if grad_average > every_n_steps:  # type: ignore[operator]
        raise SparsityError(
            f"`grad_average` must be at most `every_n_steps`, {every_n_steps}, got {grad_average}. Before "
            "that, connections were others."
        )
    if grad_average != 1 and not rule.needs_gradient:
        raise SparsityError(
            f"`grad_average` is for rules that look at gradients, got {grad_average} for {rule!r}. Leave it "
            "out."
        )


OWN_MASKS = ("dense_first_layer", "density_overrides", "storage")
"""Arguments about masks of its own."""


def density_of_own(
    density: float | None, pattern: Pattern, allocation: str, arguments: Mapping[str, Any]
) -> float | None:
    """Return the density to draw masks at; refuse arguments about masks of its own where it draws none."""
    if density is not None:
        return density_within(pattern, density, allocation, arguments.get("density_overrides"))
    for argument in (name for name in OWN_MASKS if arguments.get(name) not in (None, {}, False, "masked")):
        raise SparsityError(
            f"`{argument}` needs `density`, got None: it is for what a callback draws itself. Give both, or "
            "neither beside the callback that this one starts from."
        )
    return None


def warn_of_rest(callback: str, every_n_steps: int, last_step: int) -> None:
    """Warn that connections come to rest before they have moved."""
    rank_zero_warn(
        f"{callback} moves nothing: `every_n_steps` is {every_n_steps}, and connections rest from step "
        f"{last_step} on. Lower it, or raise `stop_at`."
    )


def warn_of_raw_steps(callback: str) -> None:
    """Warn that an update was missed, as only Lightning's optimizers tell of a step before it is made."""
    rank_zero_warn(
        f"{callback} moves nothing in steps that Lightning does not see, and one of an update "
        "was such. Step `self.optimizers()`, not those of `use_pl_optimizer=False`."
    )
