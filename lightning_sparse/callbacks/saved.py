"""States of callbacks in checkpoints: what must be in them, before anything of it is taken up."""

import copy
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lightning_sparse.callbacks.stateful import Stateful
from lightning_sparse.checks import SparsityError
from lightning_sparse.files.states import refuse_other_layout
from lightning_sparse.selection import parameters_by_name
from lightning_sparse.trainer.packages import LightningModule
from lightning_sparse.types import Masks
from lightning_sparse.weights.found import sparse_weights

__all__ = [
    "attributes_in",
    "on_cpu",
    "plain",
    "refuse_changed_config",
    "refuse_lost_state",
    "refuse_other_state",
    "refuse_other_weights",
    "restore_",
]

_START_ANEW = "or load only the weights (`load_state_dict`) and start a new run"


def refuse_changed_config(config: Mapping[str, object], saved: Mapping[str, object]) -> None:
    """Refuse a resumed run with other arguments than the checkpoint was made with."""
    for name, value in config.items():
        if name in saved and saved[name] != value:
            raise SparsityError(
                f"`{name}` is {value!r}, but the checkpoint was made with {saved[name]!r}. Resume with "
                "that value, or load only the weights (`load_state_dict`) and start a new run."
            )


def refuse_other_state(
    name: str,
    state: Mapping[str, Any],
    run_state: Mapping[str, Callable[[], Any]],
    config: Mapping[str, object],
) -> None:
    """Refuse the state of another class or version than ``name``, or of a run with other arguments."""
    refuse_other_layout(name, state, {"config": Mapping, "finished": bool, "masks": Mapping})
    refuse_other_layout(name, state, attributes_in(run_state))
    refuse_changed_config(config, state["config"])


def on_cpu(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes with all tensors in them on the CPU."""
    moved: dict[str, Any] = tree_map_only(Tensor, Tensor.cpu, attributes)
    return moved


def attributes_in(run_state: Mapping[str, Callable[[], Any]]) -> dict[str, type]:
    """Return the kind of entry that a state has for each attribute that is counted in a run."""
    fresh = {name.lstrip("_"): make() for name, make in run_state.items()}
    return {
        name: object if value is None else Mapping if isinstance(value, Stateful | dict) else type(value)
        for name, value in fresh.items()
    }


def _names_at(state: Mapping[str, Any], path: Sequence[str]) -> Collection[str]:
    """Return the keys of the dict that a state has at the end of a path; none if it has none there."""
    found: Any = state if path else None
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return list(found) if isinstance(found, Mapping) else []


def _refuse_unnamed_weights(
    callback: str, masks: Collection[str], named: Collection[str], module: nn.Module
) -> None:
    """Refuse masks if one of the weights that a state names has none: its layer would train dense.

    Args:
        callback: Whose masks they are.
        masks: Names of the weights that have one.
        named: Names that the state has in another place; those of Dense-plus-Sparse layers need no mask.
        module: Has the weights.

    Raises:
        SparsityError: It names the layer.
    """
    layers = [weight.name for weight in sparse_weights(module).values() if not weight.takes_masks]
    if missing := [name for name in named if name not in masks and name not in layers]:
        raise SparsityError(
            f"The checkpoint's state of {callback} has no mask for {missing[0]!r}, which it names elsewhere "
            f"({len(missing)} in all): the layer would train dense. Use another checkpoint, {_START_ANEW}."
        )


def _refuse_other_selection(
    callback: str, masks: Collection[str], selected: Collection[str], module: nn.Module
) -> None:
    """Refuse masks that are not those of the weights that are selected; frozen ones may have one or none.

    Raises:
        SparsityError: It names the layer.
    """
    trained = {name for name, weight in parameters_by_name(module).items() if weight.requires_grad}
    for has, is_it, names in (
        ("no mask for", "is", [name for name in selected if name not in masks]),
        ("a mask for", "is not", [name for name in masks if name in trained and name not in selected]),
    ):
        if names:
            raise SparsityError(
                f"The checkpoint's state of {callback} has {has} {names[0]!r}, which {is_it} among the "
                f"weights to make sparse ({len(names)} such). Use another checkpoint, {_START_ANEW}."
            )


def refuse_other_weights(
    callback: Any, module: LightningModule | None, masks: Masks, saved: Mapping[str, Any]
) -> None:
    """Refuse masks for other weights than those of the module, as far as that can be told.

    Args:
        callback: The `SparsityCallback` whose state was saved.
        module: What it was set up for.
        masks: The masks in its state.
        saved: Its state.

    Raises:
        SparsityError: If they are; it names the layer.
    """
    if module is None:
        return
    name, config = type(callback).__name__, callback.full_config()
    _refuse_unnamed_weights(name, masks, _names_at(saved, callback.names_in), module)
    same = all(saved["config"].get(key) == value for key, value in config.items())
    if masks and same and callback.masks_what_it_selects:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to say was said when masks were made
            selected = callback.select(module)
        _refuse_other_selection(name, masks, selected, module)


def refuse_lost_state(callback: str, others: Sequence[object]) -> None:
    """Refuse to make masks in the place of those that another callback has brought, or has handed over.

    Args:
        callback: Has no state in the checkpoint.
        others: Those beside it that have one.

    Raises:
        SparsityError: If there are such.
    """
    if others:
        raise SparsityError(
            f"The checkpoint has no state of {callback}, but one of {type(others[0]).__name__}, which "
            f"ran beside it: the masks that both had are not in it. Use another checkpoint, {_START_ANEW}."
        )


def plain(value: Any) -> Any:
    """Return what stands for a value in a checkpoint."""
    return value.state_dict() if isinstance(value, Stateful) else copy.copy(value)


def restore_(callback: Any, name: str, saved: Any) -> None:
    """Give a callback an attribute back.

    Raises:
        SparsityError: If it was saved in another layout.
    """
    value = getattr(callback, name)
    if not isinstance(value, Stateful):
        setattr(callback, name, copy.copy(saved))
        return
    refuse_other_layout(f"{type(callback).__name__}, {name.lstrip('_')}", saved, value.layout)
    value.load_state_dict(saved)
