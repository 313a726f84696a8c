"""How connections move: which are dropped, and where others grow. A rule is a file of its own here."""

from lightning_sparse.functional.growth.base import (
    GROWTH_RULES,
    ActiveWeights,
    GrowthRule,
    move,
    register_rule,
    rule_from_name,
)
from lightning_sparse.functional.growth.rigl import RigL
from lightning_sparse.functional.growth.set import SET
from lightning_sparse.functional.growth.together import move_together
from lightning_sparse.registry import modules_in

__all__ = [
    "GROWTH_RULES",
    "SET",
    "ActiveWeights",
    "GrowthRule",
    "RigL",
    "move",
    "move_together",
    "register_rule",
    "rule_from_name",
]

modules_in(__name__, __path__)
