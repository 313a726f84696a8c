"""What callbacks would do to a net, said before anything is trained."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from lightning_sparse.callbacks.alone import Alone, refuse_both
from lightning_sparse.callbacks.company import refuse_company
from lightning_sparse.callbacks.converting.base import Conversion
from lightning_sparse.callbacks.sparsifier import Sparsifier
from lightning_sparse.checks import SparsityError, check_kind, shown
from lightning_sparse.layers.offsets import NoOffset, Offset
from lightning_sparse.reporting.flops import ExampleInput, input_of_size
from lightning_sparse.reporting.plan import CallbackPlan, NetPlan, PlannedInput, plan_layers
from lightning_sparse.selection import select_weights
from lightning_sparse.trainer.packages import Callback, LightningModule, is_lightning

__all__ = ["plan", "plan_at"]


def plan(
    module: nn.Module,
    callbacks: Callback | Sequence[Callback] = (),
    input_size: Sequence[int] | None = None,
    *,
    example_input: ExampleInput | None = None,
    device: torch.device | str | None = None,
) -> NetPlan:
    """Say what callbacks would make of a net: kept weights, storage, bytes and cost, layer by layer.

    It follows from shapes alone, so nothing is measured, drawn or changed. What a method keeps by scores is
    known in all, not by layer. The command ``lightning-sparse plan`` prints the same for a recipe.

    Args:
        module: The net, mostly a LightningModule.
        callbacks: One callback, or all of a Trainer's; those that make nothing sparse are passed over. Of a
            search without ``search_epochs`` only a Trainer knows the length: give it.
        input_size: Shape of the input at which multiply-adds are counted, the batch's size first.
        example_input: The input itself, where it is another: a tensor, a tuple of arguments, or a dict of
            them by name. Without either, a LightningModule's ``example_input_array`` is taken if it has one;
            without any, one matrix-vector product of each layer is counted.
        device: Where it will be trained, as masks take more memory on a CPU. ``None``: where it is.

    Returns:
        NetPlan: It prints as tables; ``parts`` has one plan for each callback, with its ``layers``.

    Raises:
        SparsityError: If the budgets cannot be met, two callbacks cannot stand side by side, both inputs are
            given, or the net cannot be run with one.

    Examples:
        >>> from lightning_sparse import PruneAtInit
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10))
        >>> (part,) = plan(net, PruneAtInit("erk", density=0.1), (1, 3, 8, 8)).parts
        >>> part.kept, part.layers[0].kept, part.layers[0].dense  # 216 weights at 36 positions
        (310, 17, 7776.0)
    """
    check_kind("module", module, nn.Module)
    given = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    for callback in given:
        if not is_lightning(callback, "callbacks.Callback"):
            raise SparsityError(
                f"`callbacks` must be a callback or a list of them, got {shown(callback)}. For example: "
                'PruneAtInit("erk", density=0.1).'
            )
    if next(module.parameters(), None) is None:
        raise SparsityError(
            "`module` must have its layers, got one without parameters. Call its `configure_model` before."
        )
    own = next(module.parameters()).device
    found = [callback for callback in given if isinstance(callback, Sparsifier | Alone)]
    on_cpu = torch.device(own if device is None else device).type == "cpu"
    return plan_at(module, found, _input(module, input_size, example_input), on_cpu)


def plan_at(
    module: nn.Module, callbacks: Sequence[Sparsifier | Alone], at: PlannedInput, on_cpu: bool
) -> NetPlan:
    """Say what callbacks would make of a net, with the cost at an input.

    Args:
        module: The net.
        callbacks: Those that make it sparse, or the one that must be alone; none: it stays dense.
        at: Where FLOPs are counted.
        on_cpu: Whether it will be trained there.
    """
    sparsifiers = [callback for callback in callbacks if isinstance(callback, Sparsifier)]
    for callback in (callback for callback in callbacks if isinstance(callback, Alone)):
        for other in sparsifiers:
            refuse_both(callback, other)
        words = f"{callback.describe()}\n{callback.planned(cast(LightningModule, module))}"
        return NetPlan((_dense_plan(words, module, at, on_cpu),))
    if not sparsifiers:
        return NetPlan((_dense_plan("", module, at, on_cpu),))
    for one in sparsifiers:
        refuse_company(one, sparsifiers)
    return NetPlan(tuple(_plan_of(module, one, at, on_cpu) for one in sparsifiers))


def _dense_plan(callback: str, module: nn.Module, at: PlannedInput, on_cpu: bool) -> CallbackPlan:
    """Plan a net of which all weights stay what they are, whatever trains them."""
    weights = select_weights(module)
    kept = sum(weight.numel() for weight in weights.values())
    return plan_layers(callback, module, weights, None, kept, None, at, on_cpu)


def _plan_of(module: nn.Module, callback: Sparsifier, at: PlannedInput, on_cpu: bool) -> CallbackPlan:
    net = cast(LightningModule, module)
    if is_lightning(module, "core.LightningModule"):  # of another module there is no loss to look for
        callback.check_module(net)
    weights = callback.select(net)
    if not weights:  # what another callback selects is only moved
        return CallbackPlan(callback.describe())
    budgets = callback.planned_budgets({name: weight.shape for name, weight in weights.items()})
    kept = sum(budgets.values())
    if budgets.keys() != weights.keys():  # scores will share it out
        kept = callback.planned_total(sum(weight.numel() for weight in weights.values()))
    offset = _offset_of(callback)
    return plan_layers(callback.describe(), module, weights, budgets, kept, offset, at, on_cpu)


def _input(module: nn.Module, size: Sequence[int] | None, example: ExampleInput | None) -> PlannedInput:
    if size is not None and example is not None:
        raise SparsityError("`input_size` must come without `example_input`, got both. Leave one out.")
    if size is not None:
        return PlannedInput(input_of_size(module, size), "input_size", must_fit=True)
    if example is not None:
        return PlannedInput(example, must_fit=True)
    own: Any = module.example_input_array if is_lightning(module, "core.LightningModule") else None
    return PlannedInput(own, "example_input_array")


def _offset_of(callback: Sparsifier) -> Offset | None:
    """Return the fixed dense part of the layers that will hold the weights; ``None`` for masks."""
    if isinstance(callback, Conversion):
        return callback.offset
    return NoOffset() if callback.storage == "compact" else None
