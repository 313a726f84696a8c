"""Fixed masks, made before the first step."""

from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.callbacks.converting.compact import RandomDraw
from lightning_sparse.callbacks.scoring import refuse_without_score, scored_masks
from lightning_sparse.callbacks.sharding import COMPACT_HAS_NO_ROWS
from lightning_sparse.callbacks.sparsifier import Config
from lightning_sparse.checks import SparsityError, check_choice, check_count
from lightning_sparse.files.from_file import FromFile
from lightning_sparse.functional.ablation import redraw_, shuffled
from lightning_sparse.functional.patterns import (
    Pattern,
    density_within,
    name_of_pattern,
    pattern_from_name,
    weights_within,
)
from lightning_sparse.functional.pruning import plan_budgets
from lightning_sparse.functional.saliency import (
    MethodName,
    PruningMethod,
    Random,
    method_from_name,
)
from lightning_sparse.functional.shards.pruning import needs_whole_weights
from lightning_sparse.selection import match_overrides, parameters_by_name
from lightning_sparse.trainer.losses import LossFunction
from lightning_sparse.trainer.packages import LightningModule, rank_zero_warn
from lightning_sparse.trainer.parts import averaged_copies
from lightning_sparse.types import Budgets, Masks, Shapes
from lightning_sparse.weights.shards import shards_of, total_of

__all__ = ["PruneAtInit"]

Ablation: TypeAlias = Literal["shuffle", "reinit", "invert"]


