"""What masks and converted layers have in common: arguments that select weights, and Lightning's hooks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar, Literal

from torch import nn
from torch.optim import Optimizer

from lightning_sparse.callbacks import alone, fits, together
from lightning_sparse.callbacks.company import (
    OurCallback,
    announce_to_ranks,
    check_what_is_loaded,
    explain_other_ranks,
    refuse_company,
    warn_of_spawned_processes,
)
from lightning_sparse.callbacks.converting.converted import explain_empty_optimizer
from lightning_sparse.callbacks.looking import warn_of_untrained
from lightning_sparse.callbacks.sharding import refuse_strategy
from lightning_sparse.checks import ALL, check_count, check_density, check_selection, near
from lightning_sparse.functional.budgets import total_budget
from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.trainer.communication import forget_sending, refuse_unsent
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.parts import callbacks_of
from lightning_sparse.trainer.processes import assert_ranks_agree, compare_callbacks
from lightning_sparse.types import Budgets, Shapes
from lightning_sparse.weights.shards import whole_shapes

__all__ = ["Config", "Sparsifier", "refuse_unknown", "sparsifiers"]

Config = dict[str, str | int | float | None]
"""Arguments as plain values, by name."""


class Sparsifier(OurCallback, ABC):
    """Makes a net sparse: by masks on its weights, or by other layers in their place.

    Of several in one Trainer the first in its list, the leader, does the work that is to be done once (see
    ``callbacks/together.py``). So their order does not matter.

    Args:
        density: Share of the selected weights to keep, a fraction in (0, 1].
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers; a conversion takes those that it can replace, and what moves
            connections all that have a support. ``"all"``: every trained weight of two or more dimensions.
        exclude: Patterns of weights to leave as they are; they do not count towards the density.
        density_overrides: Density by pattern, for single layers; the total stays, the others share the rest.
        seed: Seed of all random draws. ``None``: the process's own seed (``seed_everything``).
    """

    moves: ClassVar[bool] = False
    """Whether masks change while training goes on; of such callbacks a Trainer takes one."""
    converts: ClassVar[bool] = False
    """Whether layers are replaced; nothing has masks then."""
    storages: ClassVar[Sequence[str]] = ("masked",)
    """How it may store what it keeps, or find it stored."""
    storage: str = "masked"
    """Where the entries that are kept lie: under masks, or alone in layers of their own ("compact")."""
    needs_whole = "what it keeps is made from whole weights"
    communication: str = "all"
    """What processes exchange of gradients: "all", or what is "kept"."""
    asks_for_gradients: ClassVar[bool] = False
    """Whether who moves masks looks at gradients of pruned weights only where it has asked for them before
    backward (`SparseWeight.ask_for_gradient`), or never."""
    support_pattern: Pattern | None = UNSTRUCTURED
    """Which sets of weights it keeps; ``None`` if that is known only when masks are read."""
    left_behind: ClassVar[str]
    """What stays in the processes that a spawning strategy starts, as the rest of a sentence."""

    def __init__(
        self,
        density: float,
        *,
        include: list[str] | Literal["all"] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        seed: int | None = None,
        **unknown: object,
    ) -> None:
        if unknown:
            refuse_unknown(type(self), unknown)
        check_density("density", density)
        check_selection(include, exclude, density_overrides)
        if seed is not None:
            check_count("seed", seed, 0)
        self.density, self.density_overrides = density, density_overrides or {}
        self.include, self.exclude = include, exclude or []
        self.seed = seed
        self._leads = self._fitting = self._loading = False

    # What it would do, from arguments and shapes alone.

    @abstractmethod
    def config(self) -> Config:
        """Return the arguments of its own that a resumed run must share with the first, by name."""

    @abstractmethod
    def select(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the weights this callback is for."""

    @abstractmethod
    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the budgets that the arguments and the shapes of the weights decide already.

        Raises:
            SparsityError: If the arguments cannot be met.
        """

    def planned_total(self, total: int) -> int:
        """Return how many of so many weights will be kept."""
        return total_budget(total, self.density)

    @abstractmethod
    def read_trainer(self, trainer: Trainer) -> None:
        """Take from the Trainer what arguments leave to it, before budgets are planned."""

    @abstractmethod
    def check_module(self, module: LightningModule) -> None:
        """Refuse a module that this cannot make sparse, before any batch is drawn."""

    def plan(self, module: LightningModule) -> None:
        """Refuse what cannot be met."""
        self.check_module(module)
        self.planned_budgets(whole_shapes(self.select(module)))

    @property
    def role(self) -> str:
        """What it does beside others: "converts", "moves" or "starts"."""
        return "converts" if self.converts else "moves" if self.moves else "starts"

    def arguments(self) -> Config:
        """Return what a resumed run must share, and whether everything is verified."""
        exchanged = None if self.communication == "all" else self.communication
        return {**self.full_config(), "verify": self.verifies or None, "communication": exchanged}

    def full_config(self) -> Config:
        """Return all arguments that a resumed run must share with the first, by name."""
        shared: dict[str, Any] = {
            "include": self.include if self.include == ALL else sorted(self.include or []),
            "exclude": sorted(self.exclude),
            "storage": None if self.storage == "masked" else self.storage,
            "density_overrides": {name: float(share) for name, share in self.density_overrides.items()},
        }
        return {**self.config(), **{name: str(value) if value else None for name, value in shared.items()}}

    # What masks and layers do at Lightning's hooks.

    @abstractmethod
    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse what cannot work, and change layers, before optimizers are made."""

    @abstractmethod
    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Take up what a checkpoint brought, and check what could not be checked before."""

    @abstractmethod
    def start_(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the net sparse, unless it is; called by the leader, for one callback after the other."""

    @abstractmethod
    def take_up(self, trainer: Trainer, module: LightningModule) -> None:
        """Take up what came with the weights to validate, test or predict with."""

    @abstractmethod
    def check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint whose layers are not those of this run."""

    @abstractmethod
    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Do what is due at the end of an epoch, before it is logged."""

    @abstractmethod
    def log_more(self, module: LightningModule) -> None:
        """Log what is its own, at the end of an epoch."""

    @abstractmethod
    def release(self, module: LightningModule) -> None:
        """Leave module and optimizers as an ordinary fit would."""

    @property
    @abstractmethod
    def verifies(self) -> bool:
        """Whether everything is checked after every step."""

    # When: Lightning's hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, before any batch is drawn."""
        name = type(self).__name__
        fits.begin(self, trainer, pl_module, stage == "fit")
        self._fitting, self._loading = stage == "fit", True
        refuse_strategy(self, trainer)
        warn_of_spawned_processes(name, trainer, self.left_behind)
        refuse_company(self, sparsifiers(trainer))
        alone.refuse_beside(self, trainer)
        announce_to_ranks(self, trainer)
        check_what_is_loaded(self, trainer)
        self.prepare(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up what was restored; let the leader keep pruned weights at zero from the first step on."""
        self._leads, self._loading = sparsifiers(trainer)[:1] == [self], False
        compare_callbacks(trainer)
        refuse_unsent(trainer)
        self.begin_fit(trainer, pl_module)
        if self._leads:
            together.attach(trainer, pl_module, sparsifiers(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make what is not there yet, in this one place for all of them."""
        if self._leads:
            together.start(trainer, pl_module, sparsifiers(trainer))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mask what others have written since the last step."""
        if self._leads:
            together.before_batch(pl_module)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mask gradients that the user may clip by himself."""
        if self._leads:
            together.after_backward(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, *_: int
    ) -> None:
        """Move masks, then mask gradients: they are reduced and unscaled, not yet clipped."""
        if self._leads:
            together.before_step(trainer, pl_module, optimizer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare ranks, and log the sparsity of every layer."""
        self.end_epoch(trainer, pl_module)
        if self._leads:
            together.end_epoch(trainer, pl_module, sparsifiers(trainer))
        self.log_more(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what has become of the net, and where it is saved."""
        if self._leads:
            together.finish(trainer, pl_module, sparsifiers(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare ranks, or take up what came with the weights to validate."""
        if not self._fitting:
            self.on_test_start(trainer, pl_module)
        elif self._leads and not trainer.sanity_checking:
            together.before_looking(pl_module)
            assert_ranks_agree(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up what came with the weights to test, or to predict with."""
        compare_callbacks(trainer)
        self.take_up(trainer, pl_module)
        if sparsifiers(trainer)[-1:] == [self]:
            warn_of_untrained(trainer, pl_module, sparsifiers(trainer))

    on_predict_start = on_test_start

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks from the optimizers."""
        if fits.ends(self, trainer, pl_module):
            self.release(pl_module)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse a checkpoint whose layers are not those of this run; damaged ones never get here."""
        self._loading = False
        self.check_checkpoint(checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say in plain words that ranks differ, or values are in no optimizer; no teardown follows."""
        explain_other_ranks(trainer, exception)
        explain_empty_optimizer(pl_module, exception)
        forget_sending(trainer)
        if fits.ends(self, trainer, pl_module):
            self.release(pl_module)


def sparsifiers(trainer: Trainer) -> list[Sparsifier]:
    """Return the callbacks that make nets sparse, in the Trainer's order; the first leads."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, Sparsifier)]


def refuse_unknown(kind: type, unknown: Mapping[str, object], last: type = Sparsifier) -> None:
    """Refuse arguments that a class does not take; the ``last`` of its bases hands none of them on."""
    bases = kind.__mro__[: kind.__mro__.index(last) + 1]
    takes = [parameter for base in bases for parameter in signature(base).parameters.values()]
    known = [parameter.name for parameter in takes if parameter.kind is not parameter.VAR_KEYWORD]
    for name in unknown:
        way_out = near(name, known) or f". Leave it out; help({kind.__name__}) names those that it takes."
        raise TypeError(f"{kind.__name__} has no argument {name!r}{way_out}")
