"""Operators that treat every unit by itself: activations, sums of branches, pooling, batch normalisation.

What they make of a constant is found by running them on it. So no formula is written down twice, and a
padding or a border that makes a constant depend on the position is noticed.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from lightning_sparse.export.units.flow import Flow, NotFollowedError, Sliced, understands
from lightning_sparse.export.units.trace import arguments, operator_name
from lightning_sparse.export.units.values import Value

__all__: list[str] = []


@understands(
    "pointwise",
    "aten::dropout",
    "aten::alpha_dropout",
    "aten::feature_dropout",
    "aten::feature_alpha_dropout",
    "aten::hardswish",
    "aten::log_sigmoid",
    "aten::prelu",
    "aten::_prelu_kernel",
    "aten::contiguous",
    "aten::to",
    "aten::_to_copy",
    "aten::alias",
    "aten::detach",
)
def _pointwise(flow: Flow, node: Node) -> Value | None:
    shape = node.meta["val"].shape
    values = [value for value in map(flow.of, node.all_input_nodes) if value is not None]
    if not values:
        return None
    axis, slots = _common_axis(values, len(shape))
    others = [giver for giver in node.all_input_nodes if flow.of(giver) is None]
    of_units = []
    for giver in others:
        if (dim := _axis_of_units(giver, node, len(shape) - axis)) is not None:
            if giver not in flow.trace.names:
                raise NotFollowedError("it joins units with a tensor that is not known to have any")
            of_units.append((flow.own(giver), dim))
    for value in values[1:]:
        flow.units.tie(values[0].ids, value.ids)
    made = flow.value(values[0], shape, axis)
    assert len(made.ids) == slots
    flow.sliced += [Sliced(name, dim, made) for name, dim in of_units]
    flow.note_constants(made, flow.evaluate(node))
    if operator_name(node) == "aten::mul":
        for value in values:  # 0 times anything
            zero = value.known & (value.constant == 0)
            made.known, made.constant = made.known | zero, made.constant.masked_fill(zero, 0.0)
    flow.pass_back(made, values)
    return made


def _common_axis(values: list[Value], dims: int) -> tuple[int, int]:
    """Return the axis of units of an outcome, and how many slots it has: the same in all, from the end."""
    places = {(len(value.shape) - value.axis, len(value.ids)) for value in values}
    if len(places) > 1:
        raise NotFollowedError("it joins tensors whose units lie along different axes")
    ((from_end, slots),) = places
    return dims - from_end, slots


def _axis_of_units(giver: Node, node: Node, from_end: int) -> int | None:
    """Return which dimension of an operand runs along the units, if it has more than one entry there."""
    if operator_name(node) == "aten::prelu":  # its parameters belong to dimension 1, and broadcast otherwise
        return 0 if giver.meta["val"].numel() > 1 else None
    shape = giver.meta["val"].shape
    dim = len(shape) - from_end
    return dim if dim >= 0 and shape[dim] > 1 else None


@understands("aten::batch_norm", "aten::_native_batch_norm_legit_no_training")
def _batch_norm(flow: Flow, node: Node) -> Value | None:
    given = arguments(node)
    if given.get("training") or given["running_mean"] is None:
        raise NotFollowedError("it takes mean and variance of the batch, also in eval mode")
    if (x := flow.of(given["input"])) is None:
        return None
    if x.axis != 1:
        raise NotFollowedError("it normalises along another axis than that of the units")
    keys = [key for key in ("weight", "bias", "running_mean", "running_var") if given[key] is not None]
    names = {key: flow.own(given[key]) for key in keys}
    tensors = {key: flow.trace.tensors[name].detach() for key, name in names.items()}
    made = flow.value(x, x.shape, x.axis)
    flow.sliced += [Sliced(name, 0, made) for name in names.values()]
    blind = _no_scale(tensors, len(x.ids))
    made.known = x.known | blind
    made.constant = torch.where(made.known, _normalised(x.constant, tensors, given["eps"]), 0.0)

    def step() -> None:
        x.needed |= made.needed & ~blind

    flow.behind(step)
    return made


def _no_scale(tensors: dict[str, Tensor], slots: int) -> Tensor:
    """Return which slots a normalisation multiplies by 0."""
    weight = tensors.get("weight")
    return torch.zeros(slots, dtype=torch.bool) if weight is None else weight == 0


def _normalised(constant: Tensor, tensors: Mapping[str, Tensor], eps: float) -> Tensor:
    mean, var = tensors["running_mean"].double(), tensors["running_var"].double()
    weight, bias = (tensors[key].double() if key in tensors else None for key in ("weight", "bias"))
    return F.batch_norm(constant[None], mean, var, weight, bias, training=False, eps=eps)[0]


def _one_by_one(flow: Flow, node: Node, x: Value, axis: int) -> Value:
    """Note what comes of an operator that keeps the slots."""
    outcome = node.meta["val"]
    made = flow.value(x, (outcome[0] if isinstance(outcome, tuple | list) else outcome).shape, axis)
    flow.note_constants(made, flow.evaluate(node))
    flow.pass_back(made, [x])
    return made


@understands(
    *(f"aten::{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("max", "avg", "adaptive_avg", "adaptive_max")),
    *(f"aten::max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"aten::upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "bilinear2d")),
)
def _pooling(flow: Flow, node: Node) -> Value | None:
    x = flow.of(node.args[0])
    if x is None:
        return None
    name = operator_name(node)
    spatial = next(int(digit) for digit in reversed(name) if digit.isdigit())
    if x.axis != len(x.shape) - spatial - 1:
        raise NotFollowedError("it pools along another axis than those behind the units")
    return _one_by_one(flow, node, x, x.axis)


@understands("aten::pad", "aten::constant_pad_nd")
def _padding(flow: Flow, node: Node) -> Value | None:
    x, pad = flow.of(node.args[0]), arguments(node)["pad"]
    if x is None:
        return None
    if len(x.shape) - len(pad) // 2 <= x.axis and any(_pads_of(pad, len(x.shape) - 1 - x.axis)):
        raise NotFollowedError("it puts further units beside those that are there")
    return _one_by_one(flow, node, x, x.axis)


def _pads_of(pad: Any, from_end: int) -> Any:
    return pad[2 * from_end : 2 * from_end + 2]


@understands("aten::mean", "aten::sum", "aten::amax", "aten::amin")
def _reduction(flow: Flow, node: Node) -> Value | None:
    given = arguments(node)
    x = flow.of(node.args[0])
    if x is None:
        return None
    dims = given.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    gone = {dim % len(x.shape) for dim in dims or range(len(x.shape))}
    if x.axis in gone:
        raise NotFollowedError("it sums over units")
    axis = x.axis if given["keepdim"] else x.axis - sum(dim < x.axis for dim in gone)
    return _one_by_one(flow, node, x, axis)


@understands("aten::zeros_like", "aten::ones_like", "aten::full_like")
def _filled_like(flow: Flow, node: Node) -> Value | None:
    x = flow.of(node.args[0])
    if x is None:
        return None
    made = flow.value(x, x.shape, x.axis)
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda _: torch.zeros(1, dtype=torch.float64))
    number = node.target(*args, **{**kwargs, "device": "cpu"}).item()  # type: ignore[operator]
    made.known[:], made.constant[:] = True, float(number)
    return made
