"""Linear and convolutional layers: every output is a weighted sum of inputs.

An input j that is constant with value c_j moves into the biases: b_o + sum over kernel of w_oj * c_j. With
padding by zeros that sum is smaller at the border, so there only c_j = 0 can move. An output all of whose
other weights are zero is constant, with that bias as its value. An input is needed if a weight other than
zero leads from it to an output that is needed.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import Node

from lightning_sparse.export.units.flow import Flow, Mixer, NotFollowedError, Sliced, understands
from lightning_sparse.export.units.trace import arguments, place_of
from lightning_sparse.export.units.values import Value

__all__ = ["folding", "kernel_sums", "pads_with_zeros", "readers", "takes_bias"]


def readers(weight: Tensor, groups: int = 1) -> Tensor:
    """Return which outputs read which inputs: ``(out, in)``, True where any weight is not zero.

    >>> readers(torch.tensor([[0.0, 2.0], [0.0, 0.0]])).tolist()
    [[False, True], [False, False]]
    >>> readers(torch.ones(2, 1, 3, 3), groups=2).tolist()
    [[True, False], [False, True]]
    """
    return _whole((weight != 0).flatten(2).any(2) if weight.dim() > 2 else weight != 0, groups)


def kernel_sums(weight: Tensor, groups: int = 1) -> Tensor:
    """Return what a constant input of 1 adds to each output, away from borders: ``(out, in)``.

    >>> kernel_sums(torch.full((1, 2, 3, 3), 0.5)).tolist()
    [[4.5, 4.5]]
    """
    return _whole(weight.flatten(2).sum(2) if weight.dim() > 2 else weight, groups)


def folding(
    weight: Tensor, known: Tensor, constant: Tensor, only_zeros: bool, groups: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Work out what constant inputs are to a layer.

    Args:
        weight: ``(out, in / groups, *kernel)``.
        known: Inputs that are constant, ``(in,)``.
        constant: Their values, ``(in,)``.
        only_zeros: Whether no other constant can move, as with zeros around the input.
        groups: Of a convolution.

    Returns:
        Which inputs can move into the biases, ``(in,)``; what they add there, ``(out,)``; and which of the
        other inputs are read by which outputs, ``(out, in)``.

    Examples:
        >>> weight = torch.tensor([[2.0, 3.0], [4.0, 0.0]])
        >>> folding(weight, torch.tensor([True, False]), torch.tensor([5.0, 0.0]).double(), False)[:2]
        (tensor([ True, False]), tensor([10., 20.], dtype=torch.float64))
    """
    folded = known & ((constant == 0) | (not only_zeros))
    shift = torch.zeros(len(weight), dtype=torch.float64)
    if bool((folded & (constant != 0)).any()):
        columns = folded.nonzero().flatten()
        shift = kernel_sums(weight, groups)[:, columns].double() @ constant[columns]
    return folded, shift, readers(weight, groups) & ~folded


def pads_with_zeros(padding: str | Sequence[int], kernel: Sequence[int]) -> bool:
    """Tell whether a convolution's padding adds anything: numbers, or the words "same" and "valid".

    >>> pads_with_zeros("same", (3, 3)), pads_with_zeros("same", (1, 1))
    (True, False)
    """
    if isinstance(padding, str):
        return padding == "same" and any(size > 1 for size in kernel)
    return any(padding)


@understands("aten::linear")
def _linear(flow: Flow, node: Node) -> Value:
    return _mix(flow, node, spatial=0, padded=False, groups=1)


@understands("aten::conv1d", "aten::conv2d", "aten::conv3d")
def _convolution(flow: Flow, node: Node) -> Value:
    given = arguments(node)
    kernel = given["weight"].meta["val"].shape[2:]
    padded = pads_with_zeros(given["padding"], kernel)
    return _mix(flow, node, spatial=len(kernel), padded=padded, groups=given["groups"])


