"""What is trained in full beside sparse changes of frozen weights: parameters named by patterns."""

import glob
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import accumulate

from torch import nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.base import compact_layers
from lightning_sparse.layers.copies import nets_of_copies
from lightning_sparse.selection import countable_weights, plain_name
from lightning_sparse.selection.names import did_you_mean

__all__ = ["freeze_but_", "weights_named"]


def weights_named(module: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Return the weights of linear and convolutional layers that are named, as patterns that match no other.

    Raises:
        SparsityError: If a pattern matches nothing.
    """
    named = _named(module, patterns)
    return [glob.escape(name) for name, weight in countable_weights(module).items() if id(weight) in named]


def freeze_but_(module: nn.Module, patterns: Iterable[str]) -> None:
    """Freeze all parameters but those of sparse parts, and but those that are named, frozen before or not.

    Nets that are frozen copies of others stay as they are. Modules stay in their modes: batch norm goes on to
    update its statistics in training.

    Args:
        module: Any module, its layers converted.
        patterns: Patterns (``fnmatch``) on names of parameters, or of modules for all that they hold.

    Raises:
        SparsityError: If a pattern matches nothing.

    Examples:
        >>> from lightning_sparse.layers import convert_
        >>> net = nn.Sequential(nn.Linear(20, 10), nn.LayerNorm(10), nn.Linear(10, 5))
        >>> _ = convert_(net, 0.1, offset="pretrained", include=["0"])
        >>> freeze_but_(net, ["2", "*.bias"])
        >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
        ['0.values', '0.bias', '1.bias', '2.weight', '2.bias']
    """
    named = _named(module, patterns)
    parts = [(one.values, one.alpha, one.base) for one in compact_layers(module).values()]
    own = {id(parameter) for part in parts for parameter in part}
    copies = nets_of_copies(module)
    for name, parameter in module.named_parameters():
        if id(parameter) in own or not copies.isdisjoint(_names(plain_name(name))):
            continue
        trained = id(parameter) in named and parameter.is_floating_point()
        parameter.requires_grad_(trained)
        if not trained:
            parameter.grad = None  # an optimizer would make a step with what is left of an earlier fit


def _named(module: nn.Module, patterns: Iterable[str]) -> set[int]:
    """Return the ids of the parameters that patterns name."""
    found = {plain_name(n): id(p) for n, p in module.named_parameters(remove_duplicate=False)}
    named: set[int] = set()
    for pattern in patterns:
        matched = [one for name, one in found.items() if any(fnmatchcase(n, pattern) for n in _names(name))]
        if not matched:
            hint = did_you_mean(pattern, list(found))
            raise SparsityError(f"`train` pattern {pattern!r} matches no parameter of the module.{hint}")
        named.update(matched)
    return named


def _names(name: str) -> Iterator[str]:
    """Yield a parameter's name and those of the modules that hold it.

    >>> list(_names("net.fc.bias"))
    ['net', 'net.fc', 'net.fc.bias']
    """
    return accumulate(name.split("."), "{}.{}".format)
