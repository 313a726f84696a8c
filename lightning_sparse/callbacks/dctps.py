"""Layers of DCT plus sparse in the place of dense ones, before training starts."""

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, cast

from torch import Tensor, nn

from lightning_sparse.callbacks.company import refuse_averaged_supports, refuse_dense_copies
from lightning_sparse.callbacks.converted import refuse_other_positions
from lightning_sparse.callbacks.sparsifier import Config, Sparsifier, refuse_changed_config
from lightning_sparse.checks import SparsityError, check_choice, check_count, check_flag
from lightning_sparse.files.states import refuse_other_layout
from lightning_sparse.functional.allocation import ALLOCATIONS, AllocationName, allocate
from lightning_sparse.layers import DCTOffset, convert_, materialize_
from lightning_sparse.layers.alphas import Alpha, check_alpha, plain_alpha
from lightning_sparse.layers.backends import BACKEND_ROWS, Backend
from lightning_sparse.layers.convertible import convertible_layers, unconverted_layers
from lightning_sparse.layers.copies import converted_copies
from lightning_sparse.layers.offsets import PatchOrder
from lightning_sparse.layers.signal import ABOUT_SIGNAL, advice_on_signal
from lightning_sparse.selection import layer_name, match_overrides, parameters_by_name, plain_name
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn
from lightning_sparse.trainer.parts import after_configure_model, averaged_copies, builds_layers_late
from lightning_sparse.trainer.processes import (
    leave_out_of_broadcasts_,
    positions_of_rank_zero,
    seed_of_process,
)
from lightning_sparse.types import Budgets, Shapes
from lightning_sparse.weights.compact import support_keys
from lightning_sparse.weights.found import sparse_weights

__all__ = ["DCTpSConversion"]


