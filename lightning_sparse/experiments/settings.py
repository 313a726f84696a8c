"""Puts settings into a recipe: by dotted keys, in which a callback goes by its class."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from lightning_sparse.checks import SparsityError, near

__all__ = ["Config", "Takes", "first_difference", "put_"]

Config: TypeAlias = dict[str, Any]
"""A recipe as plain dicts and lists."""
Takes: TypeAlias = Callable[[Config], Collection[str]]
"""Gives the arguments of the class that an entry of a recipe names."""


def _arguments_in_recipe(item: Config) -> Collection[str]:
    return list(item.get("init_args") or ())


def put_(config: Config, key: str, value: Any, takes: Takes = _arguments_in_recipe) -> None:
    """Set one value in a recipe, in place.

    ``trainer.max_epochs`` is looked up as it is. Where the recipe names a class, the next word is one of its
    arguments: ``model.optimizer.lr``. In a list of classes it is the name of one of them, as in
    ``trainer.callbacks.PruneAtInit.density``, or an argument that only one of them sets, as in
    ``trainer.callbacks.density``. A class of the list is left out by ``null``, and a mapping gives it other
    arguments, or adds it: ``trainer.callbacks.RigLCallback: {every_n_steps: 100}``.

    Args:
        config: The recipe; whether it takes the key is not checked here.
        key: Where to put the value.
        value: What to put there.
        takes: Gives the arguments that the class of an entry has; without it, those in the recipe.

    Raises:
        SparsityError: If there is no such class in a list, or several that are meant.

    Examples:
        >>> recipe = {"trainer": {"callbacks": [{"class_path": "my.Pruner", "init_args": {"density": 0.1}}]}}
        >>> put_(recipe, "trainer.callbacks.Pruner.density", 0.5)
        >>> recipe["trainer"]["callbacks"][0]["init_args"]
        {'density': 0.5}
    """
    _Setting(key, value, takes).put(config, tuple(key.split(".")))


def first_difference(one: Any, other: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """Return where two recipes differ first, and both values there; ``None`` if they do not.

    What one has as ``null`` and the other lacks is no difference: newer versions may know more arguments.

    >>> first_difference({"a": {"b": 1, "c": None}}, {"a": {"b": 2}})
    ('a.b', 1, 2)
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            if found := first_difference(one.get(key), other.get(key), f"{place}.{key}".strip(".")):
                return found
        return None
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            if found := first_difference(a, b, f"{place}[{index}]"):
                return found
        return None
    same = one == other and isinstance(one, bool) == isinstance(other, bool)
    return None if same else (place, one, other)


@dataclass(frozen=True)
class _Setting:
    """A value on its way to its place."""

    key: str
    value: Any
    takes: Takes

    def put(self, node: Any, words: tuple[str, ...]) -> None:
        """Put it where words lead from a part of a recipe."""
        word, rest = words[0], words[1:]
        if isinstance(node, list):
            return self._put_in_list(node, words)
        if "class_path" in node and word not in ("class_path", "init_args"):
            node = _arguments(node)
        if not rest:
            node[word] = self.value
            return None
        below = node.get(word)
        if isinstance(below, str):  # a class without arguments
            below = {"class_path": below}
        elif not isinstance(below, dict | list):
            below = {}
        node[word] = below
        return self.put(below, rest)

    def _put_in_list(self, items: list[Any], words: tuple[str, ...]) -> None:
        """Put it into a class of a list, or put a class there, or take one away."""
        word, rest = words[0], words[1:]
        classes = [(_name_of(item), item) for item in items if isinstance(item, dict)]
        named = [item for name, item in classes if name == word]
        if len(named) > 1:
            raise SparsityError(f"`{self.key}` must be of one class, got {len(named)} of the name {word}.")
        if not rest and (
            not word[:1].isupper() or not (named or self.value is None or isinstance(self.value, Mapping))
        ):
            return self.put(self._only(classes, word), words)
        if not named and (rest or self.value is None):
            raise SparsityError(_no_such(self.key, word, [name for name, _ in classes]))
        if rest:
            return self.put(named[0], rest)
        if self.value is None:
            items.remove(named[0])
        elif named:
            named[0]["init_args"] = dict(self.value)
        else:
            items.append({"class_path": word, "init_args": dict(self.value)})
        return None

    def _only(self, classes: list[tuple[str, Config]], word: str) -> Config:
        """Return the one class of a list that sets an argument, or if none does, that has it."""
        found = [(name, item) for name, item in classes if _arguments(item).get(word) is not None]
        found = found or [(name, item) for name, item in classes if word in self.takes(item)]
        if len(found) == 1:
            return found[0][1]
        begin = self.key.rpartition(".")[0]
        if found:
            names = [name for name, _ in found]
            raise SparsityError(
                f"`{self.key}` must be of one class, got {' and '.join(names)}, which all have it. Write "
                f"{' or '.join(f'{begin}.{name}.{word}' for name in names)}."
            )
        arguments = dict.fromkeys(name for _, item in classes for name in self.takes(item))
        raise SparsityError(
            f"`{self.key}` must be an argument of a class in `{begin}`, which has "
            f"{', '.join(name for name, _ in classes) or 'none'}, got {word!r}{near(word, arguments) or '.'}"
        )


def _no_such(key: str, word: str, names: list[str]) -> str:
    place = key.partition(f".{word}")[0]
    return (
        f"`{key}` must name a class in `{place}` of the recipe, which has {', '.join(names) or 'none'}, got "
        f"{word!r}{near(word, names) or '.'}"
    )


def _arguments(item: Config) -> Config:
    """Return the arguments of a class, to read and to write."""
    if not isinstance(item.get("init_args"), dict):
        item["init_args"] = {}
    arguments: Config = item["init_args"]
    return arguments


def _name_of(item: Config) -> str:
    return str(item.get("class_path")).rpartition(".")[2]
