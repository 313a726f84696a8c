"""What callbacks that convert layers share: which layers, how they are made, what is in checkpoints."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from lightning_sparse.callbacks.converting.choice import LayerChoice
from lightning_sparse.callbacks.converting.converted import refuse_other_budgets
from lightning_sparse.callbacks.converting.converter import Converter
from lightning_sparse.callbacks.saved import refuse_changed_config
from lightning_sparse.callbacks.scoring import refuse_without_score, scale_by_data_, scored_masks
from lightning_sparse.callbacks.sparsifier import Config, Sparsifier
from lightning_sparse.checks import SparsityError, check_choice, check_count, check_flag, check_patterns
from lightning_sparse.files.states import refuse_other_layout
from lightning_sparse.functional.allocation import ALLOCATIONS, AllocationName, allocate
from lightning_sparse.functional.budgets import total_budget
from lightning_sparse.functional.pruning import plan_budgets
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.functional.saliency import PruningMethod
from lightning_sparse.layers import convert_
from lightning_sparse.layers.alphas import (
    Alpha,
    asks_for_data,
    check_alpha,
    check_last_layer_factor,
    lsuv_names,
    plain_alpha,
    starting_alphas,
    without_data,
)
from lightning_sparse.layers.backends import BACKEND_ROWS, Backend
from lightning_sparse.layers.conversion import replace_layers_
from lightning_sparse.layers.convertible import Convertible
from lightning_sparse.layers.offsets import Offset, OffsetName, offset_from_name
from lightning_sparse.layers.signal import ABOUT_SIGNAL, advice_on_signal
from lightning_sparse.selection import layer_name, match_overrides
from lightning_sparse.trainer.early import prepare_losses
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn
from lightning_sparse.trainer.processes import masks_of_rank_zero, seed_of_process, seed_of_rank_zero
from lightning_sparse.types import Budgets, Shapes

__all__ = ["Conversion"]


class Conversion(Sparsifier, ABC):
    """Replaces linear and convolutional layers by ``alpha C + S``: a fixed matrix and a sparse one.

    Layers are replaced before optimizers are made, in every stage, so that checkpoints of a converted module
    load wherever the callback is; `load_from_checkpoint` loads them without. What is logged of layers whose
    weight is dense is ``trainable_sparsity/<layer>``, one minus k / N for k trained values; of plain sparse
    ones it is ``sparsity/<layer>``.

    Frozen copies of converted layers (the target net of a momentum method) are converted alike. Layers that
    ``alpha`` makes many times as loud as they were are warned of.

    Args:
        density: Share of all selected weights that S has, a fraction in (0, 1]; ``floor(density * N + 0.5)``
            of N, exactly.
        allocation: How S's entries are shared out over the layers: ``"epl"`` (the same number for each),
            ``"epf"``, ``"erk"`` or ``"uniform"``.
        offset: The matrix C: the name of an offset, or an `Offset`.
        support: Says which entries S has, by scores on the training data; ``None`` draws them at random.
        alpha: Scale of C at the start: a number, ``"match_norm"`` for the norm that the layer's weight had,
            ``"lsuv"`` for one with which the layer's output has standard deviation 1 on a batch of the
            training data, or any of them by pattern (the last match wins, 1.0 elsewhere). Layers of zeros
            get 0.
        last_layer_factor: By what the alpha of the layer that is called last is multiplied after ``"lsuv"``:
            with a small one the net starts with outputs near its biases.
        alpha_requires_grad: Whether alpha is trained.
        backend: How the layers multiply: ``"materialize"`` builds the weight in each step, ``"transform"``
            never does, nor ``"kernels"``, for linear layers on GPUs; ``"auto"`` takes what is faster.
        min_weights_per_layer: Entries that S has at least in each layer.
        train: Patterns on names of parameters, or of modules for all that they hold: what is trained in full
            beside S and alpha, everything else being frozen; layers whose weight is named are not replaced,
            all others are, frozen before or not. ``None``: nothing is frozen or thawed.
        **selection: ``include`` (``None``: the weights of linear and convolutional layers), ``exclude``,
            ``density_overrides`` and ``seed`` (of the supports), as `Sparsifier` has them.

    Raises:
        SparsityError: If an argument is out of range, or, when a stage starts, if a pattern matches nothing,
            the budget cannot be met, a layer cannot be converted, or no optimizer holds its values.
    """

    converts, needs_whole = True, "it replaces layers by others, whose values have no rows to split"
    left_behind = (
        "converted layers stay in the processes it starts; after fit, this one has the layers it had before, "
        "untrained"
    )

    @abstractmethod
    def __init__(
        self,
        density: float,
        allocation: AllocationName = "epl",
        *,
        offset: Offset | OffsetName,
        support: PruningMethod | None = None,
        alpha: Alpha | dict[str, Alpha] = 1.0,
        alpha_requires_grad: bool = True,
        backend: Backend = "auto",
        last_layer_factor: float = 1.0,
        min_weights_per_layer: int = 1,
        train: list[str] | None = None,
        **selection: Any,
    ) -> None:
        super().__init__(density, **selection)
        check_choice("allocation", allocation, ALLOCATIONS)
        check_choice("backend", backend, ("auto", *BACKEND_ROWS))
        check_count("min_weights_per_layer", min_weights_per_layer, 0)
        check_flag("alpha_requires_grad", alpha_requires_grad)
        check_alpha(alpha)
        check_last_layer_factor(last_layer_factor, alpha)
        check_patterns("train", train)
        self.offset = offset if isinstance(offset, Offset) else offset_from_name(offset)
        self.allocation, self.support = allocation, support
        self.alpha, self.alpha_requires_grad = alpha, alpha_requires_grad
        self.backend, self.last_layer_factor = backend, last_layer_factor
        self.min_weights_per_layer = min_weights_per_layer
        self.train = train
        self._converter = Converter(type(self).__name__)
        self._advice: str | None = None

    # What it would do.

    def config(self) -> Config:
        """Return what decides layers and supports; the supports themselves are in the module's own state."""
        return {
            "density": self.density,
            "allocation": self.allocation,
            "alpha": plain_alpha(self.alpha),
            "last_layer_factor": float(self.last_layer_factor),
            "alpha_requires_grad": self.alpha_requires_grad,
            "offset": repr(self.offset),
            **({} if self.support is None and self.train is None else {"support": repr(self.support)}),
            "min_weights_per_layer": self.min_weights_per_layer,
            **({} if self.train is None else {"train": str(sorted(self.train))}),
        }

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the weights of the layers to convert; there are none left once they are."""
        return _weights_of(self._choice.layers(module)[0])

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the number of entries of S in each layer.

        Raises:
            SparsityError: If the arguments cannot be met.
        """
        fixed, least = match_overrides(shapes, self.density_overrides), self.min_weights_per_layer
        if self.support is not None:
            return plan_budgets(shapes, self.density, self.support.allocation, fixed=fixed, min_weights=least)
        return allocate(shapes, self.density, self.allocation, fixed=fixed, min_weights=least)

    def read_trainer(self, trainer: Trainer) -> None:
        """Take nothing: arguments and shapes decide."""

    def check_module(self, module: LightningModule) -> None:
        """Leave it to the conversion, which refuses what it cannot convert."""

    # When.

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Replace the layers, or see to it once ``configure_model`` is through."""
        by_data = self._fitting and (self.support is not None or asks_for_data(self.alpha))
        convert = partial(self._convert_, trainer, module)
        self._converter.prepare(trainer, module, convert, fitting=self._fitting, by_data=by_data)

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse layers that were made too late to be converted."""
        if late := self._choice.late(module):
            raise SparsityError(
                f"{type(self).__name__} must find all layers when it is set up, got {late[0]!r} made later "
                f"({len(late)} in all). Make them in `__init__` or `configure_model`, or `exclude` them."
            )
        self._converter.begin_fit(trainer, module)
        if self._advice is not None and trainer.ckpt_path is None:
            rank_zero_warn(self._advice)
        self._advice = None

    def take_up(self, trainer: Trainer, module: LightningModule) -> None:
        """Take rank 0's supports."""
        self._converter.take_up(trainer, module)

    def start_(self, trainer: Trainer, module: LightningModule) -> None:
        """Do nothing: the layers were replaced before optimizers were made."""

    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Check that frozen copies still have the support of the layers that they are copies of."""
        self._converter.end_epoch(module)

    def log_more(self, module: LightningModule) -> None:
        """Log nothing beside the sparsity of layers."""

    def release(self, module: LightningModule) -> None:
        """Leave the layers: they are the module's own from now on."""

    @property
    def verifies(self) -> bool:
        """False: there are no masks to verify."""
        return False

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return the arguments, in plain values; the supports are in the module's own state."""
        return {"config": self.full_config(), "backend": self.backend}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare arguments.

        Raises:
            SparsityError: If fit is resumed with others than the checkpoint was made with, or another class
                or version has saved them.
        """
        refuse_other_layout(type(self).__name__, state_dict, {"config": Mapping, "backend": str})
        refuse_changed_config(self.full_config() if self._fitting else {}, state_dict["config"])

    def before_loading(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Do nothing: the layers are replaced by now."""

    def check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse layers that the checkpoint lacks, and to resume with another number of values."""
        self._converter.check_checkpoint(checkpoint, self._fitting)

    # Steps of the above.

    def _convert_(self, trainer: Trainer, module: LightningModule, decides: bool) -> list[str]:
        """Replace the layers; what there is to advise is said when it is known whether fit resumes."""
        if self._fitting:
            self._advice = advice_on_signal(self._choice.weights(module), self.alpha, self.offset)
        fresh = decides and bool(self._choice.unconverted(module))
        scored = fresh and self.support is not None
        names = list(self._score_(trainer, module) if scored else self._draw_(trainer, module))
        if fresh and (scaled := lsuv_names(names, self.alpha)):
            scale_by_data_(trainer, module, list(map(layer_name, scaled)), self.last_layer_factor)
        self._choice.freeze_(module)
        if decides and not scored:
            total = total_budget if self.support is None else self.support.budget
            refuse_other_budgets(self.density, self.planned_budgets, total, module, names)
        return names

    @property
    def _choice(self) -> LayerChoice:
        return LayerChoice(self.include, self.exclude, self.train)

    def _draw_(self, trainer: Trainer, module: LightningModule) -> Budgets:
        """Replace layers, with supports drawn at random."""
        # Values that start as weights have to be those of rank 0's support from the first.
        seed = seed_of_rank_zero(trainer, self.seed) if self.offset.is_zero else seed_of_process(self.seed)
        with warnings.catch_warnings(), self._choice.open(module) as exclude:
            warnings.filterwarnings("ignore", message=ABOUT_SIGNAL)
            return convert_(
                module,
                self.density,
                self.allocation,
                include=self.include,
                exclude=exclude,
                density_overrides=self.density_overrides,
                alpha=without_data(self.alpha),
                alpha_requires_grad=self.alpha_requires_grad,
                backend=self.backend,
                offset=self.offset,
                min_weights_per_layer=self.min_weights_per_layer,
                generator=seed,
            )

    def _score_(self, trainer: Trainer, module: LightningModule) -> Budgets:
        """Replace layers, with supports by scores on the training data."""
        assert self.support is not None
        layers, copies = self._choice.layers(module)
        weights = _weights_of(layers)
        options: dict[str, Any] = {"alphas": starting_alphas(weights, without_data(self.alpha), self.offset)}
        refuse_without_score(self.support, module, weights, None)
        if self.support.needs_loss or self.support.needs_forward:
            prepare_losses(trainer, module)
        draws = torch.Generator().manual_seed(seed_of_rank_zero(trainer, self.seed))
        masks = scored_masks(
            self.support,
            module,
            weights,
            self.density,
            draws,
            fixed=match_overrides(weights, self.density_overrides),
            min_weights=self.min_weights_per_layer,
            loss_fn=None,
            prunes=self.offset.is_zero,
        )
        supports = {name: positions_of(mask) for name, mask in masks_of_rank_zero(trainer, masks).items()}
        options |= {"alpha_requires_grad": self.alpha_requires_grad, "backend": self.backend}
        replace_layers_(module, layers, supports, draws, copies=copies, offset=self.offset, **options)
        return {name: len(positions) for name, positions in supports.items()}


def _weights_of(layers: Mapping[str, Convertible]) -> dict[str, nn.Parameter]:
    return {name: cast(nn.Parameter, layer.weight) for name, layer in layers.items()}
