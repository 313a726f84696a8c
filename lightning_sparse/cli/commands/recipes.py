"""``lightning-sparse recipes``: those that come with the package, to list, to read and to change."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from textwrap import wrap

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.commands.base import Command, register_command
from lightning_sparse.cli.library import Recipe, find_recipe, library

__all__ = ["Recipes"]

HEADER = ("recipe", "data", "time", "what it trains")
OF_OVERLAYS = """\
Overlays change one thing of a recipe, and go behind it: --config RECIPE --config OVERLAY"""
HOW_TO = """\
Train one: lightning-sparse fit --config NAME    Look at what it would do: lightning-sparse plan --config NAME
Those in sweeps/ are many runs of a recipe: lightning-sparse sweep NAME
Change one: lightning-sparse recipes copy NAME   Read one: lightning-sparse recipes show NAME
Of mnist/lenet300_erk the last part, lenet300_erk, is name enough. Times: of CPU, measured on one core."""
LEAST_WIDTH = 40


@register_command
class Recipes(Command):
    """List the recipes of the package; `copy` writes one into a folder of yours, `show` prints it."""

    name = "recipes"
    usage = "[copy|show NAME]"
    summary = "Lists the recipes that come with the package, or writes one here to be changed."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what may be done with one; with none of it, all are listed."""
        what = parser.add_subparsers(title="with one of them", metavar="[copy|show NAME]", dest="what")
        copy = what.add_parser("copy", help="write it into a folder, to be changed", allow_abbrev=False)
        show = what.add_parser("show", help="print it", allow_abbrev=False)
        for one in (copy, show):
            one.add_argument("recipe", metavar="NAME", help="as the list has it: quickstart")
        copy.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="default: this one")
        copy.add_argument("--force", action="store_true", help="write over a file of that name")

    def run(self, arguments: argparse.Namespace) -> None:
        """List them, or copy or print one."""
        if arguments.what is None:
            print("\n".join(_listed(list(library().values()))))
            return
        recipe = find_recipe(arguments.recipe)
        if arguments.what == "show":
            print(recipe.text, end="")
        else:
            _copy(recipe, Path(arguments.folder), arguments.force)


def _copy(recipe: Recipe, folder: Path, force: bool) -> None:
    """Write a recipe into a folder, and say what to do with it."""
    if folder.exists() and not folder.is_dir():
        raise SparsityError(f"`FOLDER` must be a folder, got {str(folder)!r}, which is a file.")
    target = folder / recipe.path.name
    if target.exists() and not force:
        raise SparsityError(
            f"`FOLDER` must not hold a {target.name} yet, got {str(folder)!r}. Name another folder, or add "
            "--force to write over that file."
        )
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(recipe.text, encoding="utf-8")
    before = "fit --config RECIPE --config" if recipe.is_overlay else "fit --config"
    command = "sweep" if recipe.is_sweep else before
    print(f"Wrote {target}. Next: lightning-sparse {command} {quote(str(target))}")


def _listed(recipes: list[Recipe]) -> Iterator[str]:
    """Yield the lines of the list, overlays last."""
    if not recipes:
        raise SparsityError(
            "`lightning_sparse` must have its recipes within it or beside it, got none. Install the wheel, "
            "or take a whole checkout."
        )
    rows = [(one.name, one.data, one.time, one.summary) for one in recipes if not one.is_overlay]
    overlays = [(one.name, one.summary) for one in recipes if one.is_overlay]
    yield from _table([HEADER, *rows])
    yield f"\n{OF_OVERLAYS}"
    yield from _table(overlays)
    yield f"\n{HOW_TO}"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table whose last column is wrapped to the terminal, if it is printed to one."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    before = sum(widths) + 2 * len(widths)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for *cells, last in rows:
        start = "".join(f"{cell:{width}}  " for cell, width in zip(cells, widths, strict=True))
        first, *more = wrap(last, max(columns - before, LEAST_WIDTH)) or [""]
        yield (start + first).rstrip()
        yield from (" " * before + line for line in more)
