"""The recipes that come with the package, by their names.

In a wheel they are within the package, in a checkout beside it. A name is a path in there without its ending,
``mnist/lenet300_erk``, or its last part, ``lenet300_erk``, where there is no other of that name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError

__all__ = ["Recipe", "find_recipe", "library", "meant_recipes", "recipe_file"]

ENDINGS = (".yaml", ".yml")
FIRST = "quickstart"  # of all recipes the first to try; where it is, the others are
ABOUT = "about.txt"  # in each folder: what its recipes are
_TIME, _DATA_MODULE = "Time: ", "DataModule"


@dataclass(frozen=True)
class Recipe:
    """A recipe of the package.

    Its comments at the top are for people, and for the list of recipes: the first line says what is trained,
    and one that begins with ``Time:`` how long that took where somebody has measured it.

    Args:
        name: As it is asked for: ``"mnist/lenet300_erk"``.
        path: The file.
    """

    name: str
    path: Path

    @property
    def text(self) -> str:
        """What is in the file."""
        return self.path.read_text(encoding="utf-8")

    @property
    def folder(self) -> str:
        """The folder that it is in, "" if in none."""
        return self.name.rpartition("/")[0]

    @property
    def about_folder(self) -> str:
        """What the recipes of its folder are, in a line that lies beside them."""
        about = self.path.with_name(ABOUT)
        return about.read_text(encoding="utf-8").strip() if about.is_file() else ""

    @property
    def is_overlay(self) -> bool:
        """Whether it goes behind a recipe, of which it changes something."""
        return self.name.startswith("overlays/")

    @property
    def is_sweep(self) -> bool:
        """Whether it is many runs of a recipe, which `lightning-sparse sweep` makes."""
        return self.name.startswith("sweeps/")

    @property
    def summary(self) -> str:
        """What it trains, in one sentence."""
        return next(self._comments(), "")

    @property
    def time(self) -> str:
        """How long it took where it was measured, and on what."""
        times = (line.removeprefix(_TIME) for line in self._comments() if line.startswith(_TIME))
        return next(times, "not measured")

    @property
    def data(self) -> str:
        """The data it trains on, and whether it is downloaded; "" of an overlay."""
        data = self._data_module()
        is_downloaded = (data.get("init_args") or {}).get("download")
        return f"{_data_set(data)}, downloaded" if is_downloaded else _data_set(data)

    @property
    def data_set(self) -> str:
        """The data it trains on; "" of an overlay."""
        return _data_set(self._data_module())

    def _data_module(self) -> dict[str, Any]:
        """Return the part of a recipe, or of that of a sweep, that says which data."""
        import yaml

        content = yaml.safe_load(self.text)
        if self.is_sweep:
            return find_recipe(content["recipe"])._data_module()
        return content.get("data") or {}

    def _comments(self) -> Iterator[str]:
        """Yield the lines of comment that the file begins with."""
        for line in self.text.splitlines():
            if not line.startswith("#"):
                return
            yield line.lstrip("# ").rstrip()


def _data_set(data: dict[str, Any]) -> str:
    return str(data.get("class_path", "")).rpartition(".")[2].removesuffix(_DATA_MODULE)


def library() -> dict[str, Recipe]:
    """Return the recipes of the package by name: the first to try, then folder by folder.

    >>> next(iter(library())), library()["quickstart"].data
    ('quickstart', 'Digits')
    """
    folder = _folder()
    if folder is None:
        return {}
    paths = [path for path in folder.rglob("*") if path.suffix in ENDINGS]
    named = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    order = sorted(named, key=lambda name: (name != FIRST, "/" in name, name))
    return {name: Recipe(name, named[name]) for name in order}


def find_recipe(name: str, argument: str = "NAME") -> Recipe:
    """Return the recipe of the package that has a name, or alone ends in it.

    Args:
        name: ``"mnist/lenet300_erk"``, or ``"lenet300_erk"``.
        argument: What the name is called in errors.

    Raises:
        SparsityError: If there is none, or several end in that name.
    """
    known = library()
    found = [known[name]] if name in known else [known[one] for one in known if one.endswith(f"/{name}")]
    if len(found) > 1:
        choices = " or ".join(recipe.name for recipe in found)
        raise SparsityError(f"`{argument}` must name one recipe, got {name!r}, which may be {choices}.")
    if not found:
        raise SparsityError(
            f"`{argument}` must name a recipe of the package, got {name!r}"
            f"{meant_recipes(name) or '. List them: lightning-sparse recipes'}"
        )
    return found[0]


def recipe_file(value: str, argument: str = "--config") -> str:
    """Return the file that a recipe is in: one of this name, else that of the package's recipe.

    What is neither comes back as it is.

    Args:
        value: A path, or the name of a recipe.
        argument: What it is called in errors.

    Raises:
        SparsityError: If several recipes end in that name.
    """
    last = f"/{value}"
    is_name = value and any(name == value or name.endswith(last) for name in library())
    if not is_name or Path(value).is_file():
        return value
    return str(find_recipe(value, argument).path)


def meant_recipes(word: str) -> str:
    """Ask which recipes of the package were meant; "" if none is like the word.

    >>> meant_recipes("recipes/quickstart.yaml")
    '; did you mean quickstart?'
    """
    known = library()
    name = word.strip("/").removeprefix("recipes/")
    name = next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)
    lasts = {one.rpartition("/")[2]: one for one in known}
    close = get_close_matches(name, known, 3, 0.8)
    close += [lasts[last] for last in get_close_matches(name.rpartition("/")[2], lasts, 3, 0.8)]
    inside = [one for one in known if len(name) > 2 and name.lower() in one]
    found = [name] if name in known else list(dict.fromkeys(close)) or inside
    return f"; did you mean {' or '.join(found[:3])}?" if found else ""


def _folder() -> Path | None:
    """Return where the recipes are: within the package as it was installed, or beside it in a checkout."""
    package = Path(str(files("lightning_sparse")))
    folders = (package / "recipes", package.parent / "recipes")
    return next((folder for folder in folders if (folder / f"{FIRST}.yaml").is_file()), None)
