"""What a rule of growth is: which active weights go, and where others grow."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_choice
from lightning_sparse.functional.finite import check_finite
from lightning_sparse.functional.growth.moves import move_support, move_support_at_random
from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.registry import add_row

__all__ = ["GROWTH_RULES", "ActiveWeights", "GrowthRule", "move", "register_rule", "rule_from_name"]


def _no_gradient() -> Tensor:
    raise SparsityError("This rule needs the dense gradient. Set `needs_gradient = True` in its class.")


@dataclass(frozen=True)
class ActiveWeights:
    """What a rule may look at: the k active ones of the N weights of a layer.

    Args:
        values: Their values, ``(k,)``.
        positions: Their flat positions, ``(k,)``: integers, ascending.
        shape: Shape of the whole weight.
        draws: For random draws, as `draws_of` makes it.
        gradient: Gives the mean gradient of all N weights, or a positive multiple of it, in the weight's
            shape, to rules with ``needs_gradient``. It may be asked for once, and is then no longer held
            here: it is as large as the dense weight.
    """

    values: Tensor
    positions: Tensor
    shape: torch.Size
    draws: torch.Generator
    gradient: Callable[[], Tensor] = _no_gradient


class GrowthRule(ABC):
    """Says which connections go and where others grow; their number is the business of `move`.

    A rule keeps nothing between moves. One that has options is a frozen dataclass, so that it has a ``repr``.
    """

    name: ClassVar[str]
    """Name of the rule, and first word of what is logged about it: ``"rigl"`` for ``rigl/churn``."""
    needs_gradient: ClassVar[bool] = False
    """Whether it asks for the dense gradient."""
    takes_shards: ClassVar[bool] = False
    """Whether its scores go entry by entry, so that a process can take those of its own rows."""
    needs_draws: ClassVar[bool] = False
    """Whether it draws at random, or has `move` do so; runs then share one seed and keep it."""

    @abstractmethod
    def drop_scores(self, active: ActiveWeights) -> Tensor:
        """Return scores of the active weights, ``(k,)``: the lowest are dropped."""

    @abstractmethod
    def grow_scores(self, active: ActiveWeights) -> Tensor | None:
        """Return scores of all N weights: the highest of those not kept grow. ``None``: any, at random."""


def move(
    rule: GrowthRule,
    active: ActiveWeights,
    fraction: float,
    *,
    pattern: Pattern = UNSTRUCTURED,
    name: str = "the layer",
) -> Tensor:
    """Drop a share of the active weights and grow as many others, as a rule says.

    Args:
        rule: Scores what may go, and what may grow.
        active: The active weights.
        fraction: Share of them to drop, in [0, 1]: ``floor(fraction * k)``.
        pattern: Which sets of weights may be active, before and after.
        name: What errors call the weight.

    Returns:
        The new k positions, ascending, in the dtype of ``active.positions``. A weight that is dropped and
        grown again at once has not moved.

    Raises:
        SparsityError: If ``fraction`` is out of range, positions are not ascending, or active weights or
            scores that count are not finite.

    Examples:
        >>> from lightning_sparse.functional.growth import RigL
        >>> gradient = torch.tensor([[5.0, -9.0, 3.0, -6.0]])
        >>> active = ActiveWeights(
        ...     values=torch.tensor([0.1, -0.7]),
        ...     positions=torch.tensor([0, 1]),
        ...     shape=gradient.shape,
        ...     draws=torch.Generator(),
        ...     gradient=lambda: gradient,
        ... )
        >>> move(RigL(), active, 0.5)
        tensor([1, 3])
    """
    check_finite({name: active.values})
    drop_scores, grow_scores = rule.drop_scores(active), rule.grow_scores(active)
    if grow_scores is None:
        return move_support_at_random(
            active.positions, drop_scores, active.shape, fraction, active.draws, pattern=pattern
        )
    return move_support(active.positions, drop_scores, grow_scores, fraction, pattern=pattern)


GROWTH_RULES: dict[str, type[GrowthRule]] = {}
"""Every rule by name."""

_Rule = TypeVar("_Rule", bound=type[GrowthRule])


def register_rule(rule: _Rule) -> _Rule:
    """Add a rule to `GROWTH_RULES` by its name; a decorator of its class.

    Raises:
        SparsityError: If another rule has that name.
    """
    add_row(GROWTH_RULES, rule.name, rule)
    return rule


def rule_from_name(rule: str | GrowthRule) -> GrowthRule:
    """Return the rule of that name, with its default options, or the rule itself.

    Raises:
        SparsityError: If there is no such name.

    >>> rule_from_name("rigl")
    RigL()
    """
    if isinstance(rule, GrowthRule):
        return rule
    check_choice("rule", rule, GROWTH_RULES)
    return GROWTH_RULES[rule]()
