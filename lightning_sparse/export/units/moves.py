"""Operators that move numbers without changing them: views, flattening, permutation, concatenation."""

import torch
from torch import Tensor
from torch.fx import Node

from lightning_sparse.export.units.flow import Flow, NotFollowedError, understands
from lightning_sparse.export.units.trace import arguments, operator_name
from lightning_sparse.export.units.values import Value

__all__ = ["axis_and_source"]

_SIZED = ("view", "reshape", "expand", "_unsafe_view", "unflatten")
"""Operators whose sizes a forward pass may have written down as numbers."""


def axis_and_source(moved: Tensor, slots: int) -> tuple[int, Tensor]:
    """Find the axis along which the slots of a tensor lie after it has been moved.

    Args:
        moved: At every entry the number of the slot that it was in before.
        slots: How many there were.

    Returns:
        The axis, and the earlier slot of each slot along it.

    Raises:
        NotFollowedError: If slots lie along several axes, or are not all there in their order: the same move
            of fewer units would then mean something else.

    Examples:
        >>> axis_and_source(torch.tensor([[0, 0, 1, 1]]), 2)
        (1, tensor([0, 0, 1, 1]))
    """
    axes = [d for d in range(moved.dim()) if bool((moved != moved.narrow(d, 0, 1)).any())]
    if len(axes) != 1:
        raise NotFollowedError("it spreads units over several axes")
    source = moved.movedim(axes[0], 0).flatten(1)[:, 0]
    times = len(source) // slots
    slot = torch.arange(slots)
    if not any(torch.equal(source, way) for way in (slot.repeat_interleave(times), slot.repeat(times))):
        raise NotFollowedError("it picks out or reorders units by number")
    return axes[0], source


@understands(
    *(f"aten::{name}" for name in _SIZED),
    "aten::flatten",
    "aten::squeeze",
    "aten::unsqueeze",
    "aten::permute",
    "aten::transpose",
    "aten::t",
    "aten::slice",
    "aten::select",
)
def _move(flow: Flow, node: Node) -> Value | None:
    x = flow.of(node.args[0])
    if x is None:
        return None
    if flow.fixed and operator_name(node).removeprefix("aten::") in _SIZED:
        raise NotFollowedError("the forward pass asks for a fixed size")
    slots = torch.arange(len(x.ids))
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda _: x.along_axis(slots).contiguous())
    axis, source = axis_and_source(node.target(*args, **kwargs), len(slots))  # type: ignore[operator]
    made = flow.value(x, node.meta["val"].shape, axis, source)
    made.known, made.constant = x.known[source], x.constant[source]

    def step() -> None:
        x.needed[source[made.needed]] = True

    flow.behind(step)
    return made


@understands("aten::cat")
def _concatenation(flow: Flow, node: Node) -> Value | None:
    given = arguments(node)
    parts = [flow.of(giver) for giver in given["tensors"]]
    values = [part for part in parts if part is not None]
    if not values:
        return None
    shape = node.meta["val"].shape
    dim = given["dim"] % len(shape)
    if any(part is None or part.axis != values[0].axis for part in parts):
        raise NotFollowedError("it joins units with a tensor that is not known to have any")
    return _behind_each_other(flow, values, shape) if dim == values[0].axis else _beside(flow, values, shape)


def _behind_each_other(flow: Flow, values: list[Value], shape: torch.Size) -> Value:
    made = flow.new(shape, values[0].axis, torch.cat([value.ids for value in values]))
    made.known = torch.cat([value.known for value in values])
    made.constant = torch.cat([value.constant for value in values])

    def step() -> None:
        needed = torch.split(made.needed, [len(value.ids) for value in values])
        for value, part in zip(values, needed, strict=True):
            value.needed |= part

    flow.behind(step)
    return made


def _beside(flow: Flow, values: list[Value], shape: torch.Size) -> Value:
    first = values[0]
    for value in values[1:]:
        flow.units.tie(first.ids, value.ids)
    made = flow.value(first, shape, first.axis)
    alike = torch.stack([value.known & (value.constant == first.constant) for value in values])
    made.known = alike.all(0)
    made.constant = torch.where(made.known, first.constant, 0.0)
    flow.pass_back(made, values)
    return made
