"""The Jacobian of a module as it is: in double precision, by statements about its batch normalisation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from lightning_sparse.checks import SparsityError, first_line
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.jacobian import input_jacobians, singular_values
from lightning_sparse.reporting.diagnosis.content import Spectrum

__all__ = ["Statistics", "jacobian_spectrum", "logits_of"]

Statistics: TypeAlias = Literal["running", "batch"]
"""Which mean and variance batch normalisation takes: its running ones, or those of the inputs."""

MOST_OUTPUTS = 4096
"""A pass back is made for each output."""


def jacobian_spectrum(
    net: nn.Module, inputs: Tensor, statistics: Statistics = "running"
) -> tuple[Spectrum, int | None]:
    """Return the singular values of the Jacobian of each input, in float64, dropout off.

    In nets that do not work in float64, as they cast to another type inside, it is taken in the net's own.

    Args:
        net: Takes the inputs; left as found.
        inputs: A batch of real numbers.
        statistics: Of batch normalisation: ``"running"``, as in eval mode (before training, mean 0 and
            variance 1: it does nothing), or ``"batch"``, the mean and variance of these inputs, held fixed.

    Returns:
        The singular values, and the number of classes, where the net returns one vector for each item.

    Raises:
        SparsityError: If the inputs are integers, the net fails, or has too many outputs.
    """
    if not inputs.is_floating_point():
        raise SparsityError(
            f"`inputs` must be real numbers for a Jacobian, got {inputs.dtype}. Give embeddings that the net "
            "takes, or diagnose the part behind the embedding."
        )
    with left_as_found(net, training=False), _held_statistics(net, statistics) as normalised:
        jacobians, dtype, shape = _jacobians(net, inputs)
    if not bool(jacobians.isfinite().all()):
        raise SparsityError(
            f"`module` must have finite derivatives, got {int((~jacobians.isfinite()).sum())} that are not, "
            f"in {dtype}. Look at the scale of its layers' outputs."
        )
    reached = int((jacobians != 0).any(dim=2).any(dim=0).sum())
    values = tuple(tuple(row) for row in singular_values(jacobians).tolist())
    used = statistics if normalised else ""
    spectrum = Spectrum(values, jacobians.shape[1], jacobians.shape[2], reached, used, str(dtype)[6:])
    return spectrum, shape[0] if len(shape) == 1 and shape[0] > 1 else None


def logits_of(outputs: Any) -> Tensor:
    """Return the first tensor of real numbers in what a net returns.

    Raises:
        SparsityError: If there is none.
    """
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise SparsityError(f"`module` must return real numbers, got {type(outputs).__name__}.")


def _jacobians(net: nn.Module, inputs: Tensor) -> tuple[Tensor, torch.dtype, torch.Size]:
    """Return the Jacobians, in double precision if the net can, their type, and the shape of an output."""
    own = next((p.dtype for p in net.parameters() if p.is_floating_point()), inputs.dtype)
    if own != torch.float64 and inputs.device.type != "mps":  # which has no float64
        with suppress(RuntimeError, TypeError, NotImplementedError):  # perhaps it casts inside
            return _in_type(net, inputs, torch.float64)
    try:
        return _in_type(net, inputs, own)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SparsityError(
            f"`inputs` must fit {type(net).__name__}, got {tuple(inputs.shape)} {str(inputs.dtype)[6:]}: "
            f"{first_line(error)}"
        ) from error


def _in_type(net: nn.Module, inputs: Tensor, dtype: torch.dtype) -> tuple[Tensor, torch.dtype, torch.Size]:
    shapes: list[torch.Size] = []
    tensors = {
        name: tensor.detach().to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in _every_place(net)
    }

    def forward(x: Tensor) -> Tensor:
        outputs = logits_of(functional_call(net, tensors, (x,), tie_weights=False))
        _check_shape(outputs, len(x))
        shapes.append(outputs.shape[1:])
        return outputs

    with torch.compiler.set_stance("force_eager"):
        jacobians = input_jacobians(forward, inputs.to(dtype))
    return jacobians, dtype, shapes[0]


def _check_shape(outputs: Tensor, batch: int) -> None:
    if outputs.ndim == 0 or len(outputs) != batch:
        raise SparsityError(
            f"`module` must return one item for each of {batch} inputs, got {tuple(outputs.shape)}."
        )
    if outputs[0].numel() > MOST_OUTPUTS:
        raise SparsityError(
            f"`module` must have at most {MOST_OUTPUTS} outputs, got {outputs[0].numel():,}, each of which "
            "takes a pass back. Diagnose a net that returns a part of them."
        )


def _every_place(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers under a name for each place that holds one; what is shared has several."""
    for prefix, part in module.named_modules():  # each once
        parameters = part.named_parameters(prefix, recurse=False, remove_duplicate=False)
        yield from chain(parameters, part.named_buffers(prefix, recurse=False, remove_duplicate=False))


@contextmanager
def _held_statistics(net: nn.Module, statistics: Statistics) -> Iterator[bool]:
    """Let batch normalisation take the statistics of what comes in, as numbers that do not depend on it.

    Layers that keep no running statistics have no others; yields whether there are such layers at all.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]
    held = [layer for layer in layers if statistics == "batch" or layer.running_mean is None]
    handles = [layer.register_forward_pre_hook(_hold) for layer in held]
    try:
        yield bool(layers)
    finally:
        for handle in handles:
            handle.remove()


def _hold(layer: nn.Module, arguments: Sequence[Any]) -> None:
    x: Tensor = arguments[0].detach()
    over = [dim for dim in range(x.ndim) if dim != 1]
    layer._buffers["running_mean"] = x.mean(dim=over)
    layer._buffers["running_var"] = x.var(dim=over, correction=0)
