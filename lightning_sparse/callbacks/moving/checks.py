"""What callbacks that move connections refuse, or warn of, with the way out."""

from collections.abc import Mapping, Sequence

from lightning_sparse.callbacks.moving.clock import check_step
from lightning_sparse.checks import ALL, SparsityError, check_choice, check_count, check_number
from lightning_sparse.functional.growth import GrowthRule
from lightning_sparse.functional.schedules import DROP_SCHEDULES
from lightning_sparse.selection import matches
from lightning_sparse.trainer.packages import rank_zero_warn

__all__ = [
    "check_average",
    "check_matched",
    "check_schedule",
    "refuse_nothing_moved",
    "refuse_without_density",
    "warn_of_raw_steps",
    "warn_of_rest",
]


def check_matched(argument: str, patterns: Sequence[str], names: Sequence[str]) -> None:
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


def refuse_without_density(arguments: Mapping[str, object]) -> None:
    """Refuse arguments about masks of its own where it draws none."""
    for argument in (name for name in OWN_MASKS if arguments.get(name) not in (None, {}, False, "masked")):
        raise SparsityError(
            f"`{argument}` needs `density`, got None: it is for what a callback draws itself. Give both, or "
            "neither beside the callback that this one starts from."
        )


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
