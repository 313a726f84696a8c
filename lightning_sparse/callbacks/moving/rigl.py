"""Connections that grow where the gradient is largest."""

from typing import Any

from lightning_sparse.callbacks.moving.base import MovingConnections
from lightning_sparse.functional.growth.rigl import RigL

__all__ = ["RigLCallback"]


class RigLCallback(MovingConnections):
    """Drop the smallest weights and grow those with the largest gradients, every so many steps (RigL).

    At step t of an optimizer, which is counted after each of its steps, ``floor(f(t) * nnz)`` of each
    layer's active weights are dropped, those smallest in absolute value. As many grow where ``|mean
    gradient|`` is largest among all that are not kept. How it starts, and what it logs: `MovingConnections`.

    Args:
        density: Share of the selected weights to keep, a fraction in (0, 1], to draw masks. ``None``: masks
            or Dense-plus-Sparse layers are there.
        skip_step_on_update: Whether an update takes the place of the step of its optimizer.
        **moving: ``every_n_steps``, ``drop_fraction``, ``drop_schedule``, ``stop_at``, ``allocation``,
            ``dense_first_layer``, ``grad_average``,
            ``pattern`` and the selection, as `MovingConnections` has them.

    Raises:
        SparsityError: As from `MovingConnections`.

    Source:
        Evci et al., "Rigging the Lottery", ICML 2020, section 3 (arXiv:1911.11134).

    >>> import torch
    >>> RigLCallback(density=0.1).planned_budgets({"fc.weight": torch.Size([300, 784])})
    {'fc.weight': 23520}
    """

    def __init__(
        self, density: float | None = None, *, skip_step_on_update: bool = True, **moving: Any
    ) -> None:
        super().__init__(RigL(), density, skip_step_on_update=skip_step_on_update, **moving)
