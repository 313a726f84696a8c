"""Fixed masks, made before the first step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import nn

from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.checks import SparsityError, check_choice, check_count
from lightning_sparse.files.masks import load_masks
from lightning_sparse.files.tickets import Ticket, load_ticket
from lightning_sparse.functional.ablation import redraw_, shuffled
from lightning_sparse.functional.centroids import reinitialise_
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.pruning import plan_budgets, prune_along
from lightning_sparse.functional.saliency import MethodName, PruningMethod, PruningProblem, method_from_name
from lightning_sparse.selection import match_overrides, misfit, parameters_by_name
from lightning_sparse.trainer.losses import LossFunction, TrainingLosses, refuse_without_loss
from lightning_sparse.trainer.packages import LightningModule, rank_zero_warn
from lightning_sparse.trainer.parts import averaged_copies, callable_net, unlogged
from lightning_sparse.trainer.processes import mean_over_processes
from lightning_sparse.trainer.progress import with_progress
from lightning_sparse.trainer.randomness import left_undisturbed
from lightning_sparse.types import Budgets, Masks, Shapes

__all__ = ["PruneAtInit"]

Ablation: TypeAlias = Literal["shuffle", "reinit", "invert"]


class PruneAtInit(SparsityCallback):
    """Prune a net once, when training starts, and train what is left.

    The masks are made after the sanity validation, on the weights as they are then. Methods with data draw
    batches of the training data; training then sees the batches that it would have seen without. A run
    resumed from a checkpoint takes its masks from there.

    Args:
        method: ``"random"`` (drawn from all weights at once), ``"uniform"``, ``"erk"``, ``"epl"``, ``"epf"``
            (drawn at random within a budget per layer), ``"magnitude"``, ``"snip"``, ``"iterative_snip"``,
            ``"force"``, ``"grasp"``, ``"synflow"``, or a method object with options of its own, such as
            ``Magnitude(allocation="erk")`` or ``SNIP(num_batches=10)``.
        density: Share of the selected weights to keep, a fraction in (0, 1]; ``floor(density * N + 0.5)`` of
            N are kept, exactly.
        min_weights_per_layer: No layer keeps fewer than this (or all, if it is smaller). ``None``: 1, or 0
            for a method with ``conformance="reference"``.
        loss_fn: Takes the place of the module's ``training_step`` for methods with data:
            ``loss_fn(module, batch)`` returns the batch's mean loss. Manual optimization needs it.
        mask_path: A file of ``save_masks``, or a checkpoint of a sparse run: take its masks instead of making
            some. ``method`` and ``density`` are then left out, and the file says which weights.
        weight_init: ``"centroids"``: start the net from the two numbers per layer in ``mask_path``, a ticket
            of ``ASNISigmoidPruner``; biases start at 0, norms beside its weights as new. ``None``: as the
            module made it.
        mask_ablation: Changes the masks as a check of what they are worth: ``"shuffle"`` draws new places
            within each layer, ``"reinit"`` keeps the masks but permutes each layer's weights, ``"invert"``
            keeps what scores lowest.
        include: Patterns on parameter names: only weights that match one of them. ``None``: the weights of
            linear and convolutional layers.
        exclude: Patterns of weights to leave dense; they do not count towards the density.
        density_overrides: Density by pattern, for single layers; the total stays, the others share the rest.
        seed: Seed of all random draws. ``None``: the process's own seed (``seed_everything``).
        verify: After every step, check that pruned weights are zero, every count is exact, the optimizer has
            gathered nothing for pruned weights, and all processes have the same masks.

    Raises:
        ValueError: If an argument is out of range, or, when fit starts, if a pattern matches nothing, the
            budget cannot be met, or scores cannot be had.

    >>> PruneAtInit("erk", density=0.05).method
    Random(allocation='erk')
    """

    def __init__(
        self,
        method: MethodName | PruningMethod | None = None,
        density: float | None = None,
        *,
        min_weights_per_layer: int | None = None,
        loss_fn: LossFunction | None = None,
        mask_path: str | None = None,
        weight_init: Literal["centroids"] | None = None,
        mask_ablation: Ablation | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        density_overrides: dict[str, float] | None = None,
        seed: int | None = None,
        verify: bool = False,
    ) -> None:
        if min_weights_per_layer is not None:
            check_count("min_weights_per_layer", min_weights_per_layer, 0)
        if loss_fn is not None and not callable(loss_fn):
            raise SparsityError(f"`loss_fn` must be a function of module and batch, got {loss_fn!r}.")
        check_choice("mask_ablation", mask_ablation, ("shuffle", "reinit", "invert", None))
        check_choice("weight_init", weight_init, ("centroids", None))
        _refuse_centroids_of_nothing(weight_init, mask_path, mask_ablation)
        if mask_path is not None:
            selecting = (method, density, min_weights_per_layer, include, exclude, density_overrides)
            _refuse_beside_mask_path(selecting, mask_ablation)
        elif method is None or density is None:
            missing = "method" if method is None else "density"
            raise SparsityError(f"`{missing}` is required, got None. Set it, or give masks in `mask_path`.")
        super().__init__(
            1.0 if density is None else density,
            include=include,
            exclude=exclude,
            density_overrides=density_overrides,
            seed=seed,
            verify=verify,
        )
        self.method = None if method is None else method_from_name(method)
        self.min_weights_per_layer = min_weights_per_layer
        self.loss_fn = loss_fn
        self.mask_path = mask_path
        self.weight_init = weight_init
        self.mask_ablation = mask_ablation

    def config(self) -> dict[str, str | int | float | None]:
        """Return what decides the masks."""
        ablation = {"mask_ablation": self.mask_ablation} if self.mask_ablation else {}
        if self.method is None:
            start = {"weight_init": self.weight_init} if self.weight_init else {}
            return {"mask_path": self.mask_path, **start, **ablation}
        return {
            "method": repr(self.method),
            "density": self.density,
            "min_weights_per_layer": self._min_weights,
            **ablation,
        }

    def check_module(self, module: LightningModule) -> None:
        """Refuse a module whose loss or output the method cannot have, or that the file has no masks for."""
        if self.mask_path is not None and not self._loading:  # a resumed run may have lost the file
            _refuse_other_shapes(self._read(self.mask_path)[0], module, self.mask_path)
        if self.method is not None and self.method.needs_loss and self.loss_fn is None:
            refuse_without_loss(self.method, module)
        if self.method is not None and self.method.needs_forward:
            _refuse_without_net(self.method, module, self.select(module))

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return each layer's budget; under global ranking only those that are overridden."""
        if self.method is None:  # a resumed run may have lost the file
            masks = load_masks(self.mask_path) if self.mask_path and Path(self.mask_path).is_file() else {}
            return {name: int(mask.count_nonzero()) for name, mask in masks.items() if name in shapes}
        return plan_budgets(
            shapes,
            self.density,
            self.method.allocation,
            fixed=match_overrides(shapes, self.density_overrides),
            min_weights=self._min_weights,
        )

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Score the weights and keep the best, or read the masks from the file."""
        if self.method is None:
            assert self.mask_path is not None, "checked in __init__"
            masks, ticket = self._read(self.mask_path)
            if ticket is not None:
                for net in (module, *averaged_copies(module.trainer)):
                    reinitialise_(net, ticket.masks, ticket.signs, ticket.centroids)
        else:
            masks = self._score(self.method, module, generator)
        _warn_of_empty_layers(masks)
        if self.mask_ablation == "shuffle":
            return shuffled(masks, generator)
        if self.mask_ablation == "reinit":
            weights = {n: p for n, p in parameters_by_name(module).items() if n in masks}
            redraw_(weights, generator)
            for average in averaged_copies(module.trainer):  # made in `setup`, before
                copies = parameters_by_name(average)
                for name, weight in weights.items():
                    copies[name].data.copy_(weight)
        return masks

    def _read(self, path: str) -> tuple[Masks, Ticket | None]:
        """Return the masks of a file, and the whole ticket if it is asked for."""
        if self.weight_init is None:
            return load_masks(path), None
        ticket = load_ticket(path)
        return ticket.masks, ticket

    def _score(self, method: PruningMethod, module: LightningModule, generator: torch.Generator) -> Masks:
        trainer, weights = module.trainer, self.select(module)
        losses = TrainingLosses(trainer, module, self.loss_fn)
        problem = PruningProblem(
            module,
            weights,
            generator,
            losses=losses.next,
            net=callable_net(module, weights.values()),
            inputs=losses.inputs,
            average=mean_over_processes(trainer),
            cools=self.loss_fn is None,
        )
        iterations = prune_along(
            method,
            problem,
            self.density,
            fixed=match_overrides(weights, self.density_overrides),
            min_weights=self._min_weights,
            keep_lowest=self.mask_ablation == "invert",
        )
        total, name = len(method.path(self.density)), type(method).__name__
        runs_code = method.needs_loss or method.needs_forward  # the user's: it may change parameters
        as_found = left_as_found(module, module.training, parameters=runs_code)
        masks: Masks = {}
        with left_undisturbed(trainer), as_found, unlogged(trainer, module):
            for masks in with_progress(trainer, iterations, total, name):  # noqa: B007 - the last one counts
                pass
        return masks

    @property
    def _min_weights(self) -> int:
        if self.min_weights_per_layer is not None:
            return self.min_weights_per_layer
        return 1 if self.method is None or self.method.conformance == "paper" else 0


def _refuse_without_net(
    method: PruningMethod, module: LightningModule, weights: Mapping[str, nn.Parameter]
) -> None:
    if callable_net(module, weights.values()) is None:
        raise SparsityError(
            f"{type(method).__name__} calls the net, and {type(module).__name__} has no `forward`, nor one "
            "child that holds all selected weights. Define it, or choose another method (`snip`, `erk`)."
        )


def _refuse_beside_mask_path(selecting: tuple[object, ...], ablation: Ablation | None) -> None:
    names = ("method", "density", "min_weights_per_layer", "include", "exclude", "density_overrides")
    given = [f"`{name}`" for name, value in zip(names, selecting, strict=True) if value is not None]
    if given:
        raise SparsityError(
            f"`mask_path` says what is kept, got {', '.join(given)} beside it. Leave out one or the other."
        )
    if ablation == "invert":
        raise SparsityError(
            "`mask_ablation` 'invert' needs scores, and `mask_path` has none. Use 'shuffle' or 'reinit'."
        )


def _refuse_centroids_of_nothing(
    weight_init: str | None, mask_path: str | None, ablation: str | None
) -> None:
    if weight_init is not None and (mask_path is None or ablation is not None):
        other = "no `mask_path`" if mask_path is None else f"`mask_ablation` {ablation!r}"
        raise SparsityError(
            f"`weight_init` 'centroids' needs the signs and places of a ticket, got {other} beside it. Give "
            "the ticket's file in `mask_path`, and leave `mask_ablation` out."
        )


def _refuse_other_shapes(masks: Masks, module: LightningModule, path: str) -> None:
    if (found := misfit(masks, parameters_by_name(module))) is not None:
        name, instead = found
        raise SparsityError(
            f"`mask_path` {path!r} has a mask of shape {tuple(masks[name].shape)} for {name!r}, and the "
            f"module has {instead}. Build the module as it was when the masks were made."
        )


def _warn_of_empty_layers(masks: Masks) -> None:
    empty = [name for name, mask in masks.items() if not mask.any()]
    if empty:
        rank_zero_warn(
            f"Nothing is kept of {', '.join(empty[:3])} ({len(empty)} layers): no signal passes. Set "
            "`min_weights_per_layer` to 1, or raise `density`."
        )
