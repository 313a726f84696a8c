"""What a callback counts and gathers, in a form that checkpoints hold."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from lightning_sparse.types import Masks

__all__ = ["Brought", "Stateful"]


class Stateful(ABC):
    """Goes into a checkpoint as plain values and tensors of its own choice."""

    layout: ClassVar[Mapping[str, type]]
    """What ``state_dict`` returns: the class of each entry."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""

    @abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""


@dataclass(frozen=True)
class Brought:
    """What a callback brought to a module it has not met in this stage, until it takes that up.

    Attributes:
        masks: Those that it owned there.
        done: Whether it had done its part; without masks it has handed them over.
        source: Where from: a checkpoint, or the callback and module that this pair was copied from.
    """

    masks: Masks = field(default_factory=dict)
    done: bool = False
    source: Literal["checkpoint", "copy"] | None = None
