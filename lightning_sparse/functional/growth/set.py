"""SET: connections grow anywhere."""

from dataclasses import dataclass

from torch import Tensor

from lightning_sparse.functional.growth.base import ActiveWeights, GrowthRule, register_rule

__all__ = ["SET"]


@register_rule
@dataclass(frozen=True)
class SET(GrowthRule):
    """Drop the smallest ``|w|``, grow any others, each with the same chance.

    Source:
        Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
        inspired by network science", Nature Communications 9, 2018 (arXiv:1707.04780).
    """

    name = "set"
    needs_draws = True

    def drop_scores(self, active: ActiveWeights) -> Tensor:
        """Return ``|w|``."""
        return active.values.abs()

    def grow_scores(self, active: ActiveWeights) -> Tensor | None:  # noqa: ARG002 - it looks at nothing
        """Return nothing: any position will do."""
        return None
