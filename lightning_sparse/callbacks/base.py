"""The one base of all callbacks that own masks: who makes and takes them over, what is in checkpoints."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_sparse.callbacks import company, saved
from lightning_sparse.callbacks.communicating import exchange_only_kept
from lightning_sparse.callbacks.converting import compact
from lightning_sparse.callbacks.converting.converter import Converter
from lightning_sparse.callbacks.looking import has_zeros_of
from lightning_sparse.callbacks.sparsifier import Sparsifier, sparsifiers
from lightning_sparse.callbacks.stateful import Brought
from lightning_sparse.checks import check_choice, check_flag
from lightning_sparse.functional.packing import pack_masks, unpack_masks
from lightning_sparse.selection import parameters_by_name, prunes_nothing, select_weights
from lightning_sparse.trainer.packages import LightningModule, Trainer, without_module
from lightning_sparse.trainer.parts import averaged_copies
from lightning_sparse.trainer.processes import assert_ranks_agree, masks_of_rank_zero, seed_of_rank_zero
from lightning_sparse.types import Communication, Masks, Storage
from lightning_sparse.weights.state import SparseState, state_of

__all__ = ["SparsityCallback"]


class SparsityCallback(Sparsifier, ABC):
    """Makes weights of a LightningModule sparse, by masks or in compact layers, and keeps them so.

    Args:
        density: Share of the selected weights to keep, a fraction in (0, 1].
        storage: ``"masked"``: weights stay dense parameters, and masks keep what is pruned at zero.
            ``"compact"``: before optimizers are made, linear and convolutional layers are replaced by ones
            that hold the k weights kept and their positions, so that gradients, optimizer state, checkpoints
            and what processes exchange are in proportion to k; other layers stay dense.
        communication: What processes of DDP exchange: ``"all"`` gradients, or those of weights that are
            ``"kept"``, and of what has no mask; whole ones too where connections grow by them. What comes of
            it is the same. One callback of a Trainer that says so is enough.
        verify: After every step, check that pruned weights are zero, every count is exact, the optimizer has
            gathered nothing for pruned weights, and all processes have the same masks.
        **selection: ``include``, ``exclude``, ``density_overrides`` and ``seed``, as `Sparsifier` has them.
    """

    left_behind = (
        "masks stay in the processes it starts; after fit, this one has the sparse weights but no masks"
    )
    run_state: ClassVar[Mapping[str, Callable[[], Any]]] = {}
    """What is counted in a run and goes into checkpoints: attributes, and how each is made afresh."""
    starts_late: ClassVar[bool] = True
    """Whether it may start in a fit that resumes from a checkpoint made without it."""
    keeps_counting: ClassVar[bool] = False
    """Whether a second fit of a module goes on counting where the first ended."""
    names_in: ClassVar[Sequence[str]] = ()
    """Where its saved state names, beside the masks, the weights that must have one; () if nowhere."""
    remembers_when_tested: ClassVar[bool] = False
    """Whether a test of a checkpoint also brings back ``run_state``, for a later fit to go on from."""

    def __init__(
        self,
        density: float,
        *,
        storage: Storage = "masked",
        communication: Communication = "all",
        verify: bool = False,
        **selection: Any,
    ) -> None:
        super().__init__(density, **selection)
        compact.check_storage(type(self).__name__, storage, self.storages)
        check_choice("communication", communication, ("all", "kept"))
        check_flag("verify", verify)
        self.verify, self.storage, self.communication = verify, storage, communication
        self.needs_data = False
        self.draw: compact.RandomDraw | None = None
        self._converter = Converter(type(self).__name__) if storage == "compact" else None
        self.draws_masks = False
        self.masks_what_it_selects = not self.moves  # what moves may have taken over another's masks
        self._module: weakref.ReferenceType[LightningModule] | None = None
        self._run_of: weakref.ReferenceType[LightningModule] | None = None  # what is counted is for it
        self._brought = Brought()
        self.reset()

    # What children fill in; only the first must be.

    @abstractmethod
    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Return the masks to start from."""

    def new_masks(self, module: LightningModule, optimizer: Optimizer) -> Masks:
        """Return the masks that change before this step; gradients are those of all weights, pruned too."""
        return {}

    def after_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Count a step that was really made; called for the owner of the masks."""

    def read_trainer(self, trainer: Trainer) -> None:
        """Take from the Trainer what arguments leave to it, before budgets are planned."""

    def check_module(self, module: LightningModule) -> None:
        """Refuse a module that masks cannot be made for, before any batch is drawn."""

    def check_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse a fit that cannot work, or warn of it, before any batch is drawn."""

    def begin_training(self, trainer: Trainer, module: LightningModule, anew: bool) -> None:
        """Do what is due before the first step, masks being there; ``anew`` if this did not go on."""

    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Do what is due at the end of an epoch, before it is logged."""
        if self._converter is not None:
            self._converter.end_epoch(module)

    def log_more(self, module: LightningModule) -> None:
        """Log what is its own, at the end of an epoch."""

    # What others ask.

    @property
    def pruning(self) -> bool:
        """Whether the net will be sparser than it is now."""
        return False

    @property
    def restarting(self) -> bool:
        """Whether training will start once more."""
        return False

    @property
    def verifies(self) -> bool:
        """Whether everything is checked after every step."""
        return self.verify

    def select(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the weights this callback is for."""
        if self._converter is not None:
            return compact.compact_weights(module, self.include, self.exclude)
        return select_weights(module, self.include, self.exclude)

    def reset(self) -> None:
        """Forget what was counted and gathered, before a new run."""
        for name, make in self.run_state.items():
            setattr(self, name, make())

    # Masks, from one to the other.

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse what cannot work; what a checkpoint brought to another stage is forgotten."""
        self._module = weakref.ref(module)
        if self._brought.source == "checkpoint":
            self._brought = Brought()
        if self.moves:
            company.refuse_averaging(type(self).__name__, trainer)
        if self._fitting:
            self._forget_other_run(module)
            self.read_trainer(trainer)
            self.check_fit(trainer, module)
            if self.communication == "kept":
                exchange_only_kept(trainer, module, sparsifiers(trainer))
            compact.prepare(self, self._converter, trainer, module)

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Take up masks that are there, or check that some can be made."""
        self.take_up(trainer, module)
        if self._converter is not None:
            self._converter.begin_fit(trainer, module)
        elif self not in state_of(module).finished:
            self.plan(module)

    def take_up(self, trainer: Trainer, module: LightningModule) -> None:
        """Install masks that came with a checkpoint or a copy, or once more those of an earlier fit."""
        state, brought = state_of(module), self._brought
        weights = {n: p for n, p in parameters_by_name(module).items() if n in brought.masks}
        restored = brought.source == "checkpoint"
        copied = brought.source == "copy" and self._fitting and prunes_nothing(brought.masks, weights)
        masks = brought.masks if restored or copied else {}
        done = restored and brought.done
        if masks or done:
            state.finished.add(self)
        if not masks and state.owner is self and (self._fitting or has_zeros_of(state.masks, module, self)):
            masks = state.masks  # once more, as the device may be another
        if masks or (done and (self.moves or (self._converter and state.owner is None))):  # or layers
            state.install_(module, masks, self, trainer.optimizers)
        if restored or self._fitting:
            self._brought = Brought() if restored else replace(brought, masks={})

    def start_(self, trainer: Trainer, module: LightningModule) -> None:
        """Make masks or take over those that are there, unless that is done for this module already."""
        state, owners = state_of(module), sparsifiers(trainer)
        if self._brought.source == "copy" and self._brought.done and company.is_among(state.owner, owners):
            state.finished.add(self)  # a copy, beside the copy of who took the masks over
        anew = self not in state.finished
        if anew:
            if trainer.ckpt_path is not None and trainer.global_step > 0 and self.moves != bool(state.masks):
                saved.refuse_lost_state(
                    type(self).__name__, [o for o in state.finished if company.is_among(o, owners)]
                )
            self._begin(trainer, module, state)
        elif (state.masks or self._converter) and not company.is_among(state.owner, owners):
            state.owner = self  # who moved them is not in this Trainer
        self.begin_training(trainer, module, anew)

    def move_(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Change masks before a step; may see to it that the step is left out."""
        if moved := self.new_masks(module, optimizer):
            state_of(module).move_(moved, trainer.optimizers)
            assert_ranks_agree(trainer, module)

    def release(self, module: LightningModule) -> None:
        """Remove the hooks from the optimizers."""
        state_of(module).detach()

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return masks (packed bits), arguments and what was counted; tensors and plain values only."""
        state = self._state()
        if self not in state.finished:
            return {}
        masks = state.masks if state.owner is self else {}
        counted = {name.lstrip("_"): saved.plain(getattr(self, name)) for name in self.run_state}
        return {"config": self.full_config(), "finished": True, "masks": pack_masks(masks), **counted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the masks of a checkpoint until the module is there; go on counting from there.

        Raises:
            SparsityError: If fit goes on with other arguments than the checkpoint was made with, if another
                class or version has saved the state, or if masks are damaged or not for the right weights.
        """
        goes_on, config = self._fitting or self.remembers_when_tested, self.full_config()
        if state_dict:
            counted = self.run_state if goes_on else {}
            saved.refuse_other_state(
                type(self).__name__, state_dict, counted, config if self._fitting else {}
            )
        masks, done = unpack_masks(state_dict.get("masks", {})), bool(state_dict.get("finished", False))
        if state_dict and self._module is not None:
            saved.refuse_other_weights(self, self._module(), masks, state_dict)
        self._brought = Brought(masks, done, "checkpoint")
        if state_dict and goes_on:
            self._run_of = self._module
            for attribute in self.run_state:
                saved.restore_(self, attribute, state_dict[attribute.lstrip("_")])

    def before_loading(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Refuse another storage than one's own, and see to it that compact layers can be loaded."""
        compact.take_storage_of(checkpoint, self, self._converter, trainer, self._fitting)

    def check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse compact layers that the checkpoint has not; masks are in the state of a callback."""
        if self._converter is not None:
            self._converter.check_checkpoint(checkpoint, self._fitting)

    def __getstate__(self) -> dict[str, Any]:
        state = self._state()
        masks = state.masks if state.owner is self else self._brought.masks
        handed_over = self in state.finished and state.owner is not self
        brought = Brought({name: mask.cpu() for name, mask in masks.items()}, handed_over, "copy")
        kept = {**without_module(self), "_module": None, "_run_of": None, "_brought": brought}
        return saved.on_cpu(kept)  # there may be no GPU to unpickle it

    # Steps of the above.

    def _state(self) -> SparseState:
        """Return the state of the module that this was set up for, an empty one if there is none."""
        module = self._module() if self._module is not None else None
        return SparseState() if module is None else state_of(module)

    def _forget_other_run(self, module: LightningModule) -> None:
        """Begin anew if what was counted is for another module."""
        if self.keeps_counting and self._run_of is not None and self._run_of() is not module:
            state_of(module).finished.discard(self)
            self.reset()
        self._run_of = weakref.ref(module)

    def _begin(self, trainer: Trainer, module: LightningModule, state: SparseState) -> None:
        """Take over the masks that are there, or make some and hand them to all ranks."""
        name = type(self).__name__
        if not self.starts_late:
            company.refuse_late_start(name, trainer)
        if trainer.global_step > 0:
            company.warn_of_late_start(name, trainer.global_step)
        if self.moves and state.masks and not self.draws_masks:
            state.owner = self
        else:
            replaces = self.moves and bool(state.masks)
            generator = torch.Generator().manual_seed(seed_of_rank_zero(trainer, self.seed))
            made = self.make_masks(module, generator) if self._converter is None else {}
            masks = masks_of_rank_zero(trainer, made)
            state.install_(module, masks, self, trainer.optimizers)
            if replaces:
                company.warn_of_zeros_kept(name, state)
            for copy in averaged_copies(trainer):  # made in `setup`, of the dense net
                state.zero_pruned_of_(copy)
        state.finished.add(self)
