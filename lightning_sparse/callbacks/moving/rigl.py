"""Connections that grow where the gradient is largest."""

from typing import TYPE_CHECKING

from lightning_sparse.checks import SparsityError, check_count

if TYPE_CHECKING:
    pass

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_sparse.callbacks.moving.base import MovingSupports
from lightning_sparse.functional.allocation import AllocationName
from lightning_sparse.functional.growth.moves import move_support
from lightning_sparse.functional.schedules import DropScheduleName
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import loss_scale
from lightning_sparse.trainer.processes import mean_over_processes
from lightning_sparse.weights.base import Connections, GradientSum
from lightning_sparse.weights.enforcement import all_finite

__all__ = ["RigLCallback", "refuse_long_average"]


class RigLCallback(MovingSupports):
    """Drop the smallest weights and grow those with the largest gradients, every so many steps (RigL).

    At step t of an optimizer, which is counted after each of its steps, ``floor(f(t) * nnz)`` of each
    layer's active weights are dropped, those smallest in absolute value. As many grow where ``|mean
    gradient|`` is largest among all that are not kept. New weights start at zero, and so does what
    optimizers keep for any that moved; one that is dropped and grown at once keeps all. It starts from the
    masks of `PruneAtInit`, from the supports of `DCTpSConversion`, whose S then moves, or draws masks of its
    own. Gradients that are not finite put an update off to the next step.

    Beside ``sparsity/...``, the end of an epoch logs ``rigl/drop_fraction`` and, per layer and in total,
    ``rigl/moved``, ``rigl/churn``, ``rigl/survived`` and ``rigl/explored``. The last is left out for
    Dense-plus-Sparse layers: it needs a bit for each entry of the weight.

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
        grad_average: Number of steps up to an update of which the mean gradient is taken.
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers, or all that have a support.
        exclude: Patterns of weights to leave as they are.
        density_overrides: Density by pattern, for single layers; the total stays, the others share the rest.
        seed: Seed of masks of its own. ``None``: the process's own seed (``seed_everything``).
        verify: After every step, check that pruned weights are zero, every count is exact, the optimizer has
            gathered nothing for pruned weights, and all processes have the same masks.

    Raises:
        ValueError: If an argument is out of range, or, when fit starts, if there is nothing to move, the
            budget cannot be met, or ``stop_at`` is a share of an unknown number of steps.

    Source:
        Evci et al., "Rigging the Lottery", ICML 2020, section 3 (arXiv:1911.11134).

    >>> import torch
    >>> RigLCallback(density=0.1).planned_budgets({"fc.weight": torch.Size([300, 784])})
    {'fc.weight': 23520}
    """

    kind = "rigl"

    def __init__(
        self,
        density: float | None = None,
        *,
        every_n_steps: int = 100,
        drop_fraction: float = 0.3,
        drop_schedule: DropScheduleName = "cosine",
        stop_at: int | float = 0.75,
        skip_step_on_update: bool = True,
        allocation: AllocationName = "erk",
        dense_first_layer: bool = False,
        grad_average: int = 1,
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
        check_count("grad_average", grad_average)
        refuse_long_average(grad_average, every_n_steps)
        self.grad_average = grad_average

    def start_afresh(self) -> None:
        """Forget also gradients."""
        super().start_afresh()
        self._passes: dict[str, GradientSum | None] = {}  # of the step under way
        self._sums: dict[str, Tensor] = {}  # of the steps up to the next update

    def config(self) -> dict[str, str | int | float | None]:
        """Return what decides how connections move."""
        return {**super().config(), "grad_average": self.grad_average}

    def gathers(self, step: int) -> bool:
        """Tell whether the mean of the next update takes in this step."""
        update = -(-step // self.every_n_steps) * self.every_n_steps
        return update - step < self.grad_average and update < self._clock.last_step

    def prepare(self, connections: Sequence[Connections]) -> None:
        """Ask for dense gradients, from the first backward pass of the step on."""
        self._passes.update({layer.name: layer.ask() for layer in connections})

    def gather(self, trainer: Trainer, connections: Sequence[Connections]) -> bool:
        """Add the gradients of this step, as they are before masks and clipping, if all are finite."""
        average, scale = mean_over_processes(trainer), loss_scale(trainer)
        gradients: dict[str, Tensor] = {}
        for layer in connections:
            gradient = layer.gradient(self._passes.pop(layer.name, None), average, scale)
            layer.forget()
            if gradient is not None:
                gradients[layer.name] = gradient
        known = {id(layer.parameter.grad) for layer in connections}  # finite, or no step would be due
        if finite := all(id(g) in known or all_finite(g) for g in gradients.values()):
            for name, gradient in gradients.items():
                self._add(name, gradient)
        return finite

    def new_positions(self, connections: Connections, fraction: float, step: int) -> Tensor | None:
        """Drop the smallest weights, grow where the mean gradient is largest."""
        gradients = self._sums.pop(connections.name, None)
        if gradients is None or connections.parameter.grad is None:  # frozen or not in use, now at least
            return None
        grow_scores = gradients.abs()  # of the sum: it ranks as the mean does
        del gradients  # each is as large as the weight
        return move_support(connections.positions, connections.active.abs(), grow_scores, fraction)

    def state_dict(self) -> dict[str, Any]:
        """Return also the gradients gathered so far."""
        state = super().state_dict()
        return {**state, "sums": dict(self._sums)} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: If the arguments are not those that the checkpoint was made with.
        """
        super().load_state_dict(state_dict)
        if self._fitting and state_dict:
            self._sums = dict(state_dict["sums"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_passes": {}}  # they belong to backward passes under way

    def _add(self, name: str, gradient: Tensor) -> None:
        if self.grad_average == 1:
            self._sums[name] = gradient  # used right away
        elif name in self._sums:
            self._sums[name] = self._sums[name].to(gradient.device) + gradient
        else:
            self._sums[name] = gradient.clone()


def refuse_long_average(grad_average: int, every_n_steps: int) -> None:
    """Raise ValueError if the mean before one update would take in steps before the last."""
    if grad_average > every_n_steps:
        raise SparsityError(
            f"`grad_average` must be at most `every_n_steps`, {every_n_steps}, got {grad_average}. Before "
            "that, connections were others."
        )