def _mix(flow: Flow, node: Node, spatial: int, padded: bool, groups: int) -> Value:
    given = arguments(node)
    weight, bias = flow.own(given["weight"]), given["bias"]
    if flow.fixed and not _has_sizes_of_its_own(flow, weight):
        raise NotFollowedError("the class of the layer asks for fixed sizes")
    bias = None if bias is None else flow.own(bias)
    x, shape = flow.of(given["input"]), node.meta["val"].shape
    axis = len(shape) - 1 - spatial
    if x is not None and x.axis != axis:
        raise NotFollowedError("it multiplies along another axis than that of the units")
    outputs, inputs = len(flow.trace.tensors[weight]), given["weight"].meta["val"].shape[1] * groups
    made = flow.new(shape, axis, flow.units.new(weight.removesuffix(".weight"), outputs))
    why = "pads with zeros" if padded else "" if bias or takes_bias(flow, node, weight) else "has no bias"
    mixer = _mixer(flow, Mixer(weight, bias, x, made, groups, why), inputs)
    flow.mixers.append(mixer)
    flow.sliced.append(Sliced(weight, 0, made))
    if bias is not None:
        flow.sliced.append(Sliced(bias, 0, made))
    _join(flow, mixer, inputs)
    return made


def takes_bias(flow: Flow, node: Node, weight: str) -> bool:
    """Tell whether an operator is the forward pass of a layer of PyTorch's that may be given a bias."""
    return _has_sizes_of_its_own(flow, weight) and place_of(node) == weight.rpartition(".")[0]


def _has_sizes_of_its_own(flow: Flow, weight: str) -> bool:
    """Tell whether a weight is of a layer of PyTorch's, which says its sizes and does not check its input."""
    path, _, key = weight.rpartition(".")
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return isinstance(flow.trace.net.get_submodule(path), kinds) and key == "weight"


def _mixer(flow: Flow, mixer: Mixer, inputs: int) -> Mixer:
    """Say what constants do in a layer, and what it needs of its input."""
    x, made, matrix = mixer.given, mixer.made, flow.trace.tensors[mixer.weight].detach()
    known = torch.zeros(inputs, dtype=torch.bool) if x is None else x.known
    constant = torch.zeros(inputs, dtype=torch.float64) if x is None else x.constant
    folded, shift, read = folding(matrix, known, constant, bool(mixer.why_blocked), mixer.groups)
    made.known = ~read.any(1)
    bias = None if mixer.bias is None else flow.trace.tensors[mixer.bias].detach().double()
    start = torch.zeros_like(shift) if bias is None else bias
    made.known &= (start + shift).isfinite()
    made.constant = torch.where(made.known, start + shift, 0.0)
    blocked = torch.zeros(inputs, dtype=torch.bool)

    def step() -> None:
        if x is not None:
            needed = read[made.needed].any(0)
            x.needed |= needed
            blocked.copy_(needed & x.known)

    flow.behind(step)
    return replace(mixer, folded=folded, shift=shift, blocked=blocked)


def _join(flow: Flow, mixer: Mixer, inputs: int) -> None:
    """Say which inputs are cut with which outputs."""
    x, made = mixer.given, mixer.made
    if mixer.groups == 1:
        flow.sliced += [] if x is None else [Sliced(mixer.weight, 1, x)]
    elif mixer.groups == inputs and x is not None:  # depthwise: an input feeds outputs of its own
        flow.units.tie(x.ids.repeat_interleave(len(made.ids) // inputs), made.ids)
    else:
        reason = f"{mixer.layer!r} has {mixer.groups} groups of channels, which must stay equal in size"
        for value in (made, *([] if x is None else [x])):
            flow.units.hold(value.ids, reason)


def _whole(matrix: Tensor, groups: int) -> Tensor:
    """Return a matrix over all inputs, given the one whose rows are over those of their group."""
    if groups == 1:
        return matrix
    outputs, inputs = matrix.shape
    whole = matrix.new_zeros(groups, outputs // groups, groups, inputs)
    index = torch.arange(groups)
    whole[index, :, index] = matrix.view(groups, outputs // groups, inputs)
    return whole.view(outputs, groups * inputs)