class DCTpSConversion(Sparsifier):
    """Replace linear layers and 2-d convolutions by ``alpha DCT + S``, of which S and alpha are trained.

    S is sparse, with a random support that stays, and starts at zero; the DCT is fixed and stored nowhere.
    Layers are replaced before optimizers are made, in every stage, so that checkpoints of a converted module
    load wherever this callback is; `load_from_checkpoint` loads them without. The weight of such a layer is
    dense: what is logged is ``trainable_sparsity/<layer>``, one minus k / N for k trained values.

    Frozen copies of converted layers (the target net of a momentum method) are converted alike. Layers that
    ``alpha`` makes many times as loud as they were are warned of.

    Args:
        density: Share of all selected weights that S has, a fraction in (0, 1]; ``floor(density * N + 0.5)``
            of N, exactly.
        allocation: How S's entries are shared out over the layers: ``"epl"`` (the same number for each),
            ``"epf"``, ``"erk"`` or ``"uniform"``.
        alpha: Scale of the DCT at the start: a number, ``"match_norm"`` for the norm that the layer's weight
            had, or either by pattern (the last match wins, 1.0 elsewhere). Layers of zeros get 0.
        alpha_requires_grad: Whether alpha is trained.
        patch_order: How the DCT goes through patches: ``"hwc"``, as in the authors' code, or ``"chw"``.
        backend: How the layers multiply: ``"materialize"`` builds the weight in each step, ``"transform"``
            never does, ``"auto"`` takes what is faster.
        min_weights_per_layer: Entries that S has at least in each layer.
        **selection: ``include`` (``None``: the weights of linear layers and 2-d convolutions), ``exclude``,
            ``density_overrides`` and ``seed`` (of the supports), as `Sparsifier` has them.

    Raises:
        SparsityError: If an argument is out of range, or, when a stage starts, if a pattern matches nothing,
            the budget cannot be met, a layer cannot be converted, or no optimizer holds its values.

    >>> import torch
    >>> DCTpSConversion(density=0.001).planned_budgets({"fc.weight": torch.Size([300, 784])})
    {'fc.weight': 235}
    """

    converts = True
    left_behind = (
        "converted layers stay in the processes it starts; after fit, this one has the layers it had before, "
        "untrained"
    )

    def __init__(
        self,
        density: float,
        allocation: AllocationName = "epl",
        *,
        alpha: Alpha | dict[str, Alpha] = 1.0,
        alpha_requires_grad: bool = True,
        patch_order: PatchOrder = "hwc",
        backend: Backend = "auto",
        min_weights_per_layer: int = 1,
        **selection: Any,
    ) -> None:
        super().__init__(density, **selection)
        check_choice("allocation", allocation, ALLOCATIONS)
        check_choice("backend", backend, ("auto", *BACKEND_ROWS))
        check_count("min_weights_per_layer", min_weights_per_layer, 0)
        check_flag("alpha_requires_grad", alpha_requires_grad)
        check_alpha(alpha)
        self.offset = DCTOffset(patch_order)
        self.allocation = allocation
        self.alpha, self.alpha_requires_grad = alpha, alpha_requires_grad
        self.backend = backend
        self.min_weights_per_layer = min_weights_per_layer
        self._counts: Budgets = {}
        self._copies: dict[str, str] = {}
        self._advice: str | None = None

    # What it would do.

    def config(self) -> Config:
        """Return what decides layers and supports; the supports themselves are in the module's own state."""
        return {
            "density": self.density,
            "allocation": self.allocation,
            "alpha": plain_alpha(self.alpha),
            "alpha_requires_grad": self.alpha_requires_grad,
            "patch_order": self.offset.patch_order,
            "min_weights_per_layer": self.min_weights_per_layer,
        }

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the weights of the layers to convert; there are none left once they are."""
        layers = convertible_layers(module, self.include, self.exclude)
        return {name: cast(nn.Parameter, layer.weight) for name, layer in layers.items()}

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the number of entries of S in each layer.

        Raises:
            SparsityError: If the arguments cannot be met.
        """
        fixed = match_overrides(shapes, self.density_overrides)
        return allocate(
            shapes, self.density, self.allocation, fixed=fixed, min_weights=self.min_weights_per_layer
        )

    def read_trainer(self, trainer: Trainer) -> None:
        """Take nothing: arguments and shapes decide."""

    def check_module(self, module: LightningModule) -> None:
        """Leave it to the conversion, which refuses what it cannot convert."""

    # When.

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Replace the layers, or see to it once ``configure_model`` has made them."""
        if self._fitting:
            refuse_averaged_supports(type(self).__name__, trainer)
        if builds_layers_late(module):
            after_configure_model(module, partial(self._convert_, trainer, module))
        else:
            self._convert_(trainer, module)

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse layers that were made too late to be converted."""
        if late := unconverted_layers(module, self.include, self.exclude):
            raise SparsityError(
                f"DCTpSConversion must find all layers when it is set up, got {late[0]!r} made later "
                f"({len(late)} in all). Make them in `__init__` or `configure_model`, or `exclude` them."
            )
        self.take_up(trainer, module)
        self._copies = converted_copies(module)
        if self._advice is not None and trainer.ckpt_path is None:
            rank_zero_warn(self._advice)
        self._advice = None

    def take_up(self, trainer: Trainer, module: LightningModule) -> None:
        """Take rank 0's supports: each rank has drawn from the seed of its own process, if none was given."""
        for net in (module, *averaged_copies(trainer)) if trainer.world_size > 1 else ():
            for weight in sparse_weights(net).values():
                weight.move_(positions_of_rank_zero(trainer, weight), trainer.optimizers)

    def start_(self, trainer: Trainer, module: LightningModule) -> None:
        """Do nothing: the layers were replaced before optimizers were made."""

    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Check that frozen copies still have the support of the layers that they are copies of."""
        refuse_other_positions(self._copies, module)

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
        if self._fitting:
            refuse_changed_config(self.full_config(), state_dict["config"])

    def check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse layers that the checkpoint lacks, and to resume with another number of values.

        The layers have the checkpoint's number by now: right for a test, not what fit's arguments say.
        """
        weights = {plain_name(key): value for key, value in checkpoint["state_dict"].items()}
        _refuse_missing_layers(self._counts, weights)
        if self._fitting:
            _refuse_other_counts(self._counts, weights)

    # Steps of the above.

    def _convert_(self, trainer: Trainer, module: LightningModule) -> None:
        name = type(self).__name__
        if next(module.parameters(), None) is None:
            raise SparsityError(
                f"{name} must find the layers when it is set up, got {type(module).__name__} without any. "
                "Make them in `__init__` or `configure_model`, not in `setup`."
            )
        budgets = self._converted(module)
        if any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers())):
            materialize_(module)
        refuse_dense_copies(name, trainer)
        weights = sparse_weights(module)
        self._counts = {name: weights[name].nnz for name in budgets if name in weights}
        if self._fitting:
            self._refuse_other_budgets(module)
        leave_out_of_broadcasts_(module, support_keys(module))

    def _converted(self, module: LightningModule) -> Budgets:
        """Replace the layers; what there is to advise is said when it is known whether fit resumes."""
        self._advice = self._advise(module) if self._fitting else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=ABOUT_SIGNAL)
            return convert_(
                module,
                self.density,
                self.allocation,
                include=self.include,
                exclude=self.exclude,
                density_overrides=self.density_overrides,
                alpha=self.alpha,
                alpha_requires_grad=self.alpha_requires_grad,
                backend=self.backend,
                offset=self.offset,
                min_weights_per_layer=self.min_weights_per_layer,
                generator=seed_of_process(self.seed),
            )

    def _advise(self, module: LightningModule) -> str | None:
        """Return what to say of layers whose output the offset makes many times what it was."""
        parameters = parameters_by_name(module)
        names = [f"{path}.weight" for path in unconverted_layers(module, self.include, self.exclude)]
        weights = {name: parameters[name] for name in names if name in parameters}
        return advice_on_signal(weights, self.alpha, self.offset)

    def _refuse_other_budgets(self, module: nn.Module) -> None:
        """Refuse layers converted earlier that do not have what the arguments ask for."""
        weights = sparse_weights(module)
        planned = self.planned_budgets({name: weights[name].shape for name in self._counts})
        for name, count in self._counts.items():
            if count != planned[name]:
                raise SparsityError(
                    f"`density` {self.density} and the other arguments ask for {planned[name]} values in "
                    f"{name!r}, but the layer was converted with {count} before. Use the arguments of then, "
                    "or a new module."
                )


def _refuse_missing_layers(names: Iterable[str], weights: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint without the values or the positions of a layer; modules may be lenient."""
    for layer in map(layer_name, names):
        lacks = [part for part in ("values", "indices") if f"{layer}.{part}" not in weights]
        if lacks:
            raise SparsityError(
                f"The checkpoint lacks the {' and '.join(lacks)} of the converted layer {layer!r}. Use "
                "another checkpoint, or leave DCTpSConversion out for one of dense layers."
            )


def _refuse_other_counts(counts: Budgets, weights: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint with other numbers of values in layers than ``counts``."""
    for name, count in counts.items():
        saved = weights[f"{layer_name(name)}.values"]
        if len(saved) != count:
            raise SparsityError(
                f"Layer {layer_name(name)!r} has {count} values, but {len(saved)} in the checkpoint. Resume "
                "with the arguments that the checkpoint was made with."
            )
