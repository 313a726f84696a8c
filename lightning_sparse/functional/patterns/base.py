"""What a pattern is: which sets of weights may be kept, and how the best of them are picked from scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.registry import add_row
from lightning_sparse.types import Budgets, Masks, Scores, Shapes

__all__ = ["PATTERNS", "GroupPattern", "Pattern", "refuse_odd_shapes", "register_pattern"]


class Pattern(ABC):
    """Which sets of weights may be kept. One that has options is a frozen dataclass."""

    @abstractmethod
    def check(self, shapes: Shapes, k: int) -> None:
        """Raise SparsityError unless k weights of these layers together can be kept, and name the way out."""

    @abstractmethod
    def best(self, scores: Scores, k: int) -> Masks:
        """Keep the k highest scores over all layers together, as far as the pattern lets them be kept.

        Of equal scores the first in (layer, flat index) order are kept.

        Args:
            scores: Scores by layer, shaped like the weights.
            k: Number of weights to keep in all, from 0 to all.

        Raises:
            SparsityError: If the pattern cannot have k weights, or a score is NaN.
        """

    @abstractmethod
    def filled(self, kept: Tensor, scores: Tensor, k: int) -> Tensor:
        """Return a mask of k weights of one layer: those that are kept already, and the best of the others.

        Args:
            kept: Their flat positions, int64.
            scores: Finite scores in the shape of the weight.
            k: Number of weights, the kept ones included.

        Raises:
            SparsityError: If the pattern cannot have k weights, or these among them.
        """

    @abstractmethod
    def filled_at_random(self, kept: Tensor, shape: torch.Size, k: int, generator: torch.Generator) -> Tensor:
        """Do as `filled`, with any of the others, each set of them with the same chance."""


class GroupPattern(Pattern, ABC):
    """A pattern of equal groups, which not every shape can be split into, nor every count shared out over."""

    @property
    @abstractmethod
    def density(self) -> float | None:
        """The share of each layer that it keeps, a fraction in (0, 1]; ``None`` if that may differ."""

    @abstractmethod
    def lacks(self, shape: torch.Size) -> str:
        """Say what a weight of that shape lacks to be split into groups; "" if nothing."""

    @abstractmethod
    def least(self, shape: torch.Size, min_weights: int) -> int:
        """Return the smallest count that a layer can have.

        Args:
            shape: Shape of its weight.
            min_weights: It keeps at least this many (all, if it is smaller).

        Raises:
            SparsityError: If it cannot.
        """

    @abstractmethod
    def nearest(self, shapes: Shapes, budgets: Budgets) -> Budgets:
        """Return budgets that the pattern can have, near to these and to their sum.

        Args:
            shapes: Weight shape by layer; all of them can be split into groups.
            budgets: Number of weights to keep by layer; the same names.

        Raises:
            SparsityError: If there is one count only, and it is another.
        """


def refuse_odd_shapes(pattern: GroupPattern, shapes: Shapes) -> None:
    """Refuse the first weight that cannot be split into groups.

    Raises:
        SparsityError: It names the weight, and the way out.
    """
    for name, shape in shapes.items():
        if lacking := pattern.lacks(shape):
            raise SparsityError(
                f"`pattern` {pattern} needs {lacking}, got shape {tuple(shape)} of {name!r}. Leave this "
                "weight out with `exclude`."
            )


PATTERNS: dict[str, Callable[[], Pattern]] = {}
"""Every pattern with a name, as what makes it. N:M, such as "2:4", needs no row."""

_Maker = TypeVar("_Maker", bound=Callable[[], Pattern])


def register_pattern(name: str) -> Callable[[_Maker], _Maker]:
    """Give a pattern a name; a decorator of its class, or of a function that makes one.

    Args:
        name: From then on good wherever a pattern is asked for.

    Raises:
        SparsityError: If another pattern has that name.
    """

    def register(maker: _Maker) -> _Maker:
        add_row(PATTERNS, name, maker)
        return maker

    return register
