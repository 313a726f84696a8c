"""A net made smaller by what its zeros leave dead."""

from collections.abc import Sequence
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from lightning_sparse.checks import SparsityError, check_counts, check_kind, first_line
from lightning_sparse.export.units import mixing, moves, slotwise
from lightning_sparse.export.units.cutting import Cut, decide, kept_tensors
from lightning_sparse.export.units.flow import Flow
from lightning_sparse.export.units.report import KeptUnits, SmallerNet, kept_units, smaller_layers
from lightning_sparse.export.units.same import Inputs, batches_like, call, largest_difference, outputs_of
from lightning_sparse.export.units.same import refuse_input as refused
from lightning_sparse.export.units.sizes import resize_
from lightning_sparse.export.units.trace import Trace, UntraceableError, trace
from lightning_sparse.layers import to_dense_
from lightning_sparse.selection import layer_name
from lightning_sparse.trainer.packages import LightningModule, is_lightning
from lightning_sparse.trainer.parts import callable_net
from lightning_sparse.weights.found import sparse_weights

__all__ = ["smaller"]

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference of outputs, relative to the largest output, by the type in which both nets run."""

_RULES = (mixing, slotwise, moves)  # each registers what it knows of operators


def smaller(
    module: nn.Module, example_input: Inputs | None = None, input_size: Sequence[int] | None = None
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
    inputs, argument = _inputs_of(module, example_input, input_size)
    dense = [weight.name for weight in sparse_weights(module).values() if not weight.prunes]
    result = _own_copy(module)
    before = _count(result)
    net, inputs, dtype = _in_double(result, inputs, argument)
    reasons = [KeptUnits(layer_name(name), None, NOTHING_ZERO) for name in dense]
    inner, prefix = _part_that_runs(net)
    try:
        seen = trace(inner, *call(inputs))
    except UntraceableError as error:
        return SmallerNet(result, (), (*reasons, KeptUnits("", None, str(error))), before, before, 0.0)
    cut, tensors, difference = _same_outputs(net, seen, inputs, TOLERANCES[dtype])
    own = _part_that_runs(result)[0]
    resize_(own, {name: tensor.to(_dtype_in(own, name)) for name, tensor in tensors.items()})
    reasons += kept_units(cut, prefix)
    layers = tuple(smaller_layers(cut, prefix))
    return SmallerNet(result, layers, tuple(reasons), before, _count(result), difference)


NOTHING_ZERO = "its weight, a dense matrix plus a sparse one, has no zeros; nothing of it can be dead"


def _inputs_of(module: nn.Module, example: Inputs | None, size: Sequence[int] | None) -> tuple[Inputs, str]:
    """Return what to run the net on, and the name of the argument that it is from."""
    if example is not None and size is not None:
        raise SparsityError("`input_size` must come without `example_input`, got both. Leave one out.")
    if size is not None:
        check_counts("input_size", size, hint="It is a shape, the batch's size first.")
        return torch.randn(tuple(size), generator=torch.Generator().manual_seed(0)), "input_size"
    if example is not None:
        return example, "example_input"
    own = getattr(module, "example_input_array", None)
    if own is None:
        raise SparsityError(
            f"`example_input` must be given, got None, and {type(module).__name__} has no "
            "`example_input_array`. Pass what the net takes, such as torch.zeros(1, 3, 32, 32)."
        )
    return own, "example_input_array"


def _own_copy(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode on the CPU, with ordinary layers in the place of compact ones."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if without := [name for name, tensor in tensors.items() if is_lazy(tensor) or tensor.is_meta]:
        raise SparsityError(
            f"`module` must have values, got {without[0]!r} without (lazy, or on the meta device). Run it "
            "once, or load a checkpoint."
        )
    try:
        holder = nn.ModuleList([deepcopy(module)])  # a bare compact layer has to be held by something
    except Exception as error:  # whatever copying an attribute raises
        raise SparsityError(
            f"`module` must be one that can be copied, got {type(module).__name__}: {first_line(error)}. "
            "Computed weights become plain ones by `torch.nn.utils.prune.remove` and its like."
        ) from error
    to_dense_(holder)
    return holder[0].cpu().eval()


def _in_double(module: nn.Module, inputs: Inputs, argument: str) -> tuple[nn.Module, Inputs, torch.dtype]:
    """Return net and input in double precision; in single precision if the net insists on it."""

    def to(dtype: torch.dtype) -> tuple[nn.Module, Inputs, torch.dtype]:
        net = deepcopy(module).to(dtype)
        given = tree_map_only(Tensor, lambda t: _cast(t.detach().cpu(), dtype), inputs)
        outputs_of(_part_that_runs(net)[0], given)
        return net, given, dtype

    try:
        return to(torch.float64)
    except Exception:  # whatever a net raises that makes tensors of another type
        try:
            return to(torch.float32)
        except Exception as error:
            raise refused(inputs, error, argument) from error


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _part_that_runs(module: nn.Module) -> tuple[nn.Module, str]:
    """Return what is called with an input, and what stands before the names in it."""
    if not is_lightning(module, "core.LightningModule"):
        return module, ""
    inner = callable_net(cast(LightningModule, module), module.parameters())
    if inner is None:
        raise SparsityError(
            f"`module` must have a `forward`, or one child that holds all its weights, got "
            f"{type(module).__name__}. Give it a `forward`, or name a child alone."
        )
    name = next(path for path, child in module.named_modules() if child is inner)
    return inner, f"{name}." if name else ""


def _same_outputs(
    net: nn.Module, seen: Trace, inputs: Inputs, tolerance: float
) -> tuple[Cut, dict[str, Tensor], float]:
    """Return which units stay, what that makes of tensors, and how far outputs differ.

    Views to sizes that are written down as numbers are kept whole if the net does not run without.
    """
    difference = torch.inf
    for fixed in (False, True):
        flow = Flow(seen, fixed)
        flow.run()
        cut = decide(flow)
        tensors = kept_tensors(cut)
        small = deepcopy(net)
        resize_(_part_that_runs(small)[0], tensors)
        pair = _part_that_runs(net)[0], _part_that_runs(small)[0]
        difference = max(largest_difference(*pair, batch) for batch in batches_like(pair[0], inputs))
        if difference <= tolerance:
            return cut, tensors, difference
    other = f"outputs that differ by {difference:.1e}" if difference < torch.inf else "other outputs, or none"
    raise SparsityError(
        f"`module` must give the same outputs without its dead units, got {type(net).__name__}, which "
        f"gives {other}: its forward pass counts on sizes or values that cannot be seen. Export as 'dense'."
    )


def _dtype_in(module: nn.Module, name: str) -> torch.dtype:
    """Return the type of a tensor; of a bias that is not there yet, that of the weight."""
    path, _, key = name.rpartition(".")
    layer = module.get_submodule(path)
    there = {**layer._parameters, **layer._buffers}
    tensor = there.get(key)
    return cast(Tensor, there["weight"] if tensor is None else tensor).dtype


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
