"""Training in a random hyperplane: of all weights together, k numbers are trained."""

import weakref
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from lightning_sparse.callbacks import alone, fits
from lightning_sparse.callbacks.company import (
    announce_to_ranks,
    check_what_is_loaded,
    explain_other_ranks,
    refuse_finetuning,
    warn_of_spawned_processes,
)
from lightning_sparse.callbacks.monitor import monitored, print_end, print_table_after_summary
from lightning_sparse.callbacks.saved import refuse_changed_config
from lightning_sparse.callbacks.sharding import refuse_strategy
from lightning_sparse.callbacks.sparsifier import sparsifiers
from lightning_sparse.checks import ALL, SparsityError, check_count, check_patterns
from lightning_sparse.files.states import refuse_other_layout
from lightning_sparse.functional.hyperplane import KEEP_MIB, check_size, size_in_words
from lightning_sparse.selection import select_trained
from lightning_sparse.trainer.accumulation import accumulates
from lightning_sparse.trainer.packages import LightningModule, Trainer, is_lightning, without_module
from lightning_sparse.trainer.parts import builds_layers_late, callbacks_of, has_optimizers
from lightning_sparse.trainer.processes import compare_callbacks, refuse_other_values, seed_of_rank_zero
from lightning_sparse.weights.hyperplane import Hyperplane, hyperplane_of, register

__all__ = ["HyperplaneProjection"]


