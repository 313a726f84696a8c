"""ASNI: a sparse net found in one round of training, and two numbers per layer to start it from."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_sparse.callbacks.epochs.base import EpochPruning, warn_of_short_fit
from lightning_sparse.checks import SparsityError, check_choice, check_writable
from lightning_sparse.files.tickets import Ticket, save_ticket
from lightning_sparse.functional.allocation import total_budget
from lightning_sparse.functional.asni import kept_path, sparsity_path, sparsity_path_to, target_sparsity
from lightning_sparse.functional.centroids import centroids, reinitialise_, set_by_rule, signs
from lightning_sparse.functional.masks import count_all, sparsity
from lightning_sparse.functional.rewinding import rewind_, snapshot
from lightning_sparse.selection import layer_name
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn
from lightning_sparse.weights.state import state_of

__all__ = ["ASNISigmoidPruner", "check_sigmoid", "refuse_endless_search", "warn_of_old_ticket"]

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
        alpha: Height of the sigmoid in percent, in (0, 100); the net ends a little denser. Or give
            ``density``.
        beta: Where the sigmoid is half as high, as a share of the search, in (0, 1).
        gamma: Width of its rise in epochs. ``None``: a tenth of the search.
        density: Share of the selected weights to keep, a fraction in (0, 1); ``floor(density * N + 0.5)`` are
            left after the last pruning, exactly.
        search_epochs: Length E of the search. ``None``: half of ``max_epochs``, or all of them without
            ``reinit``.
        min_increment: In percent of what is left: a removal of not more is left out, and never made up for.
            The paper's counts need 0.1.
        min_weights_per_layer: No layer keeps fewer than this (or all, if it is smaller).
        reinit: Where the retraining starts: ``"centroids"``, the means of each layer's positive and negative
            weights (biases 0, norms beside them as new, all else as it was at first); ``"original"``,
            everything as it was at first; ``None``: no retraining.
        ticket_path: File to write masks, signs and centroids into when the search ends, for
            ``PruneAtInit(mask_path=..., weight_init="centroids")``.
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers.
        exclude: Patterns of weights to leave dense; they do not count towards the density.
        density_overrides: Density at the end by pattern, for single layers; the others share the rest.
        verify: After every step, check that pruned weights are zero, every count is exact, the optimizer has
            gathered nothing for pruned weights, and all processes have the same masks.

    Raises:
        ValueError: If an argument is out of range, or, when fit starts, if a pattern matches nothing or the
            budget cannot be met.

    Source:
        Damadi et al., "Amenable Sparse Network Investigator", 2021, algorithm 1.

    >>> ASNISigmoidPruner(alpha=98, gamma=5, search_epochs=50).kept_path(266_200, 266_200)[-1]
    7925
    """

    def __init__(
        self,
        alpha: float | None = None,
        beta: float = 0.5,
        gamma: float | None = None,
        *,
        density: float | None = None,
        search_epochs: int | None = None,
        min_increment: float = 0.0,
        min_weights_per_layer: int = 1,
        reinit: Reinit | None = "centroids",
        ticket_path: str | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        verify: bool = False,
    ) -> None:
        check_sigmoid(alpha, beta, gamma, density, search_epochs, min_increment)
        check_choice("reinit", reinit, ("centroids", "original", None))
        super().__init__(
            1.0 if density is None else density,
            min_weights_per_layer=min_weights_per_layer,
            include=include,
            exclude=exclude,
            density_overrides=density_overrides,
            verify=verify,
        )
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.search_epochs = search_epochs
        self.epochs = search_epochs or 0  # known when fit begins
        self.min_increment = min_increment
        self.reinit = reinit
        self.ticket_path = ticket_path

    def config(self) -> dict[str, str | int | float | None]:
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

    def forget(self) -> None:
        """Start afresh, for a module that this has not pruned."""
        super().forget()
        self.restarted = False
        self._signs: dict[str, Tensor] = {}
        self._centroids: dict[str, Tensor] = {}

    # The schedule.

    def learn_length(self, trainer: Trainer) -> None:
        """Give the search its share of the fit, unless its length is an argument, or it is on its way."""
        if self.begun:
            return
        refuse_endless_search(self.search_epochs, trainer)
        share = 1 if self.reinit is None else 2
        self.epochs = self.search_epochs or max((trainer.max_epochs or 0) // share, 2)

    def kept_path(self, alive: int, total: int) -> list[int]:
        """Return how many weights are alive at the end of each epoch but the search's last."""
        kept = None if self.alpha is not None else total_budget(total, self.density)
        return kept_path(alive, self._sparsities(alive, total), self.min_increment, kept)

    def _sparsities(self, alive: int, total: int) -> list[float]:
        """Return s(e) in percent of the weights that are alive at the start."""
        if self.alpha is not None:
            return sparsity_path(self.epochs, self.alpha, self.beta, self.gamma)
        kept = total_budget(total, self.density)
        return sparsity_path_to(kept, alive, self.epochs, self.beta, self.gamma)

    # When.

    @property
    def restarting(self) -> bool:
        """Whether the retraining is still to come."""
        return self.reinit is not None and not (self.begun and self.restarted)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, before any batch is drawn."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            check_writable("ticket_path", self.ticket_path)
            needed = self.epochs + (self.reinit is not None) - (self.epoch if self.begun else 0)
            warn_of_short_fit(type(self).__name__, f"`search_epochs` {self.epochs}", needed, trainer)

    def begin_training(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep what the retraining starts from."""
        warn_of_old_ticket(self.ticket_path)
        ruled = set_by_rule(module, self._alive) if self.reinit == "centroids" else set()
        self._saved = snapshot(module, leave_out=ruled) if self.reinit is not None else {}

    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Prune; at the end of the search take down the ticket."""
        if self.pruning:
            self.prune_(trainer, module)
        if self.epoch + 1 == self.epochs and self.ticket_path is not None and trainer.is_global_zero:
            save_ticket(self._ticket(module), self.ticket_path)

    def begin_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the retraining if the search is over."""
        if self.reinit is None or self.restarted or self.epoch < self.epochs:
            return
        ticket = self._ticket(module)
        self._signs, self._centroids = trainer.strategy.broadcast((ticket.signs, ticket.centroids))
        rewind_(module, self._saved, ticket.masks)
        if self.reinit == "centroids":
            reinitialise_(module, ticket.masks, self._signs, self._centroids)
        self.restart_(trainer, module)
        self._saved, self._start_states, self.restarted = {}, {}, True  # nobody starts once more

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log also target and actual sparsity, and in the search the centroids of every layer."""
        super().on_train_epoch_end(trainer, pl_module)
        pl_module.log_dict(self._metrics(pl_module), sync_dist=True)  # every rank has the same

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return also where the search and the retraining are."""
        state = super().state_dict()
        if not state:
            return {}
        return {
            **state,
            "search_epochs": self.epochs,
            "restarted": self.restarted,
            "signs": self._signs,
            "centroids": self._centroids,
            "provenance": self._provenance(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, with the length that the search had.

        Raises:
            ValueError: If the arguments are not those that the checkpoint was made with.
        """
        super().load_state_dict(state_dict)
        if state_dict:
            self.epochs, self.restarted = state_dict["search_epochs"], state_dict["restarted"]
            self._signs, self._centroids = state_dict["signs"], state_dict["centroids"]

    # Steps of the above.

    def _ticket(self, module: LightningModule) -> Ticket:
        state = state_of(module)
        masks = {name: mask.cpu() for name, mask in state.masks.items()}
        weights = state.weights
        return Ticket(masks, signs(weights, masks), centroids(weights, masks), self._provenance())

    def _provenance(self) -> dict[str, str | int | float | None]:
        return {
            **self.config(),
            "search_epochs": self.epochs,
            "alive_at_start": sum(self._alive.values()),
            "weights": count_all(self._state().masks),
            "kept": self.path[-1],
            "seed": torch.initial_seed(),
            "torch": str(torch.__version__),
            "lightning_sparse": version("lightning-sparse"),
        }

    def _metrics(self, module: LightningModule) -> dict[str, float]:
        state = state_of(module)
        start, total = sum(self._alive.values()), count_all(state.masks)
        planned = self._sparsities(start, total)
        target = planned[min(self.epoch, len(planned)) - 1]
        metrics = {
            "asni/target_sparsity": target_sparsity(target, start, total),
            "asni/sparsity": sparsity(state.masks),
        }
        if self.restarted:
            return metrics
        for name, pair in centroids(state.weights, state.masks).items():
            for sign, value in zip(("plus", "minus"), pair.tolist(), strict=True):
                metrics[f"centroids/{layer_name(name)}/{sign}"] = value
        return metrics


def check_sigmoid(
    alpha: float | None,
    beta: float,
    gamma: float | None,
    density: float | None,
    search_epochs: int | None,
    min_increment: float,
) -> None:
    """Raise ValueError unless the arguments of ASNI's schedule describe one."""
    if (alpha is None) == (density is None):
        given = "neither" if alpha is None else "both"
        raise SparsityError(
            f"`alpha` or `density` must say how sparse the net becomes, got {given}. Give one."
        )
    if alpha is not None and not (isinstance(alpha, int | float) and 0 < alpha < 100):
        raise SparsityError(
            f"`alpha` must be in (0, 100), got {alpha!r}. It is a percentage: 98 removes 98%."
        )
    if not (isinstance(beta, int | float) and 0 < beta < 1):
        raise SparsityError(
            f"`beta` must be in (0, 1), got {beta!r}. It is a share of the search: 0.5 is half."
        )
    if gamma is not None and not (isinstance(gamma, int | float) and gamma > 0):
        raise SparsityError(f"`gamma` must be greater than 0, got {gamma!r}. It is a number of epochs.")
    if search_epochs is not None and not (isinstance(search_epochs, int) and search_epochs >= 2):
        raise SparsityError(
            f"`search_epochs` must be at least 2, got {search_epochs!r}: one to prune after, one to recover."
        )
    if not (isinstance(min_increment, int | float) and 0 <= min_increment < 100):
        raise SparsityError(f"`min_increment` must be a percentage in [0, 100), got {min_increment!r}.")


def warn_of_old_ticket(path: str | None) -> None:
    """Warn if a file is there that this run will replace."""
    if path is not None and Path(path).exists():
        rank_zero_warn(
            f"`ticket_path` {path!r} is there already, and this run will replace it when its search ends. To "
            "keep it, name another."
        )


def refuse_endless_search(search_epochs: int | None, trainer: Trainer) -> None:
    """Raise ValueError if neither an argument nor the Trainer says how long the search is."""
    if search_epochs is None and (trainer.max_epochs is None or trainer.max_epochs < 0):
        raise SparsityError(
            f"`search_epochs` must be a number if `max_epochs` is {trainer.max_epochs}, got None. Set one of "
            "them."
        )
