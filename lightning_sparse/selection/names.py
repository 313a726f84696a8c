"""Names of parameters, and patterns on them."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from lightning_sparse.checks import ALL

__all__ = [
    "did_you_mean",
    "layer_name",
    "matches",
    "matches_any",
    "parameters_by_name",
    "plain_name",
    "some_names",
]


def plain_name(name: str) -> str:
    """Return the name of a parameter or layer as it was before ``torch.compile`` wrapped an inner module.

    >>> plain_name("net._orig_mod.fc.weight"), plain_name("fc._orig_mod")
    ('net.fc.weight', 'fc')
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def parameters_by_name(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters of a module, under their plain names."""
    return {plain_name(name): parameter for name, parameter in module.named_parameters()}


def layer_name(name: str) -> str:
    """Return the name under which a weight is shown: that of its layer where it is the layer's ``weight``."""
    return name.removesuffix(".weight")


def matches(name: str, pattern: str) -> bool:
    """Tell whether a pattern matches a parameter's name, or that of its layer, as tables show it.

    >>> matches("net.fc.weight", "net.fc"), matches("net.fc.bias", "net.fc")
    (True, False)
    """
    return fnmatchcase(name, pattern) or fnmatchcase(layer_name(name), pattern)


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether one of these patterns matches; the word ``"all"`` in their place matches every name.

    >>> matches_any("net.fc.weight", ["stem", "net.*"]), matches_any("net.fc.weight", "all")
    (True, True)
    """
    return patterns == ALL or any(matches(name, pattern) for pattern in patterns)


def some_names(names: Sequence[str]) -> str:
    """Return the first names of many, as errors and warnings show them.

    >>> some_names(["a", "b"]), some_names(["a", "b", "c", "d"])
    ('a, b', 'a, b, c, ...')
    """
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def did_you_mean(pattern: str, names: Sequence[str]) -> str:
    """Return the names that are most like a pattern, as the end of an error; "" if there are none."""
    close = get_close_matches(pattern, names, n=3, cutoff=0.4) or list(names[:3])
    return f" Patterns match whole names (`*` is any text); names here: {', '.join(close)}." if close else ""
