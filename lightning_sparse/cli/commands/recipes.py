"""``lightning-sparse recipes``: those that come with the package, to list, to read and to change."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from textwrap import wrap

from lightning_sparse.checks import SparsityError, near
from lightning_sparse.cli.commands.base import Command, register_command
from lightning_sparse.cli.library import Recipe, find_recipe, library

__all__ = ["Recipes"]

FOLDERS = ("recipes", "of them", "data", "what they are")
HEADER = ("recipe", "data", "time", "what it trains")
OF_OVERLAYS = """\
Overlays change one thing of a recipe, and go behind it: --config RECIPE --config OVERLAY"""
OF_FOLDERS = """\
List those of a folder: lightning-sparse recipes list FOLDER    All of them: lightning-sparse recipes list"""
HOW_TO = """\
Train one: lightning-sparse fit --config NAME    Look at what it would do: lightning-sparse plan --config NAME
Those in sweeps/ are many runs of a recipe: lightning-sparse sweep NAME
Change one: lightning-sparse recipes copy NAME   Read one: lightning-sparse recipes show NAME
Of mnist/lenet300_erk the last part, lenet300_erk, is name enough. Times: of CPU, measured on one core."""
LEAST_WIDTH = 30


@register_command
class Recipes(Command):
    """List the recipes of the package by folder, or those of one; `copy` writes one, `show` prints it."""

    name = "recipes"
    usage = "[list FOLDER | copy NAME | show NAME]"
    summary = "Lists the recipes that come with the package, or writes one here to be changed."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what may be done with them; with none of it, their folders are listed."""
        what = parser.add_subparsers(title="with them", metavar="[list|copy|show]", dest="what")
        several = what.add_parser("list", help="list those of a folder, or all", allow_abbrev=False)
        several.add_argument(
            "folder", metavar="FOLDER", nargs="?", help="as the list of folders has it: mnist"
        )
        copy = what.add_parser("copy", help="write one into a folder, to be changed", allow_abbrev=False)
        show = what.add_parser("show", help="print one", allow_abbrev=False)
        for one in (copy, show):
            one.add_argument("recipe", metavar="NAME", help="as the list has it: quickstart")
        copy.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="default: this one")
        copy.add_argument("--force", action="store_true", help="write over a file of that name")

    def run(self, arguments: argparse.Namespace) -> None:
        """List folders or recipes, or copy or print one."""
        if arguments.what in (None, "list"):
            found = _known()
            lines = _listed(_in_folder(found, arguments.folder)) if arguments.what else _folders(found)
            print("\n".join(lines))
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


def _known() -> list[Recipe]:
    """Return all recipes; without any the package is not whole."""
    if recipes := list(library().values()):
        return recipes
    raise SparsityError(
        "`lightning_sparse` must have its recipes within it or beside it, got none. Install the wheel, "
        "or take a whole checkout."
    )


def _in_folder(recipes: list[Recipe], folder: str | None) -> list[Recipe]:
    """Return those of a folder; of ``None`` all."""
    if folder is None:
        return recipes
    name = folder.strip("/").removeprefix("recipes/")
    if found := [one for one in recipes if one.folder == name]:
        return found
    folders = list(dict.fromkeys(one.folder for one in recipes if one.folder))
    raise SparsityError(
        f"`FOLDER` must be one of {', '.join(folders)}, got {folder!r}{near(name, folders) or '.'}"
    )


def _folders(recipes: list[Recipe]) -> Iterator[str]:
    """Yield the lines of the list of folders; a recipe in none of them stands for itself."""
    rows = [(one.name, "1", one.data, one.summary) for one in recipes if not one.folder]
    for folder in dict.fromkeys(one.folder for one in recipes if one.folder):
        inside = [one for one in recipes if one.folder == folder]
        data = dict.fromkeys(one.data_set for one in inside if one.data_set)
        rows.append((f"{folder}/", str(len(inside)), ", ".join(data), inside[0].about_folder))
    yield from _table([FOLDERS, *rows])
    yield f"\n{OF_FOLDERS}\n{HOW_TO}"


def _listed(recipes: list[Recipe]) -> Iterator[str]:
    """Yield the lines of the list, overlays last."""
    rows = [(one.name, one.data, one.time, one.summary) for one in recipes if not one.is_overlay]
    overlays = [(one.name, one.summary) for one in recipes if one.is_overlay]
    if rows:
        yield from _table([HEADER, *rows])
        yield ""
    if overlays:
        yield OF_OVERLAYS
        yield from _table(overlays)
        yield ""
    yield HOW_TO


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
