"""Tables that are filled by their rows: each registers itself under a name, in the file that defines it."""

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from lightning_sparse.checks import SparsityError

__all__ = ["add_row", "modules_in"]


def add_row(table: dict[str, Any], name: str, row: Any) -> None:
    """Put a function or class into a table.

    The same definition may come again, as it does when a cell of a notebook is run twice.

    Args:
        table: Rows by name.
        name: Name of the row; it must be new.
        row: A function or a class.

    Raises:
        SparsityError: If another definition has that name, or the name is no text.
    """
    if not isinstance(name, str) or not name:
        raise SparsityError(f"`name` must be a text, got {name!r}. It is what the row is asked for by.")
    if name in table and _origin(table[name]) != _origin(row):
        raise SparsityError(f"`name` must be new, got {name!r}, which is {'.'.join(_origin(table[name]))}.")
    table[name] = row


def modules_in(package: str, path: Iterable[str]) -> list[ModuleType]:
    """Import all modules of a package, so that their rows are there, in alphabetical order.

    Args:
        package: Name of the package.
        path: Where it lies: its ``__path__``.
    """
    return [import_module(f"{package}.{module.name}") for module in iter_modules(path)]


def _origin(row: Callable[..., Any]) -> tuple[str, ...]:
    """Return where a row was defined; of what has no name of its own, such as lambdas, also the line."""
    name = getattr(row, "__qualname__", repr(row))
    code = getattr(row, "__code__", None)
    line = [f"line {code.co_firstlineno}"] if code is not None and "<" in name else []
    return (row.__module__, name, *line)
