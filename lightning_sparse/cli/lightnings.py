"""Which of Lightning's two packages a command line is of: that of the module, data or callbacks it names.

Our own classes belong to one package for as long as a process lives, and that is settled when this package is
imported. A command line for the other one is therefore run anew, with a variable that says which.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.library import recipe_file
from lightning_sparse.cli.nets import config_beside
from lightning_sparse.trainer.packages import VARIABLE, lightning_versions, packages_with

__all__ = ["find_modules_here", "run_under_its_package"]

_ENDINGS = (".yaml", ".yml")
_OF = ("model", "data", "trainer.callbacks", "trainer.logger")
"""Arguments whose classes belong to a package."""


class _Named(NamedTuple):
    """A class that is named for an argument."""

    argument: str
    path: str


def find_modules_here() -> None:
    """Let modules in the working folder be imported, as ``python -m`` does, and a console script does not."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


def run_under_its_package(words: Sequence[str], may_restart: bool = True) -> None:
    """Go on if the classes on a command line fit the Lightning of this process, else run it anew.

    Args:
        words: The command line.
        may_restart: Whether this process is that of the command line.

    Raises:
        SparsityError: If its classes are of two packages, or of another one in a process that must not start
            anew.
    """
    here = list(lightning_versions())
    if len(here) < 2:
        return
    found = [(named, package) for named in _named_by(words) if (package := _package_of(named.path))]
    if not found:
        return
    (first, wanted), *others = found
    for other, package in others:
        if package != wanted:
            raise SparsityError(
                f"`{other.argument}` must be of the same Lightning as `{first.argument}`, {wanted} (as "
                f"{first.path} is), got {other.path} of {package}. Import both from {wanted}."
            )
    if wanted == here[0]:
        return
    if not may_restart or os.environ.get(VARIABLE) == wanted:
        raise SparsityError(
            f"`{first.argument}` must be of {here[0]}, as this process uses, got {first.path} of {wanted}. "
            f"Set the variable {VARIABLE}={wanted}, or import {wanted} before lightning_sparse."
        )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: wanted})


def _package_of(path: str) -> str | None:
    """Return the package that a class is of; None if that is open, or there is no such class."""
    for package in lightning_versions():
        if path.startswith(f"{package}."):
            return package
    module, _, name = path.rpartition(".")
    if not module or module.partition(".")[0] == "lightning_sparse":
        return None
    with suppress(Exception):  # what is wrong with it will be said by who needs it
        kind = getattr(importlib.import_module(module), name)
        packages = packages_with(kind)
        return packages[0] if len(packages) == 1 else None
    return None


# What a command line names.


def _named_by(words: Sequence[str]) -> Iterator[_Named]:
    """Yield the classes that a command line names, and those of the recipes and runs on it."""
    for before, word in zip(["", *words], words, strict=False):
        option, is_joined, value = word.partition("=") if word.startswith("--") else (before, "", word)
        key = option.lstrip("-").removesuffix("+").removesuffix(".class_path")
        if (is_joined or not word.startswith("-")) and option.startswith("--") and key in _OF:
            yield _Named(key, value)
        elif is_joined or not word.startswith("-"):
            yield from _named_in(_config(value))


def _config(value: str) -> Any:
    """Return what stands in a recipe, or in that of a run; None if the word is neither."""
    import yaml

    with suppress(OSError, ValueError, yaml.YAMLError, SparsityError):
        path = Path(recipe_file(value))
        if path.suffix not in _ENDINGS:
            inside = path / "config.yaml"
            path = inside if inside.is_file() else (config_beside(path) if path.is_file() else None) or path
        if path.suffix in _ENDINGS and path.is_file():
            return yaml.safe_load(path.read_text(encoding="utf-8"))
    return None


def _named_in(config: Any) -> Iterator[_Named]:
    if not isinstance(config, dict):
        return
    if isinstance(config.get("recipe"), str):  # a sweep's
        yield from _named_in(_config(config["recipe"]))
    trainer = config.get("trainer")
    parts = dict(config)
    if isinstance(trainer, dict):
        parts |= {f"trainer.{key}": value for key, value in trainer.items()}
    for argument in _OF:
        entries = parts.get(argument)
        for entry in entries if isinstance(entries, list) else [entries]:
            path = entry.get("class_path") if isinstance(entry, dict) else entry
            if isinstance(path, str):
                yield _Named(argument, path)
