"""One check for each kind of argument: silence, or an error in our one form.

Every message names the argument, the rule, the value and the way out. A function checks its own arguments
under its own names. ``True`` and ``False`` are no numbers here.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

__all__ = [
    "ALL",
    "SparsityError",
    "check_at_least",
    "check_callable",
    "check_choice",
    "check_count",
    "check_counts",
    "check_densities",
    "check_density",
    "check_flag",
    "check_kind",
    "check_number",
    "check_path",
    "check_patterns",
    "check_selection",
    "check_writable",
    "first_line",
    "near",
    "shown",
]


LARGEST = sys.float_info.max

ALL = "all"
"""In place of patterns to ``include``: every trained weight of two or more dimensions."""


class SparsityError(ValueError):
    """Bad input, said in one or two lines: the argument, the rule, the value, and the way out."""


def near(word: str, names: Iterable[str], count: int = 1) -> str:
    """Ask whether one of these names was meant; "" if none is like the word, in lower case.

    >>> near("ekr", ["erk", "epl", "random"])
    '; did you mean erk?'
    """
    folded = {name.lower(): name for name in names if name != word}
    close = get_close_matches(word.lower(), folded, n=count)
    return f"; did you mean {' or '.join(folded[name] for name in close)}?" if close else ""


def shown(value: object) -> str:
    """Return a value as an error shows it: its ``repr``, or its type if that is long."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def first_line(error: BaseException) -> str:
    """Return the first line of what others' code says is wrong, to quote it; its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def check_choice(argument: str, value: object, choices: Iterable[object]) -> None:
    """Refuse a value that is none of ``choices``.

    Raises:
        SparsityError: It names the choices, and the one that was probably meant.
    """
    known = list(choices)
    if not any(_is_same(value, choice) for choice in known):
        names = [choice for choice in known if isinstance(choice, str)]
        meant = near(value, names) if isinstance(value, str) else ""
        raise SparsityError(
            f"`{argument}` must be one of {', '.join(map(str, known))}, got {shown(value)}{meant or '.'}"
        )


def check_count(argument: str, value: object, least: int = 1, hint: str = "") -> None:
    """Refuse what is not an integer of at least ``least``.

    Raises:
        SparsityError: If it is none, or too small; ``hint`` follows the rule.
    """
    if not _is_integer(value) or value < least:  # type: ignore[operator]
        raise SparsityError(
            f"`{argument}` must be an integer of at least {least}, got {shown(value)}.{_after(hint)}"
        )


def check_counts(argument: str, values: object, length: int | None = None, hint: str = "") -> None:
    """Refuse what is not a sequence of positive integers, of the given length if there is one.

    Raises:
        SparsityError: If it is none, empty, or of another length; ``hint`` follows the rule.

    >>> check_counts("shape", [3, 32, 32], 3)
    """
    fits = isinstance(values, Sequence) and len(values) > 0 and length in (None, len(values))
    if not fits or not all(_is_integer(value) and value >= 1 for value in values):  # type: ignore[attr-defined]
        rule = f"{length or 'one or more'} integers of at least 1"
        raise SparsityError(f"`{argument}` must be {rule}, got {shown(values)}.{_after(hint)}")


def check_number(argument: str, value: object, interval: str, hint: str = "") -> None:
    """Refuse what is not a finite number within an interval such as ``"(0, 1]"`` or ``"[0, inf)"``.

    Raises:
        SparsityError: If it is none, or outside; ``hint`` follows the rule.

    >>> check_number("drop_fraction", 0.3, "[0, 1]")
    """
    if not _is_number(value) or not _lies_in(value, interval):  # type: ignore[arg-type]
        rule = "finite" if interval == "(-inf, inf)" else f"in {interval}"
        raise SparsityError(f"`{argument}` must be {rule}, got {shown(value)}.{_after(hint)}")


def check_at_least(argument: str, value: object, minimum: float) -> None:
    """Refuse what is not a number of at least ``minimum``."""
    if not _is_number(value) or not value >= minimum:  # type: ignore[operator]
        raise SparsityError(f"`{argument}` must be at least {minimum}, got {shown(value)}.")


def check_density(argument: str, value: object) -> None:
    """Refuse what is not a share of weights to keep, a number in (0, 1]."""
    check_number(argument, value, "(0, 1]", "It is the share kept: 0.1 keeps 10%.")


def check_densities(argument: str, densities: object) -> None:
    """Refuse what is not a dict of densities by name or pattern; ``None`` is none."""
    if densities is not None and not isinstance(densities, Mapping):
        raise SparsityError(f"`{argument}` must be a dict of densities by pattern, got {shown(densities)}.")
    for pattern, density in (densities or {}).items():
        check_density(f"{argument}[{pattern!r}]", density)


def check_selection(include: object, exclude: object, density_overrides: object) -> None:
    """Refuse arguments that cannot say which weights, and which of them at densities of their own."""
    check_patterns("include", include)
    check_patterns("exclude", exclude)
    check_densities("density_overrides", density_overrides)


def check_flag(argument: str, value: object) -> None:
    """Refuse what is neither ``True`` nor ``False``."""
    if not isinstance(value, bool):
        raise SparsityError(f"`{argument}` must be True or False, got {shown(value)}.")


def check_kind(argument: str, value: object, kind: type) -> None:
    """Refuse what is no instance of a class."""
    if not isinstance(value, kind):
        raise SparsityError(f"`{argument}` must be an instance of {kind.__name__}, got {shown(value)}.")


def check_callable(argument: str, value: object) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise SparsityError(f"`{argument}` must be a function or a class, got {shown(value)}.")


def check_path(argument: str, value: object) -> None:
    """Refuse what is not a path, whether there is such a file or not."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SparsityError(f"`{argument}` must be a path, got {shown(value)}.")


def check_patterns(argument: str, patterns: object) -> None:
    """Refuse what is not a list of patterns on parameter names; ``None`` is none. `ALL` may be included."""
    if argument == "include" and patterns == ALL:
        return
    if argument == "include" and isinstance(patterns, str) and patterns.lower() == ALL:
        raise SparsityError(
            f"`include` must be a list of patterns, or {ALL!r}, got {patterns!r}. Write `include={ALL!r}`."
        )
    if isinstance(patterns, str):
        raise SparsityError(
            f"`{argument}` must be a list of patterns, got {shown(patterns)}. Write [{shown(patterns)}]."
        )
    if patterns is None:
        return
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise SparsityError(f"`{argument}` must be a list of patterns, got {shown(patterns)}.")


def check_writable(argument: str, path: str | os.PathLike[str] | None) -> None:
    """Refuse a path that no file can be written to, its folder made if need be; ``None`` is none."""
    if path is None:
        return
    check_path(argument, path)
    target = Path(path).absolute()
    folder = next(parent for parent in (*target.parents, target) if parent.exists())
    is_url = "://" in str(path)
    if is_url or Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SparsityError(
            f"`{argument}` must be a file that can be written, got {str(path)!r}. Name one in a folder of "
            "this machine that is yours."
        )


def _is_same(value: object, choice: object) -> bool:
    """Tell whether a value is a choice: ``True`` is not 1, but a text of another class is that text."""
    plain = isinstance(value, str | int | float) and isinstance(value, bool) == isinstance(choice, bool)
    return value is choice or (plain and value == choice)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lies_in(value: float, interval: str) -> bool:
    if not -LARGEST <= value <= LARGEST:  # also NaN, and integers that no float can hold
        return False
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low or (interval[0] == "[" and value == low)
    below = value < high or (interval[-1] == "]" and value == high)
    return above and below


def _after(hint: str) -> str:
    return f" {hint}" if hint else ""
