"""Layers of DCT plus sparse in the place of dense ones, before training starts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_sparse.callbacks.sparsifier import check_selection
from lightning_sparse.checks import SparsityError, check_choice, check_count
from lightning_sparse.layers import compact_layers
from lightning_sparse.layers.alphas import check_alpha
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import callbacks_of

if TYPE_CHECKING:
    pass

from functools import partial
from itertools import chain
from typing import Any, cast, get_args

from torch import Tensor, nn

from lightning_sparse.callbacks.base import sparsity_callbacks
from lightning_sparse.callbacks.company import (
    refuse_averaged_supports,
    refuse_dense_copies,
    refuse_strategy,
    warn_of_spawned_processes,
)
from lightning_sparse.callbacks.monitor import (
    has_summary,
    log_trainable_sparsity,
    monitored,
    one_line,
    print_trainable_table,
)
from lightning_sparse.callbacks.prune_at_init import PruneAtInit
from lightning_sparse.callbacks.sparsifier import refuse_changed_config, selection_config
from lightning_sparse.files.damage import explain_damage, refuse_damaged_checkpoint
from lightning_sparse.functional.allocation import ALLOCATIONS, AllocationName, allocate
from lightning_sparse.layers import DCTOffset, DensePlusSparse, convert_, materialize_
from lightning_sparse.layers.alphas import Alpha, plain_alpha
from lightning_sparse.layers.backends import BACKENDS, Backend
from lightning_sparse.layers.conversion import convertible_layers, unconverted_layers
from lightning_sparse.layers.offsets.dct import PatchOrder
from lightning_sparse.selection import layer_name, match_overrides
from lightning_sparse.trainer.packages import Callback, LightningModule
from lightning_sparse.trainer.parts import after_configure_model, builds_layers_late
from lightning_sparse.trainer.processes import agree_on_supports, leave_out_of_broadcasts_, seed_of_rank_zero
from lightning_sparse.types import Budgets, Shapes

__all__ = ["DCTpSConversion", "refuse_other_counts"]

_LEFT_BEHIND = (
    "converted layers stay in the processes it starts; after fit, this one has the layers it had before, "
    "untrained"
)


class DCTpSConversion(Callback):
    """Replace linear layers and 2-d convolutions by ``alpha DCT + S``, of which S and alpha are trained.

    S is sparse, with a random support that stays, and starts at zero; the DCT is fixed and stored nowhere.
    Layers are replaced before optimizers are made, in every stage, so that checkpoints of a converted module
    load wherever this callback is; `load_from_checkpoint` loads them without. The weight of such a layer is
    dense: what is logged is ``trainable_sparsity/<layer>``, one minus k / N for k trained values.

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
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear layers and 2-d convolutions.
        exclude: Patterns of weights to leave dense; they do not count towards the density.
        density_overrides: Density by pattern, for single layers; the total stays, the others share the rest.
        seed: Seed of the supports. ``None``: the process's own seed (``seed_everything``).

    Raises:
        ValueError: If an argument is out of range, or, when a stage starts, if a pattern matches nothing, the
            budget cannot be met, or a layer cannot be converted.

    >>> import torch
    >>> DCTpSConversion(density=0.001).planned_budgets({"fc.weight": torch.Size([300, 784])})
    {'fc.weight': 235}
    """

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
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        seed: int | None = None,
    ) -> None:
        check_selection(density, include, exclude, density_overrides, seed)
        check_choice("allocation", allocation, ALLOCATIONS)
        check_choice("patch_order", patch_order, get_args(PatchOrder))
        check_choice("backend", backend, BACKENDS)
        check_count("min_weights_per_layer", min_weights_per_layer, 0)
        check_alpha(alpha)
        self.density = density
        self.allocation = allocation
        self.alpha = alpha
        self.alpha_requires_grad = alpha_requires_grad
        self.patch_order = patch_order
        self.backend = backend
        self.min_weights_per_layer = min_weights_per_layer
        self.include = include
        self.exclude = exclude or []
        self.density_overrides = density_overrides or {}
        self.seed = seed
        self._counts: dict[str, int] = {}
        self._fitting = self._loading = False

    # What it would do.

    def describe(self) -> str:
        """Return name and arguments on one line."""
        return one_line(self, self._config())

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the weights of the layers to convert; there are none left once they are."""
        layers = convertible_layers(module, self.include, self.exclude)
        return {name: cast(nn.Parameter, layer.weight) for name, layer in layers.items()}

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the number of entries of S in each layer.

        Raises:
            ValueError: If the arguments cannot be met.
        """
        fixed = match_overrides(shapes, self.density_overrides)
        return allocate(
            shapes, self.density, self.allocation, fixed=fixed, min_weights=self.min_weights_per_layer
        )

    # When: Lightning's hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace the layers, or see to it once ``configure_model`` has made them."""
        self._fitting, self._loading = stage == "fit", True
        refuse_strategy(type(self).__name__, trainer)
        warn_of_spawned_processes(type(self).__name__, trainer, _LEFT_BEHIND)
        _refuse_scores(trainer)
        if self._fitting:
            refuse_averaged_supports(trainer)
        if builds_layers_late(pl_module):
            after_configure_model(pl_module, partial(self._convert_, trainer, pl_module))
        else:
            self._convert_(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse layers that were made too late to be converted."""
        self._loading = False
        if late := unconverted_layers(pl_module, self.include, self.exclude):
            raise SparsityError(
                f"DCTpSConversion must find all layers when it is set up, got {late[0]!r} made later "
                f"({len(late)} in all). Make them in `__init__` or `configure_model`, or `exclude` them."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare supports between processes, log, and print the table of layers."""
        agree_on_supports(trainer, pl_module)
        if self._logs(trainer):
            log_trainable_sparsity(pl_module)
            if has_summary(trainer):
                print_trainable_table(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare supports between processes, and log."""
        agree_on_supports(trainer, pl_module)
        if self._logs(trainer):
            log_trainable_sparsity(pl_module)

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return the arguments, in plain values; the supports are in the module's own state."""
        return {"config": self._config(), "backend": self.backend}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare arguments.

        Raises:
            ValueError: If fit is resumed with others than the checkpoint was made with.
        """
        if self._fitting:
            refuse_changed_config(self._config(), state_dict["config"])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to resume with another number of values, and from a damaged file.

        The layers have the checkpoint's number by now: right for a test, not what fit's arguments say.
        """
        self._loading = False
        if not sparsity_callbacks(trainer):  # else they look
            refuse_damaged_checkpoint(trainer.ckpt_path)
        if self._fitting:
            refuse_other_counts(self._counts, checkpoint["state_dict"])

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say in plain words that a checkpoint is cut short."""
        if self._loading:
            explain_damage(trainer.ckpt_path, exception)

    # Steps of the above.

    def _convert_(self, trainer: Trainer, module: LightningModule) -> None:
        if next(module.parameters(), None) is None:
            raise SparsityError(
                f"DCTpSConversion must find the layers when it is set up, got {type(module).__name__} "
                "without any. Make them in `__init__` or `configure_model`, not in `setup`."
            )
        budgets = convert_(
            module,
            self.density,
            self.allocation,
            include=self.include,
            exclude=self.exclude,
            density_overrides=self.density_overrides,
            alpha=self.alpha,
            alpha_requires_grad=self.alpha_requires_grad,
            backend=self.backend,
            offset=DCTOffset(self.patch_order),
            min_weights_per_layer=self.min_weights_per_layer,
            generator=seed_of_rank_zero(trainer, self.seed),  # a rank's weights may be its own at this time
        )
        if any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers())):
            materialize_(module)
        refuse_dense_copies(trainer)
        self._counts = {path: layer.nnz for path, layer in _layers(module).items()}
        if self._fitting:
            self._refuse_other_budgets(module, budgets)
        leave_out_of_broadcasts_(module, [f"{path}.indices" for path in _layers(module)])

    def _refuse_other_budgets(self, module: nn.Module, budgets: Budgets) -> None:
        """Raise ValueError if layers converted earlier do not have what the arguments ask for."""
        layers = compact_layers(module)
        planned = self.planned_budgets({name: layers[layer_name(name)].shape for name in budgets})
        for name, count in budgets.items():
            if count != planned[name]:
                raise SparsityError(
                    f"`density` {self.density} and the other arguments ask for {planned[name]} values in "
                    f"{name!r}, but the layer was converted with {count} before. Use the arguments of then, "
                    "or a new module."
                )

    def _logs(self, trainer: Trainer) -> bool:
        """Tell whether nobody else does the logging."""
        return not monitored(trainer) and not sparsity_callbacks(trainer)

    def _config(self) -> dict[str, str | int | float | None]:
        return {
            "density": self.density,
            "allocation": self.allocation,
            "alpha": plain_alpha(self.alpha),
            "alpha_requires_grad": self.alpha_requires_grad,
            "patch_order": self.patch_order,
            "min_weights_per_layer": self.min_weights_per_layer,
            **selection_config(self.include, self.exclude, self.density_overrides),
        }


def _layers(module: nn.Module) -> dict[str, DensePlusSparse]:
    """Return the Dense-plus-Sparse layers by the names that keys of state dicts have."""
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, DensePlusSparse)}


def _refuse_scores(trainer: Trainer) -> None:
    if any(isinstance(callback, PruneAtInit) for callback in callbacks_of(trainer)):
        raise SparsityError(
            "DCTpSConversion cannot run with PruneAtInit: S is zero at the start, so scores are undefined. "
            "Use one of them; the support of S is drawn by `density` and `allocation`."
        )


def refuse_other_counts(counts: Mapping[str, int], weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a checkpoint has other numbers of values in layers than ``counts``, by layer."""
    for path, count in counts.items():
        saved = weights.get(f"{path}.values")
        if saved is not None and len(saved) != count:
            raise SparsityError(
                f"Layer {path!r} has {count} values, but {len(saved)} in the checkpoint. Resume with the "
                "arguments that the checkpoint was made with."
            )
