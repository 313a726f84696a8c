"""Connections that grow anywhere."""

from typing import Any

from torch import Tensor

from lightning_sparse.callbacks.moving.base import MovingSupports
from lightning_sparse.functional.allocation import AllocationName
from lightning_sparse.functional.growth.moves import draws_of, move_support_at_random
from lightning_sparse.functional.schedules import DropScheduleName
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.processes import seed_of_rank_zero
from lightning_sparse.weights.base import Connections

__all__ = ["SETCallback"]


class SETCallback(MovingSupports):
    """Drop the smallest weights and grow as many others at random, every so many steps (SET).

    At step t of an optimizer, which is counted after each of its steps, ``floor(f(t) * nnz)`` of each
    layer's active weights are dropped, those smallest in absolute value, and as many grow anywhere among
    those that are not kept. New weights start at zero, and so does what optimizers keep for any that moved.
    No gradient of an inactive weight is needed. Draws depend on seed, step and layer alone. It starts as
    `RigLCallback` does, and logs the same under ``set/...``.

    Args:
        density: Share of the selected weights to keep, a fraction in (0, 1], to draw masks. ``None``: masks
            or Dense-plus-Sparse layers are there.
        every_n_steps: Optimizer steps between updates.
        drop_fraction: Share of the active weights to drop, in [0, 1], as it is at the start.
        drop_schedule: How it develops: ``"cosine"``, ``"constant"``, ``"linear"`` or ``"inverse_power"``.
        stop_at: Step from which on connections rest; a fraction in (0, 1] is a share of all steps.
        skip_step_on_update: Whether an update takes the place of the step of its optimizer.
        allocation: How a budget is shared out over layers: ``"erk"``, ``"uniform"``, ``"epl"``, ``"epf"``.
        dense_first_layer: Leave the first selected weight dense; it does not count towards the density.
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers, or all that have a support.
        exclude: Patterns of weights to leave as they are.
        density_overrides: Density by pattern, for single layers; the total stays, the others share the rest.
        seed: Seed of all draws. ``None``: the process's own seed (``seed_everything``).
        verify: After every step, check that pruned weights are zero, every count is exact, the optimizer has
            gathered nothing for pruned weights, and all processes have the same masks.

    Raises:
        ValueError: If an argument is out of range, or, when fit starts, if there is nothing to move, the
            budget cannot be met, or ``stop_at`` is a share of an unknown number of steps.

    Source:
        Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
        inspired by network science", Nature Communications 9, 2018 (arXiv:1707.04780).

    >>> import torch
    >>> SETCallback(density=0.1).planned_budgets({"fc.weight": torch.Size([300, 784])})
    {'fc.weight': 23520}
    """

    kind = "set"

    def __init__(
        self,
        density: float | None = None,
        *,
        every_n_steps: int = 100,
        drop_fraction: float = 0.3,
        drop_schedule: DropScheduleName = "cosine",
        stop_at: int | float = 0.75,
        skip_step_on_update: bool = False,
        allocation: AllocationName = "erk",
        dense_first_layer: bool = False,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        seed: int | None = None,
        verify: bool = False,
    ) -> None:
        super().__init__(
            density,
            every_n_steps=every_n_steps,
            drop_fraction=drop_fraction,
            drop_schedule=drop_schedule,
            stop_at=stop_at,
            skip_step_on_update=skip_step_on_update,
            allocation=allocation,
            dense_first_layer=dense_first_layer,
            include=include,
            exclude=exclude,
            density_overrides=density_overrides,
            seed=seed,
            verify=verify,
        )

    def start_afresh(self) -> None:
        """Forget also the seed of the draws."""
        super().start_afresh()
        self._draw_seed: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle the seed: rank 0's, or that of the run that is resumed."""
        super().on_fit_start(trainer, pl_module)
        if self._draw_seed is None:
            self._draw_seed = seed_of_rank_zero(trainer, self.seed)

    def new_positions(self, connections: Connections, fraction: float, step: int) -> Tensor | None:
        """Drop the smallest weights, grow anywhere."""
        assert self._draw_seed is not None, "set when fit started"
        if connections.parameter.grad is None:  # frozen or not in use: what grew would stay zero
            return None
        draws = draws_of(self._draw_seed, step, connections.name)
        size = connections.shape.numel()
        return move_support_at_random(connections.positions, connections.active.abs(), size, fraction, draws)

    def state_dict(self) -> dict[str, Any]:
        """Return also the seed of the draws."""
        state = super().state_dict()
        return {**state, "draw_seed": self._draw_seed} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the draws of then.

        Raises:
            ValueError: If the arguments are not those that the checkpoint was made with.
        """
        super().load_state_dict(state_dict)
        if self._fitting and state_dict:
            self._draw_seed = state_dict["draw_seed"]
