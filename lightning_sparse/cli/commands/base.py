"""What a command without LightningCLI is, and how one is run."""

import argparse
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NoReturn, TypeVar

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.errors import stop
from lightning_sparse.cli.names import meant
from lightning_sparse.registry import add_row

__all__ = ["COMMANDS", "Command", "register_command", "run_command"]


class Command(ABC):
    """A word behind ``lightning-sparse``, with arguments of its own; its docstring is its ``--help``."""

    name: ClassVar[str]
    """The word."""
    usage: ClassVar[str]
    """What stands behind it, for the list of commands: ``"RUN..."``."""
    summary: ClassVar[str]
    """What it does, in one line, for the list of commands; it begins with a verb and a capital."""

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments to a parser."""

    @abstractmethod
    def run(self, arguments: argparse.Namespace) -> None:
        """Do it, and print what was done.

        Args:
            arguments: What the parser has made of the command line.

        Raises:
            SparsityError: If something that the user named is not of use. It ends the program, as an
                OSError does, with one or two lines and exit status 2.
            ModuleNotFoundError: If an optional package is not installed.
        """


COMMANDS: dict[str, type[Command]] = {}
"""Every command by its name."""

_Command = TypeVar("_Command", bound=type[Command])


def register_command(kind: _Command) -> _Command:
    """Add a command to `COMMANDS` by its name; a decorator of its class.

    Raises:
        SparsityError: If another command has that name.
    """
    add_row(COMMANDS, kind.name, kind)
    return kind


def run_command(name: str, words: Sequence[str]) -> None:
    """Run a command; a mistake ends the program with one or two lines and exit status 2.

    Args:
        name: Which one, a key of `COMMANDS`.
        words: What comes after it on the command line.
    """
    command = COMMANDS[name]()
    description = (type(command).__doc__ or command.summary).partition("\n\n")[0]
    parser = _Parser(prog=f"lightning-sparse {name}", description=description, allow_abbrev=False)
    command.add_arguments(parser)
    arguments = parser.parse_args(words)
    try:
        command.run(arguments)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}")
    except (SparsityError, OSError) as error:
        stop(str(error))


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes look like those of the commands of LightningCLI."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: --([\w-]+)", message)
        close = meant(unknown[1], _options(self)) if unknown else ""
        stop(f"{message}{close} (see `{self.prog} --help`)")


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """Return the long options of a parser and of those below it, without their dashes."""
    names = []
    for action in parser._actions:
        names += [option[2:] for option in action.option_strings if option.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                names += _options(below)
    return names
