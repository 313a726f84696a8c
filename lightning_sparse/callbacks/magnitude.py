"""What all pruning by magnitude during training shares: counts known beforehand, and how one is met."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch

from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.callbacks.company import refuse_other_storage
from lightning_sparse.callbacks.monitor import expect_changes, print_table_again
from lightning_sparse.callbacks.sparsifier import refuse_unknown
from lightning_sparse.checks import check_count
from lightning_sparse.functional.filters import Filters
from lightning_sparse.functional.masks import count_all, count_kept
from lightning_sparse.functional.rewinding import budgets_on_the_way, prune_by_magnitude
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn
from lightning_sparse.trainer.processes import assert_ranks_agree
from lightning_sparse.types import Budgets, Communication, Masks, Storage
from lightning_sparse.weights.state import state_of

__all__ = ["MagnitudePruning", "warn_of_early_end"]


class MagnitudePruning(SparsityCallback, ABC):
    """Prunes by magnitude while training goes on; how many weights each pruning leaves is known beforehand.

    What is pruned stays pruned. A second fit goes on where the first ended.

    Args:
        density: Share of the selected weights to keep at the end, a fraction in (0, 1].
        min_weights_per_layer: No layer keeps fewer than this (or all, if it is smaller).
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers. ``"all"``: every trained weight of two or more dimensions.
        exclude: Patterns of weights to leave dense; they do not count towards the density.
        density_overrides: Density at the end by pattern, for single layers; the others share the rest.
        communication: What processes of DDP exchange: ``"all"`` gradients, or those of weights that are
            ``"kept"``, and of what has no mask. What comes of it is the same.
        verify: After every step, check that pruned weights are zero, every count is exact, the optimizer has
            gathered nothing for pruned weights, and all processes have the same masks.
    """

    moves = asks_for_gradients = True
    needs_whole = "it ranks whole weights while training goes on, and that is not counted over processes yet"
    starts_late = False
    keeps_counting = True
    remembers_when_tested = True
    names_in = ("alive",)
    run_state: ClassVar = {"path": list, "prunings": int, "_alive": dict}
    path: list[int]  # weights alive after each pruning
    prunings: int  # made so far
    _alive: Budgets

    def __init__(
        self,
        density: float,
        *,
        min_weights_per_layer: int = 1,
        include: list[str] | Literal["all"] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        storage: Storage = "masked",
        communication: Communication = "all",
        verify: bool = False,
        **unknown: object,
    ) -> None:
        if unknown:  # not handed on: there is no `seed`, as nothing is drawn
            refuse_unknown(type(self), unknown, MagnitudePruning)
        check_count("min_weights_per_layer", min_weights_per_layer, 0)
        super().__init__(
            density,
            include=include,
            exclude=exclude,
            density_overrides=density_overrides,
            storage=storage,
            communication=communication,
            verify=verify,
        )
        self.min_weights_per_layer = min_weights_per_layer

    # What children fill in.

    @abstractmethod
    def kept_path(self, alive: int, total: int) -> list[int]:
        """Return how many weights are alive after each pruning.

        Args:
            alive: Number of weights at the start.
            total: Number of selected weights, those pruned before included.
        """

    @abstractmethod
    def final_budgets(self, module: LightningModule) -> Budgets:
        """Return what layers keep at the end that do not compete with the others, by ``self._alive``."""

    @abstractmethod
    def filters(self, module: LightningModule) -> dict[str, Filters]:
        """Return where the outputs of layers are that keep as many weights of each output."""

    @property
    @abstractmethod
    def restarting(self) -> bool:
        """Whether training will start once more."""

    @abstractmethod
    def read_length(self, trainer: Trainer) -> None:
        """Take from the Trainer how long training is, in every fit, before counts are laid down."""

    @abstractmethod
    def keep_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep what will be needed of the start, before the first step."""

    @abstractmethod
    def metrics(self, module: LightningModule) -> dict[str, float]:
        """Return what is logged at the end of an epoch beside the sparsity of layers."""

    # What they have in common.

    @property
    def pruning(self) -> bool:
        """Whether the net will be sparser than it is now."""
        return self.prunings < len(self.path)

    @property
    def begun(self) -> bool:
        """Whether this is on its way with the module that it was set up for, or with one copied along."""
        copied = self._brought.source == "copy" and bool(self._brought.masks)
        return bool(self.path) and (self in self._state().finished or copied)

    def check_module(self, module: LightningModule) -> None:
        """Refuse layers whose weights are no plain tensors."""
        refuse_other_storage(type(self).__name__, module)

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Keep everything at first."""
        weights = self.select(module)
        return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}

    def begin_training(self, trainer: Trainer, module: LightningModule, anew: bool) -> None:
        """Lay down the counts after each pruning, and keep what is needed of the start."""
        expect_changes(trainer)
        anew = anew or not self.path
        if anew:
            self.reset()
        self.read_length(trainer)
        if not anew:
            return
        masks = state_of(module).masks
        self._alive = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
        path = self.kept_path(count_kept(masks), count_all(masks))
        for pruning in (0, len(path) - 1):
            self._pruned(module, path, pruning)  # what cannot be met is an error now
        self.path = path
        self.keep_start(trainer, module)

    def prune_(self, trainer: Trainer, module: LightningModule) -> None:
        """Go one step down the path."""
        state_of(module).move_(self._pruned(module, self.path, self.prunings), trainer.optimizers)
        assert_ranks_agree(trainer, module)
        self.prunings += 1
        if not self.pruning:
            print_table_again(trainer, module, "after the last pruning")

    def log_more(self, module: LightningModule) -> None:
        """Log the schedule."""
        module.log_dict(self.metrics(module), sync_dist=True)  # every rank has the same

    def _pruned(self, module: LightningModule, path: list[int], pruning: int) -> Masks:
        """Return the masks after one of the prunings, by the weights as they are."""
        state, start = state_of(module), sum(self._alive.values())
        removed, planned = start - path[pruning], start - path[-1]
        return prune_by_magnitude(
            state.weights,
            state.masks,
            path[pruning],
            min_weights=self.min_weights_per_layer,
            fixed=budgets_on_the_way(self._alive, self.final_budgets(module), removed, planned),
            filters=self.filters(module),
        )


def warn_of_early_end(callback: str, there_are: int, planned: int) -> None:
    """Warn that a fit has ended early, which nobody could tell when it began."""
    missing = f"keep {planned:,} weights" if there_are != planned else "start training once more"
    rank_zero_warn(
        f"The fit has ended with {there_are:,} weights before {callback} was done, which was to {missing}. "
        "Resume it with more steps or time."
    )
