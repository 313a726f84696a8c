"""Weights that a callback has chosen, in layers that hold nothing else: compact storage instead of masks."""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from lightning_sparse.callbacks.converting.converter import Converter
from lightning_sparse.checks import ALL, SparsityError
from lightning_sparse.functional.pruning import random_positions
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.functional.saliency import Ranking
from lightning_sparse.layers.compaction import store_compactly_
from lightning_sparse.layers.convertible import convertible_layers, layers_converted_before
from lightning_sparse.selection import match_overrides
from lightning_sparse.trainer.early import prepare_losses
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.parts import builds_layers_late
from lightning_sparse.trainer.processes import masks_of_rank_zero, seed_of_rank_zero
from lightning_sparse.types import Budgets, Masks, Shapes

__all__ = ["Chooser", "RandomDraw", "compact_weights", "prepare_compact"]


@dataclass(frozen=True)
class RandomDraw:
    """How a callback draws masks at random, where that is all it does: shapes say everything.

    Args:
        allocation: ``"global"``, or what gives each layer its own budget.
        min_weights: Every layer keeps at least this many (all, if it is smaller).
    """

    allocation: Ranking
    min_weights: int = 1


class Chooser(Protocol):
    """A callback that says which weights are kept."""

    density: float
    density_overrides: dict[str, float]
    include: list[str] | Literal["all"] | None
    exclude: list[str]
    seed: int | None
    needs_data: bool
    draw: RandomDraw | None

    def select(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the weights it is for."""

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Return the masks to start from."""

    def plan(self, module: LightningModule) -> None:
        """Refuse what cannot be met."""

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the budgets that arguments and shapes decide."""


def compact_weights(
    module: LightningModule, include: Sequence[str] | None, exclude: Sequence[str]
) -> dict[str, nn.Parameter]:
    """Return the selected weights of layers that can be stored compactly; there are none left once they are.

    Raises:
        SparsityError: If nothing is selected, or a selected weight belongs to no such layer.
    """
    layers = convertible_layers(module, include, exclude)
    return {name: cast(nn.Parameter, layer.weight) for name, layer in layers.items()}


def _converted_before(callback: Chooser, module: nn.Module) -> Budgets:
    """Return the number of values in each layer of an earlier fit, by the name of its weight."""
    include = None if callback.include == ALL else callback.include
    return layers_converted_before(module, include, callback.exclude)


def prepare_compact(
    callback: Chooser, converter: Converter, trainer: Trainer, module: LightningModule, fitting: bool
) -> None:
    """Replace layers in fit, and in other stages if a checkpoint brings such ones; refuse what cannot work.

    Args:
        callback: Says which weights are kept.
        converter: Its own.
        trainer: In setup.
        module: Its module.
        fitting: Whether the stage is fit.
    """
    loads = trainer.ckpt_path is not None
    if not (fitting or loads):
        return
    if not loads and not builds_layers_late(module) and not _converted_before(callback, module):
        callback.plan(module)
    convert = partial(_replace_, callback, trainer, module, not loads)
    waits = not loads and callback.needs_data
    converter.prepare(trainer, module, convert, fitting=fitting, waits=waits, decides=not loads)


def _replace_(callback: Chooser, trainer: Trainer, module: LightningModule, decides: bool) -> list[str]:
    """Replace the layers of a callback's weights by compact ones; those of an earlier fit stay.

    Args:
        callback: Says which weights are kept.
        trainer: In setup, or later.
        module: The module that it trains.
        decides: Whether weights are chosen now; else a checkpoint that is loaded next brings them.

    Returns:
        Names of the weights.

    Raises:
        SparsityError: If layers of an earlier fit have other counts than are asked for, or a weight cannot be
            stored so.
    """
    if done := _converted_before(callback, module):
        _refuse_other_counts(callback, module, done)
        return list(done)
    weights = callback.select(module)
    layers = convertible_layers(module, [glob.escape(name) for name in weights])
    draws = torch.Generator().manual_seed(seed_of_rank_zero(trainer, callback.seed))
    if decides:
        supports = _supports(callback, trainer, module, weights, draws)
    else:
        supports = {name: torch.empty(0, dtype=torch.int64) for name in weights}
    store_compactly_(module, layers, supports, draws)
    return list(weights)


def _supports(
    callback: Chooser,
    trainer: Trainer,
    module: LightningModule,
    weights: Mapping[str, nn.Parameter],
    draws: torch.Generator,
) -> dict[str, Tensor]:
    """Return the flat positions of what is kept, the same on all ranks."""
    if any(weight.is_meta for weight in weights.values()):
        if callback.draw is None:
            raise SparsityError(
                f"`storage` 'compact' of {type(callback).__name__} needs weights to choose from, got "
                "some on the meta device. Build the module on a real one, or draw at random (`erk`)."
            )
        return random_positions(
            {name: weight.shape for name, weight in weights.items()},
            callback.density,
            callback.draw.allocation,
            draws,
            fixed=match_overrides(weights, callback.density_overrides),
            min_weights=callback.draw.min_weights,
        )
    if callback.needs_data:
        prepare_losses(trainer, module)
    masks = masks_of_rank_zero(trainer, callback.make_masks(module, draws))
    return {name: positions_of(mask) for name, mask in masks.items()}


def _refuse_other_counts(callback: Chooser, module: nn.Module, counts: Budgets) -> None:
    """Refuse compact layers of an earlier fit that do not have what the arguments ask for."""
    layers = dict(module.named_modules())
    shapes = {name: layers[name.removesuffix(".weight")].shape for name in counts}
    for name, planned in callback.planned_budgets(shapes).items():
        if counts[name] != planned:
            raise SparsityError(
                f"`density` {callback.density} and the other arguments ask for {planned} values in {name!r}, "
                f"but an earlier fit has left {counts[name]}. Use the arguments of then, or a new module."
            )
