"""ASNI: a sparse net found in one round of training, and two numbers per layer to start it from."""

from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_sparse.callbacks.epochs.base import EpochPruning
from lightning_sparse.callbacks.epochs.steepness import warn_of_steep_search
from lightning_sparse.callbacks.monitor import logs_layers
from lightning_sparse.callbacks.sparsifier import Config
from lightning_sparse.checks import SparsityError, check_choice, check_count, check_number, check_writable
from lightning_sparse.files.tickets import Ticket, save_ticket
from lightning_sparse.functional.asni import kept_path, sparsity_path, sparsity_path_to, target_sparsity
from lightning_sparse.functional.budgets import total_budget
from lightning_sparse.functional.centroids import centroids, reinitialise_, set_by_rule, signs
from lightning_sparse.functional.masks import count_all, sparsity
from lightning_sparse.functional.rewinding import refuse_partial, rewind_, snapshot
from lightning_sparse.selection import layer_name
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn
from lightning_sparse.version import VERSION
from lightning_sparse.weights.state import state_of

__all__ = ["ASNISigmoidPruner"]

Reinit: TypeAlias = Literal["centroids", "original"]


class ASNISigmoidPruner(EpochPruning):
    """Find a sparse net while training it, then train it once more from a start of two numbers per layer.

    The *search* prunes at the end of its epochs, by magnitude, all layers together; sparsity rises along a
    sigmoid. Its last epoch trains at the final sparsity. Then the net is initialised anew with the mask it
    has, optimizers and learning rate schedulers start once more, and the *retraining* takes what is left of
    the fit. The paper's variants A (search) and C or S (retraining) are so had in one run.

    A net is pruned after an epoch's last step, before Lightning validates and saves: metric, checkpoint and
    mask belong together. Schedulers that reckon with the length of the whole fit are longer than each half;
    give those that should end with it the number of epochs of one half.

    Args:
        density: Share of the selected weights to keep, a fraction in (0, 1); ``floor(density * N + 0.5)`` are
            left after the last pruning, exactly. Or give ``alpha``.
        alpha: Height of the sigmoid in percent, in (0, 100); the net ends a little denser.
        beta: Where the sigmoid is half as high, as a share of the search, in (0, 1).
        gamma: Width of its rise in epochs. ``None``: a tenth of the search.
        search_epochs: Length E of the search. ``None``: half of ``max_epochs``, or all of them without
            ``reinit``.
        min_increment: In percent of what is left: a removal of not more is left out, and never made up for.
            The paper's counts need 0.1.
        reinit: Where the retraining starts: ``"centroids"``, the means of each layer's positive and negative
            weights (biases 0, norms beside them as new, all else as it was at first); ``"original"``,
            everything as it was at first; ``None``: no retraining.
        ticket_path: File to write masks, signs and centroids into when the search ends, for
            ``PruneAtInit(FromFile(ticket_path, start="centroids"))``.
        **pruning: ``min_weights_per_layer``, ``include``, ``exclude``, ``density_overrides`` (at the end),
            ``communication`` and ``verify``, as `MagnitudePruning` has them.

    Raises:
        SparsityError: If an argument is out of range, or, when fit starts, if a pattern matches nothing or
            the budget cannot be met.

    Source:
        Damadi et al., "Amenable Sparse Network Investigator", 2021, algorithm 1.

    >>> ASNISigmoidPruner(alpha=98, gamma=5, search_epochs=50).kept_path(266_200, 266_200)[-1]
    7925
    """

    run_state: ClassVar = {
        **EpochPruning.run_state,
        "_search_epochs": int,
        "restarted": bool,
        "_signs": dict,
        "_centroids": dict,
        "_provenance": dict,
    }
    _search_epochs: int  # the search's length, once it is known
    restarted: bool
    _signs: dict[str, Tensor]
    _centroids: dict[str, Tensor]
    _provenance: Config

    def __init__(
        self,
        density: float | None = None,
        *,
        alpha: float | None = None,
        beta: float = 0.5,
        gamma: float | None = None,
        search_epochs: int | None = None,
        min_increment: float = 0.0,
        reinit: Reinit | None = "centroids",
        ticket_path: str | None = None,
        **pruning: Any,
    ) -> None:
        _check_sigmoid(density, alpha, beta, gamma, search_epochs, min_increment)
        check_choice("reinit", reinit, ("centroids", "original", None))
        super().__init__(1.0 if density is None else density, **pruning)
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.search_epochs = search_epochs
        self._search_epochs = search_epochs or 0  # known when fit begins
        self.min_increment = min_increment
        self.reinit = reinit
        self.ticket_path = ticket_path

    def config(self) -> Config:
        """Return what decides the masks, and what becomes of them."""
        return {
            "alpha": self.alpha,
            "beta": self.beta,
            "gamma": self.gamma,
            "density": None if self.alpha is not None else self.density,
            "search_epochs": self.search_epochs,
            "min_increment": self.min_increment,
            "min_weights_per_layer": self.min_weights_per_layer,
            "reinit": self.reinit,
        }

    # The schedule.

    @property
    def epochs(self) -> int:
        """Length of the search; 0 while only the Trainer knows it."""
        return self._search_epochs

    def read_trainer(self, trainer: Trainer) -> None:
        """Give the search its share of the fit, unless its length is an argument, or it is on its way."""
        if self.begun:
            return
        _refuse_endless_search(self.search_epochs, trainer)
        share = 1 if self.reinit is None else 2
        self._search_epochs = self.search_epochs or max((trainer.max_epochs or 0) // share, 2)

    def kept_path(self, alive: int, total: int) -> list[int]:
        """Return how many weights are alive at the end of each epoch but the search's last."""
        if not self._search_epochs:
            raise SparsityError(
                "`search_epochs` must be given where no Trainer says how long the fit is, got None. Give the "
                "number of epochs that weights are pruned in."
            )
        kept = None if self.alpha is not None else total_budget(total, self.density)
        return kept_path(alive, self._sparsities(alive, total), self.min_increment, kept)

    def _sparsities(self, alive: int, total: int) -> list[float]:
        """Return s(e) in percent of the weights that are alive at the start."""
        if self.alpha is not None:
            return sparsity_path(self._search_epochs, self.alpha, self.beta, self.gamma)
        kept = total_budget(total, self.density)
        return sparsity_path_to(kept, alive, self._search_epochs, self.beta, self.gamma)

    # When.

    @property
    def restarting(self) -> bool:
        """Whether the retraining is still to come."""
        return self.reinit is not None and not (self.begun and self.restarted)

    @property
    def epochs_needed(self) -> tuple[int, str]:
        """The search, and one epoch of the retraining if there is one."""
        return self._search_epochs + (self.reinit is not None), f"`search_epochs` {self._search_epochs}"

    def check_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse also a ticket that could not be written when hours of search are over."""
        super().check_fit(trainer, module)
        check_writable("ticket_path", self.ticket_path)

    def keep_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep what the retraining starts from, and note where this search comes from."""
        _warn_of_old_ticket(self.ticket_path)
        warn_of_steep_search(type(self).__name__, sum(self._alive.values()), self.path, self._search_epochs)
        self._saved = snapshot(module, leave_out=self._ruled(module)) if self.reinit is not None else {}
        self._provenance = {
            **self.config(),
            "search_epochs": self._search_epochs,
            "alive_at_start": sum(self._alive.values()),
            "weights": count_all(state_of(module).masks),
            "kept": self.path[-1],
            "seed": torch.initial_seed(),
            "torch": str(torch.__version__),
            "lightning_sparse": VERSION,
        }

    def prune_at_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Prune; at the end of the search take down the ticket."""
        if self.pruning:
            self.prune_(trainer, module)
        if self.epoch + 1 == self._search_epochs and (self.ticket_path is not None or self.restarting):
            ticket = self._ticket(module)  # an error on all ranks if weights are NaN
            if self.ticket_path is not None and trainer.is_global_zero:
                save_ticket(ticket, self.ticket_path)

    def begin_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the retraining if the search is over."""
        if self.reinit is None or self.restarted or self.epoch < self._search_epochs:
            return
        refuse_partial(self._saved, module, self._ruled(module))
        ticket = self._ticket(module)
        self._signs, self._centroids = trainer.strategy.broadcast((ticket.signs, ticket.centroids))
        rewind_(module, self._saved, ticket.masks)
        if self.reinit == "centroids":
            reinitialise_(module, ticket.masks, self._signs, self._centroids)
        self.restart_(trainer, module)
        self._saved, self._start_states, self.restarted = {}, {}, True  # nobody starts once more

    # What is told of it.

    def metrics(self, module: LightningModule) -> dict[str, float]:
        """Return target and actual sparsity, and in the search the centroids of every layer."""
        state = state_of(module)
        start, total = sum(self._alive.values()), count_all(state.masks)
        planned = self._sparsities(start, total)
        target = planned[min(self.epoch, len(planned)) - 1]
        metrics = {
            "asni/target_sparsity": target_sparsity(target, start, total),
            "asni/sparsity": sparsity(state.masks),
        }
        if self.restarted or not logs_layers(module):
            return metrics
        for name, pair in centroids(state.weights, state.masks).items():
            for sign, value in zip(("plus", "minus"), pair.tolist(), strict=True):
                metrics[f"centroids/{layer_name(name)}/{sign}"] = value
        return metrics

    def _ruled(self, module: LightningModule) -> set[str]:
        """Return the names of what the new start sets by a rule, and nobody has to keep."""
        return set_by_rule(module, self._alive) if self.reinit == "centroids" else set()

    def _ticket(self, module: LightningModule) -> Ticket:
        state = state_of(module)
        masks = {name: mask.cpu() for name, mask in state.masks.items()}
        weights = state.weights
        return Ticket(masks, signs(weights, masks), centroids(weights, masks), self._provenance)


def _check_sigmoid(
    density: object, alpha: object, beta: object, gamma: object, search_epochs: object, min_increment: object
) -> None:
    """Refuse arguments that describe no schedule."""
    if (alpha is None) == (density is None):
        given = "neither" if alpha is None else "both"
        raise SparsityError(
            f"`alpha` or `density` must say how sparse the net becomes, got {given}. Give one."
        )
    if alpha is not None:
        check_number("alpha", alpha, "(0, 100)", "It is a percentage: 98 removes 98%.")
    check_number("beta", beta, "(0, 1)", "It is a share of the search: 0.5 is half.")
    if gamma is not None:
        check_number("gamma", gamma, "(0, inf)", "It is a number of epochs.")
    if search_epochs is not None:
        check_count("search_epochs", search_epochs, 2, "One to prune after, one to recover.")
    check_number("min_increment", min_increment, "[0, 100)", "It is a percentage of what is left.")


def _refuse_endless_search(search_epochs: int | None, trainer: Trainer) -> None:
    """Refuse a search of which neither an argument nor the Trainer says how long it is."""
    if search_epochs is None and (trainer.max_epochs is None or trainer.max_epochs < 0):
        raise SparsityError(
            f"`search_epochs` must be a number if `max_epochs` is {trainer.max_epochs}, got None. Set one of "
            "them."
        )


def _warn_of_old_ticket(path: str | None) -> None:
    """Warn if a file is there that this run will replace."""
    if path is not None and Path(path).exists():
        rank_zero_warn(
            f"`ticket_path` {path!r} is there already, and this run will replace it when its search ends. To "
            "keep it, name another."
        )
