"""Connections that grow anywhere."""

from typing import Any

from lightning_sparse.callbacks.moving.base import MovingConnections
from lightning_sparse.functional.growth.set import SET

__all__ = ["SETCallback"]


class SETCallback(MovingConnections):
    """Drop the smallest weights and grow as many others at random, every so many steps (SET).

    At step t of an optimizer, which is counted after each of its steps, ``floor(f(t) * nnz)`` of each
    layer's active weights are dropped, those smallest in absolute value, and as many grow anywhere among
    those that are not kept. No gradient of an inactive weight is needed. Draws depend on seed, step and layer
    alone. How it starts, and what it logs: `MovingConnections`.

    Args:
        density: Share of the selected weights to keep, a fraction in (0, 1], to draw masks. ``None``: masks
            or Dense-plus-Sparse layers are there.
        **moving: ``every_n_steps``, ``drop_fraction``, ``drop_schedule``, ``stop_at``, ``allocation``,
            ``skip_step_on_update``, ``dense_first_layer``,
            ``pattern`` and the selection, as `MovingConnections` has them.

    Raises:
        SparsityError: As from `MovingConnections`.

    Source:
        Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
        inspired by network science", Nature Communications 9, 2018 (arXiv:1707.04780).

    >>> import torch
    >>> SETCallback(density=0.1).planned_budgets({"fc.weight": torch.Size([300, 784])})
    {'fc.weight': 23520}
    """

    def __init__(self, density: float | None = None, **moving: Any) -> None:
        super().__init__(SET(), density, **moving)
