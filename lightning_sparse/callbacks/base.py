"""The one base of all callbacks that own masks: hooks, enforcement, checkpoints, logging."""

import weakref
from abc import ABC, abstractmethod
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from lightning_sparse.callbacks.choosing import Outlook
from lightning_sparse.callbacks.company import refuse_missing_owner, refuse_surroundings, warn_of_late_start
from lightning_sparse.callbacks.monitor import log_sparsity, monitored, one_line, print_table_after_summary
from lightning_sparse.callbacks.sparsifier import check_selection, refuse_changed_config, selection_config
from lightning_sparse.files.damage import explain_damage, refuse_damaged_checkpoint
from lightning_sparse.functional.allocation import total_budget
from lightning_sparse.functional.packing import pack_masks, unpack_masks
from lightning_sparse.selection import parameters_by_name, prunes_nothing, select_weights
from lightning_sparse.trainer.packages import Callback, LightningModule, Trainer, without_module
from lightning_sparse.trainer.parts import averaged_copies, builds_layers_late, callbacks_of
from lightning_sparse.trainer.processes import after_step, agree, masks_of_rank_zero, seed_of_rank_zero
from lightning_sparse.types import Budgets, Masks, Shapes
from lightning_sparse.weights.state import SparseState, state_of

__all__ = ["SparsityCallback"]


