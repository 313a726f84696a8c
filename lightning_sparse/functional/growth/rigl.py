"""RigL: connections grow where the gradient is largest."""

from dataclasses import dataclass

from torch import Tensor

from lightning_sparse.functional.growth.base import ActiveWeights, GrowthRule, register_rule

__all__ = ["RigL"]


@register_rule
@dataclass(frozen=True)
class RigL(GrowthRule):
    """Drop the smallest ``|w|``, grow the largest ``|mean gradient|``.

    Source:
        Evci et al., "Rigging the Lottery", ICML 2020, section 3 (arXiv:1911.11134).
    """

    name = "rigl"
    needs_gradient = True
    takes_shards = True

    def drop_scores(self, active: ActiveWeights) -> Tensor:
        """Return ``|w|``."""
        return active.values.abs()

    def grow_scores(self, active: ActiveWeights) -> Tensor:
        """Return ``|g|`` of the whole weight."""
        return active.gradient().abs()
