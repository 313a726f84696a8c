"""Every parameter of a module once, under all its names, and what speaks for or against masking it."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lightning_sparse.selection.layer_types import matrices_of
from lightning_sparse.selection.names import matches_any, plain_name

__all__ = ["Candidate", "candidates_of"]


@dataclass
class Candidate:
    """A parameter under all its names.

    Attributes:
        names: As modules hold it, in the order of ``named_modules()``.
        parameter: The parameter.
        by_default: Whether it is selected without being named: a layer's own matrix, wherever it is held.
    """

    names: list[str]
    parameter: nn.Parameter
    by_default: bool

    @property
    def name(self) -> str:
        """The name under which it counts."""
        return self.names[0]

    @property
    def lazy(self) -> bool:
        """Whether it has no shape yet."""
        return isinstance(self.parameter, UninitializedParameter)

    @property
    def maskable(self) -> bool:
        """Whether it can be masked at all; a lazy one is checked when it is chosen."""
        if self.lazy:
            return True
        return self.parameter.ndim >= 2 and self.parameter.is_floating_point() and self.parameter.numel() > 0

    @property
    def matrix(self) -> bool:
        """Whether it is more than a vector stored as a row or a column, such as the norms of weight norm."""
        if self.lazy or self.by_default:
            return self.maskable
        return self.maskable and sum(size > 1 for size in self.parameter.shape) >= 2

    def matches(self, patterns: Iterable[str]) -> bool:
        """Tell whether a pattern matches one of its names."""
        return any(matches_any(name, patterns) for name in self.names)


def candidates_of(module: nn.Module) -> list[Candidate]:
    """Return every parameter once, in the order of ``named_parameters()``."""
    found: dict[int, Candidate] = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        usual = matrices_of(layer) if layer._parameters else ()
        for key, parameter in layer._parameters.items():
            if parameter is None:
                continue
            candidate = found.setdefault(id(parameter), Candidate([], parameter, True))
            candidate.names.append(plain_name(f"{path}.{key}" if path else key))
            candidate.by_default &= key in usual
    return list(found.values())
