"""Connections that move by any rule, by its name."""

from typing import Any

from lightning_sparse.callbacks.moving.base import MovingConnections
from lightning_sparse.functional.growth import GrowthRule

__all__ = ["DynamicSparsity"]


class DynamicSparsity(MovingConnections):
    """Drop connections and grow as many others, every so many steps, by any `GrowthRule`.

    `RigLCallback` and `SETCallback` are this with the rules ``"rigl"`` and ``"set"``; a rule of your own that
    is registered by `register_rule` is used by its name, without another callback. How it starts, and what it
    logs: `MovingConnections`.

    Args:
        rule: Name of a rule, or a rule with options of its own.
        density: Share of the selected weights to keep, a fraction in (0, 1], to draw masks. ``None``: masks
            or Dense-plus-Sparse layers are there.
        **moving: ``every_n_steps``, ``drop_fraction``, ``drop_schedule``, ``stop_at``, ``allocation``,
            ``skip_step_on_update``, ``dense_first_layer``, ``grad_average``,
            ``pattern`` and the selection, as `MovingConnections` has them.

    Raises:
        SparsityError: If there is no such rule; else as from `MovingConnections`.

    >>> DynamicSparsity("rigl", density=0.1, every_n_steps=50).rule
    RigL()
    """

    def __init__(self, rule: str | GrowthRule, density: float | None = None, **moving: Any) -> None:
        super().__init__(rule, density, **moving)