class SparsityCallback(Outlook, Callback, ABC):
    """Makes weights of a LightningModule sparse and keeps them so.

    Of several in one Trainer the first in its list, the leader, does the work that is to be done once: it
    masks gradients, attaches the hooks to the optimizers, logs. So their order does not matter.

    Args:
        density: Share of the selected weights to keep, a fraction in (0, 1].
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers.
        exclude: Patterns of weights to leave dense; they do not count towards the density.
        density_overrides: Density by pattern, for single layers; the total stays, the others share the rest.
        seed: Seed of all random draws. ``None``: the process's own seed (``seed_everything``).
        verify: After every step, check that pruned weights are zero, every count is exact, the optimizer has
            gathered nothing for pruned weights, and all processes have the same masks.
    """

    moves: ClassVar[bool] = False
    """Whether masks change while training goes on; of such callbacks a Trainer takes one."""

    def __init__(
        self,
        density: float,
        *,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        seed: int | None = None,
        verify: bool = False,
    ) -> None:
        check_selection(density, include, exclude, density_overrides, seed)
        self.density, self.density_overrides = density, density_overrides or {}
        self.include, self.exclude = include, exclude or []
        self.seed, self.verify = seed, verify
        self._module: weakref.ReferenceType[LightningModule] | None = None
        self._restored: Masks = {}  # out of a checkpoint
        self._carried: Masks = {}  # in a copy
        self._was_finished = self._handed_over = False  # the same two ways
        self._leads = self._fitting = self._loading = False

    # What children fill in.

    @abstractmethod
    def config(self) -> dict[str, str | int | float | None]:
        """Return the arguments of its own that a resumed run must share with the first, by name."""

    @abstractmethod
    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the budgets that the arguments and the shapes of the weights decide already.

        Raises:
            ValueError: If the arguments cannot be met.
        """

    @abstractmethod
    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Return the masks to start from."""

    def learn_length(self, trainer: Trainer) -> None:
        """Take from the Trainer what arguments leave to it, before budgets are planned."""

    def planned_total(self, total: int) -> int:
        """Return how many of so many weights will be kept."""
        return total_budget(total, self.density)

    def check_module(self, module: LightningModule) -> None:
        """Refuse a module that masks cannot be made for, before any batch is drawn."""

    # When: Lightning's hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, before any batch is drawn."""
        self._fitting, self._loading = stage == "fit", True
        self._restored, self._was_finished = {}, False
        self._module = weakref.ref(pl_module)
        refuse_surroundings(self, trainer, sparsity_callbacks(trainer))
        if self._fitting:
            self.learn_length(trainer)
        if self._fitting and not builds_layers_late(pl_module):
            self._plan(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up restored masks; let the leader keep pruned weights at zero from the first step on."""
        self._leads = sparsity_callbacks(trainer)[0] is self
        self._loading = False
        state = state_of(pl_module)
        self._take_up(trainer, pl_module)
        if self not in state.finished:
            self._plan(pl_module)
        if self._leads:
            verify = any(callback.verify for callback in sparsity_callbacks(trainer))
            state.attach(trainer.optimizers, partial(after_step, trainer, pl_module, verify))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the masks that are not there yet; who moves masks comes last, to take them over."""
        if not self._leads:
            return
        for callback in sorted(sparsity_callbacks(trainer), key=lambda callback: callback.moves):
            callback._start(trainer, pl_module)
        refuse_missing_owner(state_of(pl_module))
        state_of(pl_module).clean_(trainer.optimizers)  # a checkpoint's optimizers come after its masks
        agree(trainer, state_of(pl_module))
        if not monitored(trainer):
            log_sparsity(pl_module)
            print_table_after_summary(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, *_: int
    ) -> None:
        """Let the owner move masks, then mask gradients: they are reduced and unscaled, not yet clipped."""
        if not self._leads:
            return
        state = state_of(pl_module)
        if state.owner is not None:
            state.owner.move_(trainer, pl_module, optimizer)
        state.mask_gradients_(optimizer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare masks between processes, and log the sparsity of every layer."""
        if self._leads:
            state_of(pl_module).clean_(trainer.optimizers)  # in case somebody wrote to `weight.data`
            agree(trainer, state_of(pl_module))
        if self._leads and not monitored(trainer):
            log_sparsity(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare masks between processes, or take up those that came with the weights to validate."""
        if not self._fitting:
            self._take_up(trainer, pl_module)
        elif self._leads and not trainer.sanity_checking:
            agree(trainer, state_of(pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the masks that came with the weights to test, or to predict with."""
        self._take_up(trainer, pl_module)

    on_predict_start = on_test_start

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks from the optimizers."""
        state_of(pl_module).detach()

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return masks (packed bits) and arguments; tensors and plain values only."""
        state = self._state()
        if self not in state.finished:
            return {}
        masks = state.masks if state.owner is self else {}
        return {"config": self._full_config(), "finished": True, "masks": pack_masks(masks)}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse a checkpoint with a flipped bit; Lightning has read it by now, but changed no file."""
        self._loading = False
        if sparsity_callbacks(trainer)[0] is self:
            refuse_damaged_checkpoint(trainer.ckpt_path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say in plain words that a checkpoint is cut short; remove the hooks, as no teardown follows."""
        if self._loading:
            explain_damage(trainer.ckpt_path, exception)
        state_of(pl_module).detach()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the masks of a checkpoint until the module is there; refuse one made with other arguments."""
        if self._fitting and state_dict:
            refuse_changed_config(self._full_config(), state_dict["config"])
        self._restored = unpack_masks(state_dict.get("masks", {}))
        self._was_finished = bool(state_dict.get("finished", False))

    def __getstate__(self) -> dict[str, Any]:
        state = self._state()
        carried = state.masks if state.owner is self else self._carried
        handed_over = self in state.finished and state.owner is not self
        kept = {**without_module(self), "_module": None, "_carried": carried, "_handed_over": handed_over}
        on_cpu: dict[str, Any] = tree_map_only(Tensor, Tensor.cpu, kept)  # there may be no GPU to unpickle it
        return on_cpu

    # Steps of the above.

    def select(self, module: LightningModule) -> dict[str, torch.nn.Parameter]:
        """Return the weights this callback is for."""
        return select_weights(module, self.include, self.exclude)

    def _state(self) -> SparseState:
        """Return the state of the module that this was set up for, an empty one if there is none."""
        module = self._module() if self._module is not None else None
        return SparseState() if module is None else state_of(module)

    def _plan(self, module: LightningModule) -> None:
        self.check_module(module)
        self.planned_budgets({name: weight.shape for name, weight in self.select(module).items()})

    def describe(self) -> str:
        """Return name and arguments on one line."""
        return one_line(self, self._full_config())

    def new_masks(self, module: LightningModule, optimizer: Optimizer) -> Masks:
        """Return the masks that change before this step; gradients are those of all weights, pruned too."""
        return {}

    def move_(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Change masks before a step; may set gradients to None, for the step to be left out."""
        if moved := self.new_masks(module, optimizer):
            state_of(module).move_(moved, trainer.optimizers)
            agree(trainer, state_of(module))

    def after_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Take notice of a step that was really made; called for the owner of the masks."""

    def _take_up(self, trainer: Trainer, module: LightningModule) -> None:
        """Install masks that came with a checkpoint or a copy, or once more those of an earlier fit."""
        state = state_of(module)
        weights = {n: p for n, p in parameters_by_name(module).items() if n in self._carried}
        is_copy = self._fitting and prunes_nothing(self._carried, weights)  # of the module copied along
        masks = self._restored or (self._carried if is_copy else {})
        if masks or self._was_finished:
            state.finished.add(self)
        masks = masks or (state.masks if state.owner is self else {})  # the device may be another
        if masks or (self.moves and self._was_finished):  # what moves may be no masks but layers
            state.install_(module, masks, self, trainer.optimizers)
        self._restored, self._was_finished = {}, False
        self._carried = {} if self._fitting else self._carried

    def _start(self, trainer: Trainer, module: LightningModule) -> None:
        """Make masks or take over those that are there, unless that is done for this module already."""
        state = state_of(module)
        if self._handed_over and state.owner in sparsity_callbacks(trainer):
            state.finished.add(self)  # a copy, beside the copy of who took the masks over
        if self in state.finished:
            if state.owner not in sparsity_callbacks(trainer) and state.masks:
                state.owner = self  # who moved them is not in this Trainer
            return
        if trainer.global_step > 0:
            warn_of_late_start(type(self).__name__, trainer.global_step)
        if self.moves and state.masks:
            state.owner = self
        else:
            generator = torch.Generator().manual_seed(seed_of_rank_zero(trainer, self.seed))
            masks = masks_of_rank_zero(trainer, self.make_masks(module, generator))
            state.install_(module, masks, self, trainer.optimizers)
            for copy in averaged_copies(trainer):  # made in `setup`, of the dense net
                state.zero_pruned_of_(copy)
        state.finished.add(self)

    def _full_config(self) -> dict[str, str | int | float | None]:
        return {**self.config(), **selection_config(self.include, self.exclude, self.density_overrides)}


def sparsity_callbacks(trainer: Trainer) -> list[SparsityCallback]:
    """Return the callbacks that own masks, in the Trainer's order."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, SparsityCallback)]
