"""Who may change masks: their owner, which may be nobody."""

from typing import Any, Protocol

from torch.optim import Optimizer

__all__ = ["NOBODY", "Owner", "Unmoved"]


class Owner(Protocol):
    """Who may change the masks of a module: a callback."""

    def move_(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """Change masks before a step, or leave them."""

    def after_step(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """Count a step that was made."""


class Unmoved:
    """Owns masks where there is no callback, and leaves them as they are."""

    def move_(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """Leave them."""

    def after_step(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """Count nothing."""


NOBODY = Unmoved()
"""The one of this process: a module's state keeps no owner alive."""
