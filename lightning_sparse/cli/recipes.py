"""Recipes on a command line: their files, and what is wrong with one, before anything else reads it."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_sparse.checks import SparsityError, near
from lightning_sparse.cli.library import meant_recipes, recipe_file
from lightning_sparse.files.repeated import repeated_key

if TYPE_CHECKING:
    from yaml import MarkedYAMLError, Node

__all__ = ["check_recipes", "near_file", "replaced", "with_files", "without_model"]

_OF_RECIPES = ("--config", "-c")
_ENDINGS = (".yaml", ".yml")


def check_recipes(words: Sequence[str]) -> None:
    """Refuse recipes on a command line that are not there, or hold no mapping in YAML.

    A file that another option names (``--trainer trainer.yaml``) must be YAML as well.

    Raises:
        SparsityError: It names the file, and the line where YAML ends to make sense.
    """
    for option, value in _options(words):
        if option in _OF_RECIPES and not _is_elsewhere(value):
            _check_mapping(option, value, _read(option, value))
        elif value.endswith(_ENDINGS) and Path(value).is_file():
            _read(option, value)


def with_files(words: Sequence[str]) -> list[str]:
    """Return a command line with the files of the package's recipes in the place of their names.

    >>> with_files(["fit", "--config", "quickstart"])[2].endswith("recipes/quickstart.yaml")
    True
    """
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        option, is_joined, value = word.partition("=")
        if option in _OF_RECIPES and is_joined:
            found.append(f"{option}={_file_of(value)}")
        else:
            found.append(_file_of(word) if before in _OF_RECIPES else word)
    return found


def without_model(words: Sequence[str]) -> list[str]:
    """Return the recipes on a command line that name no model: overlays, which go behind one that does."""
    return [file for file, node in _recipes(words) if "model" not in _keys(node)]


def replaced(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return each overlay whose callbacks a recipe behind it replaces, with that recipe."""
    return [
        (overlay, recipe)
        for (overlay, node), (recipe, behind) in combinations(_recipes(words), 2)
        if "model" not in _keys(node) and "model" in _keys(behind)
        if "callbacks" in _keys(_under(node, "trainer")) and "callbacks" in _keys(_under(behind, "trainer"))
    ]


def _recipes(words: Sequence[str]) -> "list[tuple[str, Node | None]]":
    """Return the recipes on a command line that are files here, as they are named, with the YAML in them."""
    values = [value for option, value in _options(words) if option in _OF_RECIPES]
    here = [value for value in values if not _is_elsewhere(value) and Path(_file_of(value)).is_file()]
    return [(value, _read("--config", value)) for value in here]


def _file_of(value: str) -> str:
    return value if _is_elsewhere(value) else recipe_file(value)


def near_file(path: str | Path, rest: str = "") -> str:
    """Ask whether a file of a like name was meant; else return ``rest``."""
    folder = Path(path).parent
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return near(Path(path).name, names, 3) or rest


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return each option of a command line with its value."""
    for word, following in zip(words, [*words[1:], "-"], strict=True):
        option, is_joined, value = word.partition("=")
        if option.startswith("-") and (is_joined or not following.startswith("-")):
            yield option, value if is_joined else following


def _is_elsewhere(value: str) -> bool:
    """Tell whether a recipe is no local file, but a URL or written out on the command line."""
    return "://" in value or "\n" in value or value.lstrip().startswith("{")


def _read(option: str, value: str) -> "Node | None":
    """Return the YAML in a file, or in a recipe of the package."""
    import yaml

    path = Path(_file_of(value) if option in _OF_RECIPES else value)
    if not value:
        raise _refusal(option, value, ", which names no file.")
    if not path.exists():
        raise _refusal(option, value, f", which does not exist{_near_recipe(path)}")
    if path.is_dir():
        recipes = sorted(file.name for file in path.iterdir() if file.suffix in _ENDINGS)
        inside = f"one in it: {', '.join(recipes[:5])}" if recipes else "the file itself"
        raise _refusal(option, value, f", which is a folder. Name {inside}.")
    try:
        node: Node | None = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise _refusal(option, value, ", which is no text. Save it as UTF-8.") from None
    except OSError as error:
        raise _refusal(option, value, f", which cannot be read: {error.strerror}.") from None
    except yaml.MarkedYAMLError as error:
        raise _refusal(option, value, _where(error)) from None
    _refuse_twice(option, value, node)
    return node


def _near_recipe(path: Path) -> str:
    """Ask which file or recipe of the package was meant; else say where there are some."""
    there = ". Recipes of the package are listed by `lightning-sparse recipes`."
    return near_file(path) or meant_recipes(str(path)) or there


def _where(error: "MarkedYAMLError") -> str:
    mark = error.problem_mark or error.context_mark
    line = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "some line"
    is_alias = "undefined alias" in str(error.problem) or "scanning an alias" in str(error.context)
    if is_alias:
        return f', which is no YAML at {line}: text that starts with `*` needs quotes, as in ["*head"].'
    return (
        f", which is no YAML at {line}: {error.problem}. Look at the indentation, brackets and colons "
        "there and in the line above."
    )


def _refuse_twice(option: str, value: str, node: "Node | None") -> None:
    """Refuse a key that stands twice in one mapping."""
    if found := repeated_key(node):
        twice = ", where {!r} stands twice, in lines {} and {}".format(*found)
        raise _refusal(option, value, f"{twice}. Put what is under both under one.")


def _check_mapping(option: str, value: str, node: "Node | None") -> None:
    import yaml

    form = "A recipe begins with `trainer:`, `model:` or `data:`."
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
        raise _refusal(option, value, f", which is empty. {form}")
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "one value"
        raise _refusal(option, value, f", which holds {kind} at its top. {form}")


def _keys(node: "Node | None") -> list[str]:
    import yaml

    return [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []


def _under(node: "Node | None", name: str) -> "Node | None":
    import yaml

    entries = node.value if isinstance(node, yaml.MappingNode) else []
    return next((item for key, item in entries if key.value == name), None)


def _refusal(option: str, value: str, what: str) -> SparsityError:
    kind = "a recipe" if option in _OF_RECIPES else "a file in YAML"
    return SparsityError(f"`{option}` must be {kind}, got {value!r}{what}")
