"""Lottery tickets: train, prune, go back, and train again."""

from typing import Any, ClassVar

from torch.optim import Optimizer

from lightning_sparse.callbacks.epochs.base import EpochPruning
from lightning_sparse.callbacks.moving.clock import Clock
from lightning_sparse.callbacks.sparsifier import Config
from lightning_sparse.checks import SparsityError, check_count
from lightning_sparse.functional.budgets import total_budget
from lightning_sparse.functional.masks import sparsity
from lightning_sparse.functional.rewinding import refuse_partial, rewind_, round_budgets, snapshot
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.weights.state import state_of

__all__ = ["IterativeMagnitudePruning"]


class IterativeMagnitudePruning(EpochPruning):
    """Look for a lottery ticket: train, prune the smallest weights, rewind the others, and train again.

    A round trains for ``epochs_per_round``, and ends with a pruning of all layers together and the way back
    to earlier weights; optimizers and learning rate schedulers start once more. One training at the final
    density follows the last round: ``(rounds + 1) * epochs_per_round`` epochs in all. All this is one fit,
    and can be resumed anywhere.

    Args:
        density: Share of the selected weights to keep, a fraction in (0, 1]; ``floor(density * N + 0.5)`` of
            N are left after the last round, exactly. Each round loses the same share of what is left.
        rounds: Number of prunings R.
        epochs_per_round: Epochs before each pruning, and after the last.
        rewind_to_step: Optimizer step of the first round to go back to; 0 are the original weights. Buffers
            (the statistics of batch norms) go back with the weights, optimizers and schedulers to the start.
        **pruning: ``min_weights_per_layer``, ``include``, ``exclude``, ``density_overrides`` (at the end),
            ``communication`` and ``verify``, as `MagnitudePruning` has them.

    Raises:
        SparsityError: If an argument is out of range, or, when fit starts, if a pattern matches nothing or
            the budget cannot be met.

    Source:
        Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019 (arXiv:1803.03635); Frankle et al.,
        "Stabilizing the Lottery Ticket Hypothesis", 2019 (arXiv:1903.01611).

    >>> IterativeMagnitudePruning(0.02, rounds=10, epochs_per_round=4).kept_path(266_200, 266_200)[-1]
    5324
    """

    run_state: ClassVar = {**EpochPruning.run_state, "_clock": Clock}
    _clock: Clock

    def __init__(
        self,
        density: float,
        *,
        rounds: int,
        epochs_per_round: int,
        rewind_to_step: int = 0,
        **pruning: Any,
    ) -> None:
        check_count("rounds", rounds)
        check_count("epochs_per_round", epochs_per_round)
        check_count("rewind_to_step", rewind_to_step, 0)
        super().__init__(density, **pruning)
        self.rounds = rounds
        self.epochs_per_round = epochs_per_round
        self.rewind_to_step = rewind_to_step

    def config(self) -> Config:
        """Return what decides the masks, and the way back."""
        return {
            "density": self.density,
            "rounds": self.rounds,
            "epochs_per_round": self.epochs_per_round,
            "rewind_to_step": self.rewind_to_step,
            "min_weights_per_layer": self.min_weights_per_layer,
        }

    def kept_path(self, alive: int, total: int) -> list[int]:
        """Return how many weights are alive after each round."""
        return round_budgets(alive, total_budget(total, self.density), self.rounds)

    @property
    def restarting(self) -> bool:
        """Whether training will start once more: with each pruning."""
        return self.pruning or not self.begun

    @property
    def epochs_needed(self) -> tuple[int, str]:
        """All rounds, and the training after the last."""
        return (self.rounds + 1) * self.epochs_per_round, f"`rounds` {self.rounds}"

    def keep_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the original weights, unless later ones are asked for."""
        if self.rewind_to_step == 0:
            self._saved = snapshot(module)
        else:
            _refuse_late_snapshot(self.rewind_to_step, self.epochs_per_round, trainer)

    def after_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Keep the weights once all optimizers have made so many steps."""
        if self._saved or not self.pruning:
            return
        self._clock.count(trainer, optimizer)
        if self._clock.slowest(trainer, trainer.optimizers) >= self.rewind_to_step:
            self._saved = snapshot(module)

    def begin_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Prune and rewind if a round is over."""
        if self.epoch < (self.prunings + 1) * self.epochs_per_round or not self.pruning:
            return
        if not self._saved:
            raise SparsityError(
                f"`rewind_to_step` must be a step of the first round, got {self.rewind_to_step}: the round "
                "is over. Lower it, or raise `epochs_per_round`."
            )
        refuse_partial(self._saved, module)
        self.prune_(trainer, module)
        rewind_(module, self._saved, state_of(module).masks)
        self.restart_(trainer, module)
        if not self.pruning:
            self._saved, self._start_states = {}, {}  # nobody goes back any more

    def prune_at_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Do nothing: a round's pruning comes before the next epoch, with the way back."""

    def metrics(self, module: LightningModule) -> dict[str, float]:
        """Return the round and its sparsity."""
        return {"imp/round": float(self.prunings), "imp/sparsity": sparsity(state_of(module).masks)}


def _refuse_late_snapshot(rewind_to_step: int, epochs: int, trainer: Trainer) -> None:
    """Refuse a step to rewind to at which the first round is over."""
    module = trainer.lightning_module
    steps = epochs * -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
    if module.automatic_optimization and rewind_to_step > steps and trainer.max_steps == -1:
        raise SparsityError(
            f"`rewind_to_step` must be one of the first round's {steps:.0f} steps, got {rewind_to_step}. "
            "Lower it, or raise `epochs_per_round`."
        )
