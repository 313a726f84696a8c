"""Weights that go little by little while the net is trained."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch.optim import Optimizer

from lightning_sparse.callbacks.choosing import warn_of_selection
from lightning_sparse.callbacks.magnitude import MagnitudePruning, warn_of_early_end
from lightning_sparse.callbacks.moving.clock import Clock, check_step, step_of
from lightning_sparse.callbacks.sparsifier import Config
from lightning_sparse.checks import SparsityError, check_choice, check_count
from lightning_sparse.functional.allocation import ALLOCATIONS
from lightning_sparse.functional.filters import Filters, filters_of
from lightning_sparse.functional.gradual import budgets_within, gradual_counts, pruning_step
from lightning_sparse.functional.masks import count_kept, sparsity
from lightning_sparse.functional.pruning import plan_budgets
from lightning_sparse.functional.saliency import Ranking
from lightning_sparse.selection import match_overrides
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn
from lightning_sparse.trainer.parts import planned_steps
from lightning_sparse.types import Budgets, Shapes
from lightning_sparse.weights.optimizers import parameters_of
from lightning_sparse.weights.state import state_of

__all__ = ["GradualMagnitudePruning"]


class GradualMagnitudePruning(MagnitudePruning):
    """Prune the smallest weights little by little while the net is trained: many at first, few at the end.

    Every ``every_n_steps`` optimizer steps the weights that are smallest in absolute value are pruned, until
    ``floor(d_t N + 0.5)`` of N are left; the density d_t falls from that of the masks that are there, or from
    1, along a cubic to ``density`` at step ``stop``. The net then trains on as sparse as it is. What is
    pruned stays pruned.

    A net is pruned after a step, before Lightning validates and saves: metric, checkpoint and mask belong
    together. With several optimizers that hold selected weights, the steps of the slowest count.

    Args:
        density: Share of the selected weights to keep at the end, a fraction in (0, 1];
            ``floor(density * N + 0.5)`` are left after the last pruning, exactly.
        start: Optimizer step up to which nothing is pruned; a fraction in [0, 1] is a share of all steps.
        stop: Step of the last pruning; a fraction in (0, 1] is a share of all steps.
        every_n_steps: Optimizer steps between prunings; the last one is at ``stop`` in any case.
        allocation: ``"erk"``, ``"uniform"``, ``"epl"``, ``"epf"``: each layer falls to a budget of its own,
            with ``"uniform"`` by the same share as every other. ``"global"``: all layers compete.
        **pruning: ``min_weights_per_layer``, ``include``, ``exclude``, ``density_overrides`` (at the end),
            ``communication`` and ``verify``, as `MagnitudePruning` has them.

    Raises:
        SparsityError: If an argument is out of range, or, when fit starts, if a pattern matches nothing, the
            budget cannot be met, ``stop`` does not come after ``start``, or one of them is a share of an
            unknown number of steps.

    Source:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
        2017 (arXiv:1710.01878).

    >>> import torch
    >>> GradualMagnitudePruning(0.1, allocation="uniform").planned_budgets({"fc": torch.Size([300, 784])})
    {'fc': 23520}
    """

    run_state: ClassVar = {**MagnitudePruning.run_state, "_clock": Clock, "_start": int, "_stop": int}
    _clock: Clock
    _start: int
    _stop: int

    def __init__(
        self,
        density: float,
        *,
        start: int | float = 0,
        stop: int | float = 0.75,
        every_n_steps: int = 100,
        allocation: Ranking = "erk",
        **pruning: Any,
    ) -> None:
        check_step("start", start, 0)
        check_step("stop", stop)
        if type(start) is type(stop):
            _check_order(start, stop, start, stop)
        check_count("every_n_steps", every_n_steps)
        check_choice("allocation", allocation, ("global", *ALLOCATIONS))
        super().__init__(density, **pruning)
        self.start, self.stop, self.every_n_steps = start, stop, every_n_steps
        self.allocation = allocation
        self._told_of_end = False

    def config(self) -> Config:
        """Return what decides the masks."""
        return {
            "density": self.density,
            "start": self.start,
            "stop": self.stop,
            "every_n_steps": self.every_n_steps,
            "allocation": self.allocation,
            "min_weights_per_layer": self.min_weights_per_layer,
        }

    # How many.

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the budgets at the end; with ``"global"`` of layers that have a density of their own."""
        return self._budgets(shapes, {})

    def final_budgets(self, module: LightningModule) -> Budgets:
        """Return the same for the weights that were alive at the start, of which no layer can keep more."""
        shapes = {name: weight.shape for name, weight in state_of(module).weights.items()}
        counts = {name: where.count(shapes[name]) for name, where in self.filters(module).items()}
        budgets, own = self._budgets(shapes, counts), match_overrides(shapes, self.density_overrides)
        if self.allocation == "global":  # the others compete, for what is left as well
            return budgets
        return budgets_within(budgets, self._alive, own, self.min_weights_per_layer)

    def filters(self, module: LightningModule) -> dict[str, Filters]:
        """Return where outputs are if each of them keeps as many weights: ``"epf"``."""
        return filters_of(module, state_of(module).weights) if self.allocation == "epf" else {}

    def kept_path(self, alive: int, total: int) -> list[int]:
        """Return how many weights are alive after each pruning."""
        return gradual_counts(alive, total, self.density, self._start, self._stop, self.every_n_steps)

    # When.

    @property
    def restarting(self) -> bool:
        """Whether training will start once more: it never does."""
        return False

    def read_length(self, trainer: Trainer) -> None:
        """Find out in the first fit which steps ``start`` and ``stop`` are; warn if a fit ends before."""
        if not self.path:
            self._start = step_of(trainer, "start", self.start)
            self._stop = max(step_of(trainer, "stop", self.stop), 1)
            _check_order(self.start, self.stop, self._start, self._stop)
        elif not self.pruning:
            return
        warn_of_selection(type(self).__name__, trainer)
        made = self._clock.slowest(trainer, trainer.optimizers) if trainer.global_step == 0 else 0
        self._told_of_end = _warn_of_short_fit(self, trainer, made)

    def keep_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Do nothing: nobody goes back."""

    def after_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Count the step, and prune once all optimizers of what is pruned have made enough of them."""
        self._clock.count(trainer, optimizer)
        if not self.pruning:
            return
        due = pruning_step(self.prunings + 1, self._start, self._stop, self.every_n_steps)
        if self._clock.slowest(trainer, [optimizer]) >= due and self._steps(trainer, module) >= due:
            self.prune_(trainer, module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the fit is over before the net is as sparse as it is meant to be."""
        if self.begun and self.pruning and not self._told_of_end:
            warn_of_early_end(type(self).__name__, count_kept(self._state().masks), self.path[-1])

    def metrics(self, module: LightningModule) -> dict[str, float]:
        """Return the number of prunings made, and the sparsity."""
        masks = state_of(module).masks
        return {"gradual/prunings": float(self.prunings), "gradual/sparsity": sparsity(masks)}

    # Steps of the above.

    def _budgets(self, shapes: Shapes, filters: Mapping[str, int]) -> Budgets:
        return plan_budgets(
            shapes,
            self.density,
            self.allocation,
            fixed=match_overrides(shapes, self.density_overrides),
            min_weights=self.min_weights_per_layer,
            filters=filters,
        )

    def _steps(self, trainer: Trainer, module: LightningModule) -> int:
        """Return how many steps all optimizers have made that hold what is pruned."""
        pruned = {id(weight) for weight in state_of(module).weights.values()}
        holders = [o for o in trainer.optimizers if any(id(p) in pruned for p in parameters_of(o))]
        return self._clock.slowest(trainer, holders)


def _check_order(start: object, stop: object, first: int | float, last: int | float) -> None:
    """Refuse a schedule that ends before it begins."""
    if first >= last:
        steps = "" if (first, last) == (start, stop) else f" (steps {first} and {last})"
        raise SparsityError(
            f"`stop` must come after `start`, got {stop} and {start}{steps}. Raise `stop`, or lower `start`."
        )


def _warn_of_short_fit(callback: GradualMagnitudePruning, trainer: Trainer, made: int) -> bool:
    """Warn if fit ends before the last pruning, and not by a number of steps; tell whether it does."""
    total = planned_steps(trainer) if trainer.lightning_module.automatic_optimization else None
    if total is None or trainer.max_steps != -1 or made + total >= callback._stop:
        return False
    rank_zero_warn(
        f"{type(callback).__name__} prunes up to step {callback._stop} (`stop` {callback.stop}), and "
        f"`max_epochs` is {trainer.max_epochs}, which ends this fit at step {made + total}: the net will not "
        "become as sparse as it is meant to be. Raise `max_epochs`, or lower `stop`."
    )
    return True
