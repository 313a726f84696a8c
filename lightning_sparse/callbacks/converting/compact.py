"""Weights that a callback has chosen, in layers that hold nothing else: compact storage instead of masks."""

import glob
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from lightning_sparse.callbacks.converting.converter import Converter
from lightning_sparse.checks import ALL, SparsityError, check_choice
from lightning_sparse.functional.pruning import random_positions
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.functional.saliency import Ranking
from lightning_sparse.layers.compaction import store_compactly_
from lightning_sparse.layers.convertible import (
    convertible_layers,
    layers_converted_before,
    unconverted_layers,
)
from lightning_sparse.layers.offsets.state import offsets_in
from lightning_sparse.selection import match_overrides, plain_name
from lightning_sparse.trainer.early import prepare_losses
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.parts import builds_layers_late
from lightning_sparse.trainer.processes import masks_of_rank_zero, seed_of_rank_zero
from lightning_sparse.types import Budgets, Masks, Shapes
from lightning_sparse.weights.found import sparse_weights

__all__ = ["Chooser", "RandomDraw", "check_storage", "compact_weights", "prepare", "take_storage_of"]


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
    storage: str

    @property
    def state_key(self) -> str:
        """Where its state is in a checkpoint."""

    def select(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the weights it is for."""

    def make_masks(self, module: LightningModule, generator: torch.Generator) -> Masks:
        """Return the masks to start from."""

    def plan(self, module: LightningModule) -> None:
        """Refuse what cannot be met."""

    def planned_budgets(self, shapes: Shapes) -> Budgets:
        """Return the budgets that arguments and shapes decide."""

    def planned_total(self, total: int) -> int:
        """Return how many of so many weights will be kept."""


def check_storage(callback: str, storage: object, possible: Sequence[str]) -> None:
    """Refuse what is no storage, and one that a callback cannot have.

    Raises:
        SparsityError: It tells the way out.
    """
    check_choice("storage", storage, ("masked", "compact"))
    if storage not in possible:
        raise SparsityError(
            f"`storage` of {callback} must be 'masked', got {storage!r}: it prunes dense weights on the way. "
            "To train what it finds: `PruneAtInit(FromFile('last.ckpt'), storage='compact')`."
        )


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


def prepare(
    callback: Chooser, converter: Converter | None, trainer: Trainer, module: LightningModule
) -> None:
    """Refuse what cannot work; see to it that layers are replaced before optimizers are made.

    Args:
        callback: Says which weights are kept.
        converter: Its own; ``None`` if it keeps them under masks.
        trainer: In setup of fit.
        module: Its module.
    """
    if not builds_layers_late(module) and not (converter and _converted_before(callback, module)):
        callback.plan(module)
    if converter is not None:
        convert = partial(_choose_and_replace_, callback, trainer, module)
        converter.prepare(trainer, module, convert, fitting=True, by_data=True)


def take_storage_of(
    checkpoint: Mapping[str, Any],
    callback: Chooser,
    converter: Converter | None,
    trainer: Trainer,
    fitting: bool,
) -> None:
    """Replace those layers by compact ones that are such in a checkpoint, so that its state can be loaded.

    Args:
        checkpoint: Nothing of it has been taken up yet.
        callback: Says which weights are kept.
        converter: Its own; ``None`` if it keeps them under masks.
        trainer: Loads the checkpoint.
        fitting: Whether fit goes on from it.

    Raises:
        SparsityError: If the callback has stored in another way there, or fit would go on from a checkpoint
            without compact layers: its optimizers are made for others.
    """
    _refuse_other_storage(callback, checkpoint)
    if converter is None:
        return
    module: LightningModule = trainer.lightning_module
    offsets = offsets_in(checkpoint["state_dict"])
    names = [plain_name(f"{path}.weight") for path, offset in offsets.items() if offset.is_zero]
    if names:
        converter.replace_(trainer, module, lambda _: _replace_(module, names), decides=False)
    elif fitting:
        raise SparsityError(
            f"`storage` of {type(callback).__name__} is 'compact', but the checkpoint has no layers that are "
            "stored so. Resume with the callbacks of then, or load only the weights and start a new run."
        )


def _refuse_other_storage(callback: Chooser, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint in which a callback has stored what it keeps in another way: keys would not fit."""
    state = checkpoint.get("callbacks", {}).get(callback.state_key)
    config = state.get("config") if isinstance(state, Mapping) else None
    storage = (config.get("storage") or "masked") if isinstance(config, Mapping) else callback.storage
    if storage != callback.storage:
        raise SparsityError(
            f"`storage` of {type(callback).__name__} is {callback.storage!r}, but the checkpoint was made "
            f"with {storage!r}. Use that value, or load only the weights and start a new run."
        )


def _choose_and_replace_(
    callback: Chooser, trainer: Trainer, module: LightningModule, decides: bool
) -> Iterable[str]:
    """Replace the layers of a callback's weights by compact ones; those of an earlier fit stay.

    Args:
        callback: Says which weights are kept.
        trainer: In setup, or later.
        module: The module that it trains.
        decides: Whether weights are chosen now; else a checkpoint that is loaded next brings layers.

    Returns:
        Names of the weights.

    Raises:
        SparsityError: If layers of an earlier fit have other counts than are asked for, or a weight cannot be
            stored so.
    """
    if not decides:
        return []
    if done := _converted_before(callback, module):
        _refuse_other_weights(callback, module, done)
        return done
    weights = callback.select(module)
    layers = convertible_layers(module, [glob.escape(name) for name in weights])
    draws = torch.Generator().manual_seed(seed_of_rank_zero(trainer, callback.seed))
    supports = _supports(callback, trainer, module, weights, draws)
    store_compactly_(module, layers, supports, draws, callback.exclude)
    return list(weights)


def _replace_(module: LightningModule, names: Sequence[str]) -> Sequence[str]:
    """Replace the layers of these weights by compact ones; what they hold is loaded next."""
    ordinary = [f"{path}.weight" for path in unconverted_layers(module, ["*"])]
    if rest := [glob.escape(name) for name in ordinary if name in names]:  # of what is missing, loading tells
        layers = convertible_layers(module, rest)
        nothing = dict.fromkeys(layers, torch.empty(0, dtype=torch.int64))
        dense = [glob.escape(name) for name in ordinary if name not in names]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Frozen copies of layers")  # it was said when made
            store_compactly_(module, layers, nothing, torch.Generator(), dense)
    return names


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


def _refuse_other_weights(callback: Chooser, module: nn.Module, counts: Budgets) -> None:
    """Refuse layers that were replaced before, unless they hold what the arguments ask for."""
    weights, name = sparse_weights(module), type(callback).__name__
    if beside := [name for name in counts if not weights[name].prunes]:
        raise SparsityError(
            f"`storage` 'compact' of {name} is for dense layers, got {beside[0]!r}, which is stored as "
            f"{weights[beside[0]].stored_as!r}. Leave {name} out, or what has converted them."
        )
    shapes = {name: weights[name].shape for name in counts}
    planned, there = callback.planned_budgets(shapes), counts
    if planned.keys() != counts.keys():  # shared out by scores; some methods round down
        total = callback.planned_total(sum(shape.numel() for shape in shapes.values()))
        kept = sum(counts.values())
        planned, there = planned | {"all": total}, {**counts, "all": total if kept == total - 1 else kept}
    for name, count in planned.items():
        if there[name] != count:
            raise SparsityError(
                f"`density` {callback.density} and the other arguments ask for {count} values in {name!r}, "
                f"but an earlier fit has left {there[name]}. Use the arguments of then, or a new module."
            )
