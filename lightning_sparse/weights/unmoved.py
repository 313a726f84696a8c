"""The owner of masks that nobody moves."""

from typing import Any

from torch.optim import Optimizer

__all__ = ["NOBODY", "Unmoved"]


class Unmoved:
    """Owns masks where there is no callback, and leaves them as they are."""

    def move_(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """Leave them."""

    def after_step(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """Count nothing."""


NOBODY = Unmoved()
"""The one of this process: a module's state keeps no owner alive."""