class PruneAtInit(SparsityCallback):
    """Prune a net once, when training starts, and train what is left.

    The masks are made after the sanity validation, on the weights as they are then. Methods with data draw
    batches of the training data; training then sees the batches that it would have seen without. A run
    resumed from a checkpoint takes its masks from there.

    Args:
        method: ``"random"`` (drawn from all weights at once), ``"uniform"``, ``"erk"``, ``"epl"``, ``"epf"``
            (drawn at random within a budget per layer), ``"magnitude"``, ``"gradient"``, ``"snip"``,
            ``"iterative_snip"``, ``"force"``, ``"grasp"``, ``"synflow"``, or a method object with options of
            its own, such as ``Magnitude(allocation="erk")``, ``SNIP(num_batches=10)`` or
            ``FromFile("masks.pt")``.
        density: Share of the selected weights to keep, a fraction in (0, 1]; ``floor(density * N + 0.5)`` of
            N are kept, exactly. ``FromFile`` says itself how many, and which weights.
        min_weights_per_layer: No layer keeps fewer than this (or all, if it is smaller). ``None``: 1, or 0
            for a method with ``conformance="reference"``.
        loss_fn: Takes the place of the module's ``training_step`` for methods with data:
            ``loss_fn(module, batch)`` returns the batch's mean loss. Manual optimization needs it.
        mask_ablation: Changes the masks as a check of what they are worth: ``"shuffle"`` draws new places
            within each layer, ``"reinit"`` keeps the masks but permutes each layer's weights, ``"invert"``
            keeps what scores lowest.
        pattern: ``"2:4"`` keeps 2 of every 4 inputs in a row, exactly, and so any N:M; ``density`` is then
            N / M, and may be left out. ``"n:4"`` lets N differ by layer, as the method's allocation has it.
            Weights without a multiple of M inputs stay dense, with a warning. Or a `Pattern` of your own.
        **selection: ``include``, ``exclude``, ``density_overrides``, ``seed``, ``storage``, ``communication``
            and ``verify``, as `SparsityCallback` has them. With ``storage="compact"`` the weights are chosen
            before optimizers are made, by the same scores.

    Raises:
        SparsityError: If an argument is out of range, or, when fit starts, if a pattern matches nothing, the
            budget cannot be met, or scores cannot be had.

    >>> PruneAtInit("erk", density=0.05).method
    Random(allocation='erk')
    """

    storages = ("masked", "compact")

    def __init__(
        self,
        method: MethodName | PruningMethod,
        density: float | None = None,
        *,
        min_weights_per_layer: int | None = None,
        loss_fn: LossFunction | None = None,
        mask_ablation: Ablation | None = None,
        pattern: str | int | Pattern = "unstructured",
        **selection: Any,
    ) -> None:
        self.method, self.pattern = method_from_name(method), pattern_from_name(pattern)
        if min_weights_per_layer is not None:
            check_count("min_weights_per_layer", min_weights_per_layer, 0)
        if loss_fn is not None and not callable(loss_fn):
            raise SparsityError(f"`loss_fn` must be a function of module and batch, got {loss_fn!r}.")
        check_choice("mask_ablation", mask_ablation, ("shuffle", "reinit", "invert", None))
        if isinstance(self.method, FromFile):
            chosen = {"density": density, "min_weights_per_layer": min_weights_per_layer, **selection}
            self.method.refuse_beside({**chosen, "pattern": name_of_pattern(self.pattern)})
            if mask_ablation is None:
                self.method.refuse_seed(selection.get("seed"))
            _refuse_ablation_of_file(self.method, mask_ablation)
            self.support_pattern = None
        else:
            overrides = selection.get("density_overrides")
            density = density_within(self.pattern, density, self.method.allocation, overrides)
            self.support_pattern = self.pattern
        if density is None and not isinstance(self.method, FromFile):
            raise SparsityError("`density` is required, got None. It is the share kept: 0.1 keeps 10%.")
        super().__init__(1.0 if density is None else density, **selection)
        self.masks_what_it_selects = not isinstance(self.method, FromFile)  # the file may be gone by now
        self.min_weights_per_layer = min_weights_per_layer
        self.needs_data = self.method.needs_loss or self.method.needs_forward
        if isinstance(self.method, Random) and mask_ablation is None:
            self.draw = RandomDraw(self.method.allocation, self._min_weights, self.pattern)
        self.loss_fn = loss_fn
        self.mask_ablation = mask_ablation
        self.needs_whole = self._needs_whole()

    def config(self) -> Config:
        """Return what decides the masks."""
        ablation = {"mask_ablation": self.mask_ablation} if self.mask_ablation else {}
        if isinstance(self.method, FromFile):
            return {"method": "FromFile", "file": self.method.file, "start": self.method.start, **ablation}
        return {
            "method": repr(self.method),
            "density": self.density,
            "min_weights_per_layer": self._min_weights,
            "pattern": name_of_pattern(self.pattern),
            **ablation,
        }

    def select(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the weights this callback is for: the selected ones, or those that a file has masks for."""
        if not isinstance(self.method, FromFile):
            return weights_within(super().select(module), self.pattern)
        try:
            return self.method.weights_of(module)
        except SparsityError:
            if not self._loading:
                raise
            return {}  # a resumed run may have lost the file, and does not need it

    def check_module(self, module: LightningModule) -> None:
        """Refuse a module whose loss or output the method cannot have."""
        weights = self.select(module) if self.method.needs_forward else {}
        refuse_without_score(self.method, module, weights, self.loss_fn)

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return each layer's budget; under global ranking only those that are overridden."""
        if isinstance(self.method, FromFile):
            masks = self.method.masks() if shapes else {}
            return {name: int(masks[name].count_nonzero()) for name in shapes}
        return plan_budgets(
            shapes,
            self.density,
            self.method.allocation,
            fixed=match_overrides(shapes, self.density_overrides),
            min_weights=self._min_weights,
            pattern=self.pattern,
        )

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Score the weights and keep the best, or read the masks from the file."""
        copies = averaged_copies(module.trainer)  # made in `setup`, before
        if isinstance(self.method, FromFile):
            masks = self.method.masks()
            self.method.reinitialise_([module, *copies])
        else:
            weights = self.select(module)
            masks = scored_masks(
                self.method,
                module,
                weights,
                self.density,
                generator,
                fixed=match_overrides(weights, self.density_overrides),
                min_weights=self._min_weights,
                loss_fn=self.loss_fn,
                keep_lowest=self.mask_ablation == "invert",
                pattern=self.pattern,
            )
        _warn_of_empty_layers(masks)
        if self.mask_ablation == "shuffle":
            return shuffled(masks, generator, self.pattern)
        if self.mask_ablation == "reinit":
            weights = {n: p for n, p in parameters_by_name(module).items() if n in masks}
            redraw_(weights, generator)
            for copied in map(parameters_by_name, copies):
                for name, weight in weights.items():
                    copied[name].data.copy_(weight)
        return masks

    def _needs_whole(self) -> str:
        if self.storage != "masked":
            return COMPACT_HAS_NO_ROWS
        if self.mask_ablation is not None:
            return f"`mask_ablation` {self.mask_ablation!r} draws over whole layers. Leave it out"
        if isinstance(self.method, FromFile):
            start = self.method.start
            return f"`start` {start!r} of FromFile sets whole weights. Leave it out" if start else ""
        return needs_whole_weights(self.method, self.pattern)

    @property
    def _min_weights(self) -> int:
        least = self.min_weights_per_layer
        return self.method.least_per_layer if least is None else least


def _refuse_ablation_of_file(method: FromFile, ablation: Ablation | None) -> None:
    """Refuse ablations that masks out of a file cannot have."""
    if ablation == "invert":
        raise SparsityError(
            "`mask_ablation` 'invert' needs scores, and a file has none. Use 'shuffle' or 'reinit'."
        )
    if method.start is not None and ablation is not None:
        raise SparsityError(
            f"`start` {method.start!r} of FromFile needs the signs and places of the ticket, got "
            f"`mask_ablation` {ablation!r} beside it. Leave one of them out."
        )


def _warn_of_empty_layers(masks: Masks) -> None:
    kept = total_of(masks.values(), shards_of(masks))
    empty = [name for name, count in zip(masks, kept, strict=True) if not count]
    if empty:
        rank_zero_warn(
            f"Nothing is kept of {', '.join(empty[:3])} ({len(empty)} layers): no signal passes. Set "
            "`min_weights_per_layer` to 1, or raise `density`."
        )
