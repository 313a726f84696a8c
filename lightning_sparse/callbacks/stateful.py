"""What a callback counts and gathers, in a form that checkpoints hold."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = ["Stateful"]


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
