"""What every pruning method is: scores, and over what they are ranked."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_sparse.types import AllocationName, Scores

__all__ = ["PruningMethod", "Ranking"]

Ranking: TypeAlias = AllocationName | Literal["global"]
"""``"global"`` ranks the scores of all layers together; else each layer has its own budget."""


class PruningMethod(ABC):
    """Scores weights; the highest scores are kept.

    Args:
        allocation: How the budget is shared out between layers: ``"global"`` (all scores ranked together),
            ``"uniform"``, ``"erk"``, ``"epl"`` or ``"epf"``.
    """

    def __init__(self, allocation: Ranking) -> None:
        known = ("global", *get_args(AllocationName))
        if allocation not in known:
            raise ValueError(f"`allocation` must be one of {', '.join(known)}, got {allocation!r}.")
        self.allocation = allocation

    @abstractmethod
    def scores(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> Scores:
        """Return a score for each weight; ``weights`` are left as found, draws come from ``generator``."""

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))
