"""A net made smaller by what its zeros leave dead."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import repeat
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_counts, check_kind
from lightning_sparse.export.calls import Call, copied_call
from lightning_sparse.export.same import differences
from lightning_sparse.export.units import mixing, moves, slotwise
from lightning_sparse.export.units.cutting import Cut, decide, kept_tensors
from lightning_sparse.export.units.flow import Flow
from lightning_sparse.export.units.report import KeptUnits, SmallerNet, kept_units, smaller_layers
from lightning_sparse.export.units.sizes import resize_
from lightning_sparse.export.units.trace import Trace, UntraceableError, trace
from lightning_sparse.selection import layer_name
from lightning_sparse.weights.found import sparse_weights

__all__ = ["smaller"]

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference of outputs, relative to the largest output, by the type in which both nets run."""

_RULES = (mixing, slotwise, moves)  # each registers what it knows of operators


def smaller(
    module: nn.Module, example_input: Any = None, input_size: Sequence[int] | None = None
) -> SmallerNet:
    """Return a net without the units that do nothing, which gives the same outputs in eval mode.

    A unit (a neuron, or a channel of a convolution) is dead if no weight but zeros leads from it to the
    output, and constant if none leads to it from the input. Dead units are cut; constant ones are cut once
    their value is added to the biases of what they feed. Both is done until nothing changes. Units go with
    their rows and columns in every weight, bias and batch normalisation; channels that a sum or a depthwise
    convolution ties together go together.

    The smaller net runs beside the whole one, both in double precision, before it is handed out.

    Args:
        module: Any net, masked or with compact layers; not changed. A LightningModule without ``forward`` is
            taken as the child that holds its weights.
        example_input: What is passed to it: a tensor, a tuple or a dict.
        input_size: In its place, the shape of a tensor of floats, the batch's size first. Without both, the
            module's ``example_input_array``.

    Returns:
        The smaller net, a table of its layers, and what could not be cut.

    Raises:
        SparsityError: If there is no input or the net does not take it, if it has no values yet, or if the
            smaller net would not give the same outputs.

    Examples:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with torch.no_grad():
        ...     net[0].weight[0] = 0.0  # nothing leads to the first unit,
        ...     net[2].weight[:, 1] = 0.0  # and nothing from the second
        >>> small = smaller(net, input_size=(1, 4))
        >>> small.module
        Sequential(
          (0): Linear(in_features=4, out_features=1, bias=True)
          (1): ReLU()
          (2): Linear(in_features=1, out_features=2, bias=True)
        )
    """
    check_kind("module", module, nn.Module)
    if input_size is not None:
        example_input = _input_of_size(example_input, input_size)
    call, argument = copied_call(module, example_input)
    dense = [weight.name for weight in sparse_weights(module).values() if not weight.prunes]
    reasons = [KeptUnits(layer_name(name), None, NOTHING_ZERO) for name in dense]
    before = _count(call.whole)
    double, dtype = _in_double(call, argument if input_size is None else "input_size")
    try:
        seen = trace(double.net, double.args, double.kwargs)
    except UntraceableError as error:
        return SmallerNet(call.whole, (), (*reasons, KeptUnits("", None, str(error))), before, before, 0.0)
    cut, tensors, difference = _same_outputs(double, seen, TOLERANCES[dtype])
    resize_(call.net, {name: tensor.to(_dtype_in(call.net, name)) for name, tensor in tensors.items()})
    prefix = f"{call.path}." if call.path else ""
    reasons += kept_units(cut, prefix)
    layers = tuple(smaller_layers(cut, prefix))
    return SmallerNet(call.whole, layers, tuple(reasons), before, _count(call.whole), difference)


NOTHING_ZERO = "its weight, a dense matrix plus a sparse one, has no zeros; nothing of it can be dead"


def _input_of_size(example: Any, size: Sequence[int]) -> Tensor:
    if example is not None:
        raise SparsityError("`input_size` must come without `example_input`, got both. Leave one out.")
    check_counts("input_size", size, hint="It is a shape, the batch's size first.")
    return torch.randn(tuple(size), generator=torch.Generator().manual_seed(0))


def _in_double(call: Call, argument: str) -> tuple[Call, torch.dtype]:
    """Return a call of the net in double precision; in single precision if the net insists on it."""
    try:
        double = call.to(torch.float64)
        double()
        return double, torch.float64
    except Exception:  # whatever a net raises that makes tensors of another type
        single = call.to(torch.float32)
        single.check(argument)
        return single, torch.float32


def _same_outputs(call: Call, seen: Trace, tolerance: float) -> tuple[Cut, dict[str, Tensor], float]:
    """Return which units stay, what that makes of tensors, and how far outputs differ.

    Views to sizes that are written down as numbers are kept whole if the net does not run without.
    """
    calls = list(call.samples(3))
    expected = [one() for one in calls]
    if not expected[0]:
        raise SparsityError(
            f"`module` must return tensors, got {type(call.net).__name__} without. They are what is compared."
        )
    difference = torch.inf
    for fixed in (False, True):
        flow = Flow(seen, fixed)
        flow.run()
        cut = decide(flow)
        tensors = kept_tensors(cut)
        small = deepcopy(call.net)
        resize_(small, tensors)
        difference = max(map(_share_off, calls, expected, repeat(small)))
        if difference <= tolerance:
            return cut, tensors, difference
    other = f"outputs that differ by {difference:.1e}" if difference < torch.inf else "other outputs, or none"
    raise SparsityError(
        f"`module` must give the same outputs without its dead units, got {type(call.net).__name__}, which "
        f"gives {other}: its forward pass counts on sizes or values that cannot be seen. Export as 'dense'."
    )


def _share_off(call: Call, expected: list[Tensor], net: nn.Module) -> float:
    """Return the largest difference of a net's outputs, as a share of the largest output."""
    try:
        found = differences(expected, call(net))
    except Exception:  # a size in the forward pass that does not fit any more
        return torch.inf
    return max(off / top if off and top else torch.inf if off else 0.0 for off, top in found)


def _dtype_in(module: nn.Module, name: str) -> torch.dtype:
    """Return the type of a tensor; of a bias that is not there yet, that of the weight."""
    path, _, key = name.rpartition(".")
    layer = module.get_submodule(path)
    there = {**layer._parameters, **layer._buffers}
    tensor = there.get(key)
    return cast(Tensor, there["weight"] if tensor is None else tensor).dtype


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
