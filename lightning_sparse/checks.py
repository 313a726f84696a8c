"""A value, or an error in our one form: the argument, the rule, the value, and the way out."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = [
    "SparsityError",
    "check_alpha",
    "check_at_least",
    "check_choice",
    "check_count",
    "check_density",
    "check_integer",
    "check_patterns",
    "check_required_integer",
    "check_selection",
    "check_share",
    "check_ticket_path",
]


class SparsityError(ValueError):
    """Bad input, said in one or two lines: the argument, the rule, the value, and the way out."""


def check_density(argument: str, density: object) -> None:
    """Raise ValueError unless ``density`` is a number in (0, 1]."""
    if not isinstance(density, int | float) or not 0 < density <= 1:
        raise SparsityError(
            f"`{argument}` must be in (0, 1], got {density!r}. It is the share kept: 0.1 keeps 10%."
        )


def check_integer(argument: str, value: object) -> None:
    """Raise ValueError unless ``value`` is an integer of at least 0, or None."""
    if value is not None and not (isinstance(value, int) and value >= 0):
        raise SparsityError(f"`{argument}` must be an integer of at least 0, got {value!r}.")


def check_patterns(argument: str, patterns: object) -> None:
    """Raise ValueError if ``patterns`` is one string instead of a list of them."""
    if isinstance(patterns, str):
        raise SparsityError(
            f"`{argument}` must be a list of patterns, got {patterns!r}. Write [{patterns!r}]."
        )


def check_selection(
    density: object,
    include: object,
    exclude: object,
    density_overrides: Mapping[str, float] | None,
    seed: object,
) -> None:
    """Raise ValueError if an argument that most callbacks share is out of range."""
    check_density("density", density)
    check_patterns("include", include)
    check_patterns("exclude", exclude)
    check_integer("seed", seed)
    for pattern, override in (density_overrides or {}).items():
        check_density(f"density_overrides[{pattern!r}]", override)


def check_alpha(alpha: object) -> None:
    """Raise ValueError unless ``alpha`` is a finite number or "match_norm", or a dict of these."""
    named = (
        {"alpha": alpha} if not isinstance(alpha, Mapping) else {f"alpha[{p!r}]": a for p, a in alpha.items()}
    )
    for argument, value in named.items():
        if value != "match_norm" and not (isinstance(value, int | float) and math.isfinite(value)):
            raise SparsityError(f"`{argument}` must be a finite number or 'match_norm', got {value!r}.")


def check_required_integer(argument: str, value: object) -> None:
    """Raise ValueError unless ``value`` is an integer of at least 0."""
    if value is None:
        raise SparsityError(f"`{argument}` must be an integer of at least 0, got None.")
    check_integer(argument, value)


def check_ticket_path(path: str | None) -> None:
    """Raise ValueError unless a file can be written there, its folder made if need be."""
    if path is None:
        return
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if "://" in path or Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SparsityError(
            f"`ticket_path` must be a file that can be written, got {path!r}. Name one in a folder of this "
            "machine that is yours."
        )


def check_choice(argument: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise SparsityError(f"`{argument}` must be one of {', '.join(map(str, choices))}, got {value!r}.")


def check_count(argument: str, value: object) -> None:
    """Raise ValueError unless ``value`` is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SparsityError(f"`{argument}` must be an integer of at least 1, got {value!r}.")


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise a ValueError unless ``value`` is at least ``minimum``."""
    if not value >= minimum:
        raise SparsityError(f"`{name}` must be at least {minimum}, got {value}.")


def check_share(name: str, value: float) -> None:
    """Raise a ValueError unless ``value`` is a share in [0, 1)."""
    if not 0 <= value < 1:
        raise SparsityError(
            f"`{name}` must be at least 0 and below 1, got {value}. It is a share, not a count."
        )
