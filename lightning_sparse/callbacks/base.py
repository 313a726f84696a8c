"""The one base of all callbacks that own masks: hooks, enforcement, checkpoints, logging."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_sparse._lightning import Callback, LightningModule, Trainer, callbacks_of, is_lightning
from lightning_sparse.callbacks.monitor import SparsityMonitor
from lightning_sparse.callbacks.reports import log_sparsity, print_table
from lightning_sparse.selection import select_weights
from lightning_sparse.state import SparseState, pack_masks, state_of, unpack_masks
from lightning_sparse.types import Budgets, Masks, Shapes

__all__ = ["SparsityCallback"]

UNSUPPORTED = ("fsdp", "deepspeed", "modelparallel", "xla")


class SparsityCallback(Callback, ABC):
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
    """

    def __init__(
        self,
        density: float,
        *,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        seed: int | None = None,
    ) -> None:
        check_density("density", density)
        for pattern, override in (density_overrides or {}).items():
            check_density(f"density_overrides[{pattern!r}]", override)
        self.density = density
        self.include = include
        self.exclude = exclude or []
        self.density_overrides = density_overrides or {}
        self.seed = seed
        self._state: SparseState | None = None
        self._restored: Masks = {}
        self._carried: Masks = {}
        self._leads = False
        self._fitting = False

    # What children fill in.

    @abstractmethod
    def config(self) -> dict[str, str | int | float | None]:
        """Return the arguments that a resumed run must share with the first, by name."""

    @abstractmethod
    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the budgets that the arguments and the shapes of the weights decide already.

        Raises:
            ValueError: If the arguments cannot be met.
        """

    @abstractmethod
    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Return the masks to start from."""

    # When: Lightning's hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, before any batch is drawn."""
        refuse_strategy(type(self).__name__, type(trainer.strategy).__name__)
        refuse_twins(self, sparsity_callbacks(trainer))
        self._fitting = stage == "fit"
        self._restored = {}
        self._state = state_of(pl_module)
        if self._fitting and next(pl_module.parameters(), None) is not None:
            self.planned_budgets({name: w.shape for name, w in self.select(pl_module).items()})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up restored masks; let the leader keep pruned weights at zero from the first step on."""
        callbacks = sparsity_callbacks(trainer)
        self._leads = callbacks[0] is self
        self._state = state = state_of(pl_module)
        if masks := self._restored or self._fitting_carried(pl_module):
            state.install_(pl_module, masks, self, trainer.optimizers)
        elif state.owner is self:  # a second fit: parameters may have moved to another device
            state.install_(pl_module, state.masks, self, trainer.optimizers)
        self._restored = self._carried = {}
        if self._leads:
            state.attach(trainer.optimizers)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the masks that are not there yet."""
        if not self._leads:
            return
        for callback in sparsity_callbacks(trainer):
            callback._start(trainer, pl_module)
        if not monitored(trainer):
            log_sparsity(pl_module)
            if any(is_lightning(callback, "callbacks.ModelSummary") for callback in callbacks_of(trainer)):
                print_table(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, *_: int
    ) -> None:
        """Mask gradients: they are reduced, accumulated and unscaled here, and not yet clipped."""
        if self._leads and self._state is not None:
            self._state.mask_gradients_(optimizer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the sparsity of every layer."""
        if self._leads and not monitored(trainer):
            log_sparsity(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks from the optimizers."""
        state_of(pl_module).detach()

    # Checkpoints.

    @property
    def state_key(self) -> str:
        """What identifies the callback in a checkpoint: the weights it is for, not their density."""
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    def state_dict(self) -> dict[str, Any]:
        """Return masks (packed bits) and arguments; tensors and plain values only."""
        if self._state is None or self._state.owner is not self:
            return {}
        return {"config": self.config(), "masks": pack_masks(self._state.masks)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the masks of a checkpoint until the module is there.

        Raises:
            ValueError: If the arguments are not those that the checkpoint was made with.
        """
        if self._fitting and state_dict:
            self._check_config(state_dict["config"])
        self._restored = unpack_masks(state_dict.get("masks", {}))

    def __getstate__(self) -> dict[str, Any]:
        # `log` and `log_dict` are methods of the module that Lightning plants here.
        left_out = {"log", "log_dict", "_state", "_carried"}
        kept = {key: value for key, value in self.__dict__.items() if key not in left_out}
        owned = self._state is not None and self._state.owner is self
        return {**kept, "_carried": dict(self._state.masks) if owned and self._state else self._carried}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _state=None)

    # Steps of the above.

    def select(self, module: LightningModule) -> dict[str, torch.nn.Parameter]:
        """Return the weights this callback is for."""
        return select_weights(module, self.include, self.exclude)

    def describe(self) -> str:
        """Return name and arguments on one line."""
        arguments = ", ".join(f"{name}={value}" for name, value in self.config().items())
        return f"{type(self).__name__}: {arguments}"

    def _start(self, trainer: Trainer, module: LightningModule) -> None:
        """Make masks, unless this module has those of this callback already."""
        state = state_of(module)
        if state.owner is self:
            return
        if trainer.global_step > 0:
            warnings.warn(
                f"{type(self).__name__} found no masks of its own in the checkpoint, and makes them now, at "
                f"step {trainer.global_step}.",
                stacklevel=2,
            )
        generator = torch.Generator().manual_seed(self._shared_seed(trainer))
        masks = self.make_masks(module, generator)
        state.install_(module, _from_rank_zero(trainer, masks), self, trainer.optimizers)

    def _shared_seed(self, trainer: Trainer) -> int:
        seed: int = trainer.strategy.broadcast(torch.initial_seed() if self.seed is None else self.seed)
        return seed

    def _fitting_carried(self, module: LightningModule) -> Masks:
        """Return the masks that came with a copy of this callback, if the module is a copy as well.

        A callback copied in mid-training goes on with the module that was copied with it, whose pruned
        weights are zero; before any other module it starts afresh.
        """
        weights = self.select(module) if self._carried else {}
        if self._carried.keys() != weights.keys():
            return {}
        same = all(
            weights[name].shape == mask.shape and not weights[name].detach().cpu()[~mask.cpu()].any()
            for name, mask in self._carried.items()
        )
        return self._carried if same else {}

    def _check_config(self, saved: Mapping[str, Any]) -> None:
        for name, value in self.config().items():
            if name in saved and saved[name] != value:
                raise ValueError(
                    f"`{name}` is {value!r}, but the checkpoint was made with {saved[name]!r}. Resume with "
                    "that value, or load only the weights (`load_state_dict`) and start a new run."
                )


def sparsity_callbacks(trainer: Trainer) -> list[SparsityCallback]:
    """Return the callbacks that own masks, in the Trainer's order."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, SparsityCallback)]


def monitored(trainer: Trainer) -> bool:
    """Tell whether a :class:`SparsityMonitor` does the logging."""
    return any(isinstance(callback, SparsityMonitor) for callback in callbacks_of(trainer))


def check_density(argument: str, density: float) -> None:
    """Raise ValueError unless ``density`` is in (0, 1]."""
    if not 0 < density <= 1:
        raise ValueError(
            f"`{argument}` must be in (0, 1], got {density}. It is the share of weights kept: 0.1 keeps 10%."
        )


def refuse_strategy(callback: str, strategy: str) -> None:
    """Raise for strategies that split or hide parameters."""
    if any(name in strategy.lower() for name in UNSUPPORTED):
        raise ValueError(
            f"{callback} cannot run under {strategy}, which splits or copies weights: masks would not hold. "
            "Use one device, or `strategy='ddp'`."
        )


def refuse_twins(callback: SparsityCallback, callbacks: Sequence[SparsityCallback]) -> None:
    """Raise if another callback of the same class would own the same masks."""
    if sum(type(other) is type(callback) for other in callbacks) > 1:
        raise ValueError(
            f"Two {type(callback).__name__} callbacks in one Trainer, got {len(callbacks)}. Use one; "
            "`include`, `exclude` and `density_overrides` give layers densities of their own."
        )


def _from_rank_zero(trainer: Trainer, masks: Masks) -> Mapping[str, Tensor]:
    """Return rank 0's masks on every rank."""
    if trainer.world_size == 1:
        return masks
    packed: dict[str, dict[str, Any]] = trainer.strategy.broadcast(pack_masks(masks))
    return unpack_masks(packed)