class HyperplaneProjection(alone.Alone):
    """Train ``dimension`` numbers for all weights together: ``w = d + U theta``, of which theta is trained.

    d is the usual initialisation of the weights, U is dense and random with columns of length one. Nothing is
    sparse, and nothing is saved: it is a yardstick for methods that train as few numbers, for nets of up to
    some hundred thousand weights.

    The weights stay ordinary parameters, so the module, its checkpoints and its exports are those of a dense
    net; the optimizer holds theta in their place. Clipping, momentum and weight decay act on theta. Each step
    multiplies with U and with its transpose, in O(n k).

    Args:
        dimension: Number k of trained numbers.
        include: Patterns on names of parameters: only what matches one of them moves. ``None``: everything
            that is trained, biases and norms too, as in the paper.
        exclude: Patterns of parameters to leave alone: they are trained by themselves, beside theta.
        seed: Of U. ``None``: the process's own seed (``seed_everything``).
        keep_mib: U is kept if it takes at most so many MiB (``4 n k`` bytes), else it is drawn anew in each
            product, in blocks of 4 MiB, which takes about thirteen times as long. Either way the weights are
            the same to the bit.

    Raises:
        SparsityError: If an argument is out of range, or, when fit starts, if a pattern matches nothing, U is
            too large to be drawn in each step, optimization is manual, there is not one optimizer, it cannot
            train theta, or another callback makes the net sparse or, on the way, swaps weights
            (``StochasticWeightAveraging``) or adds some (``BaseFinetuning``).

    Source:
        Li et al., "Measuring the Intrinsic Dimension of Objective Landscapes", ICLR 2018 (arXiv:1804.08838);
        "Hyperplane Projection" in figure 1 of Price and Tanner, ICML 2021 (arXiv:2102.07655).

    >>> from torch import nn
    >>> HyperplaneProjection(dimension=300).planned(nn.Linear(784, 300))
    '300 numbers are trained in place of 235,500 weights (0.1274%).'
    """

    reason = "all weights move together in a dense hyperplane, where none can stay zero"

    needs_whole = "it draws its matrix for whole weights"

    def __init__(
        self,
        dimension: int,
        *,
        include: list[str] | Literal["all"] | None = None,
        exclude: list[str] | None = None,
        seed: int | None = None,
        keep_mib: int = KEEP_MIB,
    ) -> None:
        check_count("dimension", dimension)
        check_patterns("include", include)
        check_patterns("exclude", exclude)
        check_count("keep_mib", keep_mib, 0)
        if seed is not None:
            check_count("seed", seed, 0)
        self.dimension, self.seed, self.keep_mib = dimension, seed, keep_mib
        self.include, self.exclude = include, exclude or []
        self._fitting = False
        self._module: weakref.ReferenceType[LightningModule] | None = None
        self._brought: dict[str, Any] = {}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that all ranks must share."""
        return {**self._config(), "seed": self.seed}

    def planned(self, module: LightningModule) -> str:
        """Say what it would train of a module, from shapes alone.

        Raises:
            SparsityError: If a pattern matches nothing, or U is too large.
        """
        weights = select_trained(module, self.include, self.exclude)
        total = sum(weight.numel() for weight in weights.values())
        check_size(self.dimension, total, self.keep_mib)
        return size_in_words(self.dimension, total)

    def before_loading(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Refuse to resume from a checkpoint that was made without it: its optimizer trained other things.

        Raises:
            SparsityError: If fit resumes from one.
        """
        if self._fitting and self.state_key not in checkpoint.get("callbacks", {}):
            raise SparsityError(
                "HyperplaneProjection must be there from the first step on, and the checkpoint has no state "
                "of it. Load only the weights (`load_state_dict`) and start a new run: d is where they are."
            )

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return the arguments, theta and d; the weights themselves are where they always are."""
        hyperplane = self._hyperplane()
        if hyperplane is None:
            return {}
        theta, start = hyperplane.theta.detach().cpu(), hyperplane.start.cpu()
        seed = hyperplane.basis.seed
        return {"config": self._config(), "seed": seed, "theta": theta.clone(), "start": start.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep theta and d until the weights are on their device; take them up at once in the midst of a fit.

        Raises:
            SparsityError: If fit is resumed with other arguments than the checkpoint was made with, or
                another class or version has saved the state.
        """
        if not self._fitting or not state_dict:
            return
        kinds = {"config": Mapping, "seed": int, "theta": Tensor, "start": Tensor}
        refuse_other_layout("HyperplaneProjection", state_dict, kinds)
        mine = {**self._config(), **({} if self.seed is None else {"seed": self.seed})}
        refuse_changed_config(mine, {**state_dict["config"], "seed": state_dict["seed"]})
        self._brought = state_dict
        if (hyperplane := self._hyperplane()) is not None and hyperplane.attached:
            hyperplane.move_to_(state_dict["theta"], state_dict["start"])

    # When: Lightning's hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, before any batch is drawn."""
        name = type(self).__name__
        fits.begin(self, trainer, pl_module, stage == "fit")
        self._fitting, self._brought = stage == "fit", {}
        self._module = weakref.ref(pl_module)
        refuse_strategy(self, trainer)
        warn_of_spawned_processes(name, trainer, "after fit, theta stays in the processes it starts")
        for other in sparsifiers(trainer):
            alone.refuse_both(self, other)
        announce_to_ranks(self, trainer)
        check_what_is_loaded(self, trainer)
        if self._fitting:
            refuse_finetuning(name, trainer)
            _refuse_swapped_weights(trainer)
            _refuse_manual_optimization(pl_module)
            if (hyperplane := hyperplane_of(pl_module)) is not None:  # of an earlier fit
                hyperplane.release_()
                register(pl_module, None)
            if not builds_layers_late(pl_module):
                self.planned(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the optimizer train theta: weights are on their device, and equal on all ranks."""
        compare_callbacks(trainer)
        if not has_optimizers(trainer):
            return
        weights = select_trained(pl_module, self.include, self.exclude)
        seed = seed_of_rank_zero(trainer, self._brought.get("seed", self.seed))
        hyperplane = Hyperplane(pl_module, weights, self.dimension, seed, self.keep_mib)
        if self._brought:
            hyperplane.move_to_(self._brought["theta"], self._brought["start"])
        hyperplane.attach_(_only_optimizer(trainer))
        register(pl_module, hyperplane)
        self._brought = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare ranks, say and log what is trained."""
        hyperplane = hyperplane_of(pl_module)
        if hyperplane is None:
            return
        _refuse_other_planes(trainer, hyperplane)
        self._log(pl_module, hyperplane)
        print_table_after_summary(trainer, pl_module, zeros=False)
        if trainer.is_global_zero and _wants_tables(trainer):
            print(f"\nHyperplane projection: {hyperplane}\n", flush=True)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the gradient of theta once those of the weights are complete, for scalers and clipping."""
        hyperplane = hyperplane_of(pl_module)
        if hyperplane is not None and not accumulates(trainer):
            hyperplane.pull_()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare ranks, and log."""
        if (hyperplane := hyperplane_of(pl_module)) is not None:
            _refuse_other_planes(trainer, hyperplane)
            self._log(pl_module, hyperplane)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the net is saved."""
        if not monitored(trainer):
            print_end(trainer, pl_module, zeros=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks off the optimizer."""
        if fits.ends(self, trainer, pl_module):
            _detach_(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say in plain words that ranks differ; take the hooks off."""
        explain_other_ranks(trainer, exception)
        if fits.ends(self, trainer, pl_module):
            _detach_(pl_module)

    def __getstate__(self) -> dict[str, Any]:
        return {**without_module(self), "_module": None, "_brought": {}}

    # Steps of the above.

    def _config(self) -> dict[str, Any]:
        """Return what a resumed run must share with the first: not whether U is kept."""
        include = self.include if self.include == ALL else sorted(self.include or [])
        exclude = sorted(self.exclude)
        words = {"include": str(include) if include else None, "exclude": str(exclude) if exclude else None}
        return {"dimension": self.dimension, **words}

    def _hyperplane(self) -> Hyperplane | None:
        module = None if self._module is None else self._module()
        return None if module is None else hyperplane_of(module)

    def _log(self, module: LightningModule, hyperplane: Hyperplane) -> None:
        share = len(hyperplane.theta) / len(hyperplane.start)
        module.log("trainable_sparsity/total", 1 - share, sync_dist=True)


def _detach_(module: LightningModule) -> None:
    if (hyperplane := hyperplane_of(module)) is not None:
        hyperplane.detach_()


def _refuse_other_planes(trainer: Trainer, hyperplane: Hyperplane) -> None:
    refuse_other_values(trainer, {"theta": hyperplane.theta, "the initialisation": hyperplane.start})


def _wants_tables(trainer: Trainer) -> bool:
    return any(is_lightning(callback, "callbacks.ModelSummary") for callback in callbacks_of(trainer))


def _refuse_swapped_weights(trainer: Trainer) -> None:
    """Refuse the averaging that makes a step after it has put averages in the place of the weights."""
    if any(is_lightning(other, "callbacks.StochasticWeightAveraging") for other in callbacks_of(trainer)):
        raise SparsityError(
            "HyperplaneProjection cannot run with StochasticWeightAveraging, whose average the step of its "
            "last epoch would overwrite. Use WeightAveraging or EMAWeightAveraging."
        )


def _refuse_manual_optimization(module: LightningModule) -> None:
    if not module.automatic_optimization:
        raise SparsityError(
            "`automatic_optimization` must be True beside HyperplaneProjection, got False: it must know when "
            "gradients are complete. Use `lightning_sparse.project_` in a loop of your own."
        )


def _only_optimizer(trainer: Trainer) -> Optimizer:
    if len(trainer.optimizers) != 1:
        raise SparsityError(
            "`configure_optimizers` must return one optimizer beside HyperplaneProjection, got "
            f"{len(trainer.optimizers)}: one vector is trained for all weights. Use one."
        )
    return trainer.optimizers[0]
