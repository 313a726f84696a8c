"""What callbacks that move connections refuse to do, or warn of, with the way out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_sparse._lightning import rank_zero_warn
from lightning_sparse.functional.saliency.base import check_count
from lightning_sparse.selection import matches

if TYPE_CHECKING:
    from lightning_sparse.callbacks.base import SparsityCallback

__all__ = [
    "check_move_arguments",
    "refuse_long_average",
    "refuse_missing_support",
    "refuse_second_density",
    "refuse_unmatched",
    "warn_of_raw_steps",
    "warn_of_rest",
]


def check_move_arguments(every_n_steps: object, drop_fraction: object, stop_at: object) -> None:
    """Raise ValueError unless updates come every so many steps, of a share of weights, until a step."""
    check_count("every_n_steps", every_n_steps)
    if not isinstance(drop_fraction, int | float) or not 0 <= drop_fraction <= 1:
        raise ValueError(
            f"`drop_fraction` must be in [0, 1], got {drop_fraction!r}. It is the share of active weights "
            "to drop."
        )
    whole = isinstance(stop_at, int) and not isinstance(stop_at, bool) and stop_at >= 1
    if not whole and not (isinstance(stop_at, float) and 0 < stop_at <= 1):
        raise ValueError(
            f"`stop_at` must be a number of steps, or a share of all steps in (0, 1], got {stop_at!r}. "
            "Write steps without a decimal point."
        )


def refuse_long_average(grad_average: int, every_n_steps: int) -> None:
    """Raise ValueError if the mean before one update would take in steps before the last."""
    if grad_average > every_n_steps:
        raise ValueError(
            f"`grad_average` must be at most `every_n_steps`, {every_n_steps}, got {grad_average}. Before "
            "that, connections were others."
        )


def refuse_missing_support(callback: "SparsityCallback", callbacks: Sequence["SparsityCallback"]) -> None:
    """Raise ValueError if nobody has made a support to start from, or is going to."""
    if len(callbacks) == 1:
        raise ValueError(
            f"`density` of {type(callback).__name__} must be given where there are no masks and no "
            "Dense-plus-Sparse layers to start from, got None. Give it, or add PruneAtInit."
        )


def refuse_second_density(callback: "SparsityCallback", callbacks: Sequence["SparsityCallback"]) -> None:
    """Raise ValueError if a callback that starts from another's masks has a density of its own.

    Even an equal one: what comes with it, such as an allocation, would be without effect.
    """
    for other in callbacks:
        if not other.moves:
            raise ValueError(
                f"`density` of {type(callback).__name__} must be None beside {type(other).__name__}, whose "
                f"masks it starts from, got {callback.density} beside {other.density}. Leave it out."
            )


def refuse_unmatched(argument: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError if a pattern matches none of the names."""
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise ValueError(
                f"`{argument}` pattern {pattern!r} matches nothing that can move. Names here: "
                f"{', '.join(list(names)[:3])}."
            )


def warn_of_rest(callback: "SparsityCallback", every_n_steps: int, last_step: int) -> None:
    """Warn that connections come to rest before they have moved."""
    rank_zero_warn(
        f"{type(callback).__name__} moves nothing: `every_n_steps` is {every_n_steps}, and connections rest "
        f"from step {last_step} on. Lower it, or raise `stop_at`."
    )


def warn_of_raw_steps(callback: "SparsityCallback") -> None:
    """Warn that an update was missed, as only Lightning's optimizers tell of a step before it is made."""
    rank_zero_warn(
        f"{type(callback).__name__} moves nothing in steps that Lightning does not see, and one of an update "
        "was such. Step `self.optimizers()`, not those of `use_pl_optimizer=False`."
    )
