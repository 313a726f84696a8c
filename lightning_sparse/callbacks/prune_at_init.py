"""Fixed masks, made before the first step."""

import torch

from lightning_sparse._lightning import LightningModule
from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.callbacks.refusals import check_integer
from lightning_sparse.functional.pruning import masks_from_scores, plan_budgets
from lightning_sparse.functional.saliency import MethodName, PruningMethod, method_from_name
from lightning_sparse.selection import match_overrides
from lightning_sparse.types import Budgets, Masks, Shapes

__all__ = ["PruneAtInit"]


class PruneAtInit(SparsityCallback):
    """Prune a net once, when training starts, and train what is left.

    The masks are made after the sanity validation, on the weights as they are then. A run resumed from a
    checkpoint takes its masks from there.

    Args:
        method: ``"random"`` (drawn from all weights at once), ``"uniform"``, ``"erk"``, ``"epl"``, ``"epf"``
            (drawn at random within a budget per layer), ``"magnitude"``, or a method object with options of
            its own, such as ``Magnitude(allocation="erk")``.
        density: Share of the selected weights to keep, a fraction in (0, 1]; ``floor(density * N + 0.5)`` of
            N are kept, exactly.
        min_weights_per_layer: No layer keeps fewer than this (or all, if it is smaller).
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers.
        exclude: Patterns of weights to leave dense; they do not count towards the density.
        density_overrides: Density by pattern, for single layers; the total stays, the others share the rest.
        seed: Seed of all random draws. ``None``: the process's own seed (``seed_everything``).
        verify: After every step, check that pruned weights are zero, every count is exact, the optimizer has
            gathered nothing for pruned weights, and all processes have the same masks.

    Raises:
        ValueError: If an argument is out of range, or, when fit starts, if a pattern matches nothing or the
            budget cannot be met.

    >>> PruneAtInit("erk", density=0.05).method
    Random(allocation='erk')
    """

    def __init__(
        self,
        method: MethodName | PruningMethod,
        density: float,
        *,
        min_weights_per_layer: int = 1,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        seed: int | None = None,
        verify: bool = False,
    ) -> None:
        check_integer("min_weights_per_layer", min_weights_per_layer)
        super().__init__(
            density,
            include=include,
            exclude=exclude,
            density_overrides=density_overrides,
            seed=seed,
            verify=verify,
        )
        self.method = method_from_name(method)
        self.min_weights_per_layer = min_weights_per_layer

    def config(self) -> dict[str, str | int | float | None]:
        """Return what decides the masks."""
        return {
            "method": repr(self.method),
            "density": self.density,
            "min_weights_per_layer": self.min_weights_per_layer,
        }

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return each layer's budget; under global ranking only those that are overridden."""
        return plan_budgets(
            shapes,
            self.density,
            self.method.allocation,
            fixed=match_overrides(shapes, self.density_overrides),
            min_weights=self.min_weights_per_layer,
        )

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Score the weights and keep the best."""
        scores = self.method.scores(self.select(module), generator)
        return masks_from_scores(
            scores,
            self.density,
            self.method.allocation,
            fixed=match_overrides(scores, self.density_overrides),
            min_weights=self.min_weights_per_layer,
        )
