"""Fields of dataclasses as options of the command line."""

import argparse
from dataclasses import Field
from typing import Any, Protocol

__all__ = ["add_option", "is_option"]


class _Group(Protocol):
    """A parser, or a group of arguments in one."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action: ...


def is_option(option: Field[Any]) -> bool:
    """Tell whether a field can be one: its default is a text, a number or a flag."""
    return isinstance(option.default, str | int | float)


def add_option(group: _Group, option: Field[Any], **more: Any) -> None:
    """Add a field to a parser: ``some_name`` as ``--some-name``, a flag as ``--name`` and ``--no-name``.

    Args:
        group: Where to.
        option: Its default says of which type it is, ``help`` in its metadata what it is for.
        **more: Other options of the argument.
    """
    default = "%(default)s" if "default" not in more else str(option.default)
    said = option.metadata.get("help")
    flag: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
    kind = flag if isinstance(option.default, bool) else {"type": type(option.default)}
    group.add_argument(
        f"--{option.name.replace('_', '-')}",
        dest=option.name,
        help=f"{said}; default: {default}" if said else f"default: {default}",
        **{"default": option.default, **kind, **more},
    )
