"""Whether two nets give the same outputs."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_sparse.checks import SparsityError, first_line

__all__ = ["Inputs", "batches_like", "call", "largest_difference", "outputs_of", "refuse_input"]

Inputs: TypeAlias = Any
"""A tensor, a tuple of arguments or a dict of them by name, as Lightning's ``example_input_array``."""


def call(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named arguments."""
    if isinstance(inputs, dict):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def outputs_of(net: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the tensors that a net makes of an input; random numbers that it draws are always the same."""
    args, kwargs = call(inputs)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = tree_leaves(net(*args, **kwargs))
    return [leaf for leaf in found if isinstance(leaf, Tensor)]


def batches_like(net: nn.Module, inputs: Inputs, count: int = 3) -> Iterator[Inputs]:
    """Yield an input, others of the same shapes with numbers drawn anew, and one of twice the batch.

    Whole numbers stay, as they may be indices. The twofold batch is left out if the net does not take it.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)

    def doubled(value: Any) -> Any:
        return torch.cat([value, value]) if isinstance(value, Tensor) and value.dim() else value

    yield inputs
    for _ in range(count):
        yield tree_map(drawn, inputs)
    twofold = tree_map(doubled, tree_map(drawn, inputs))
    try:
        outputs_of(net, twofold)
    except Exception:  # whatever a net raises that knows its batch's size
        return
    yield twofold


def largest_difference(net: nn.Module, other: nn.Module, inputs: Inputs) -> float:
    """Return the largest difference between the outputs of two nets, relative to the largest output.

    Returns:
        Infinity if the outputs are of other shapes, or the second net raises anything.

    Raises:
        SparsityError: If the first net returns no tensors.
    """
    expected = outputs_of(net, inputs)
    if not expected:
        raise SparsityError(
            f"`module` must return tensors, got {type(net).__name__} without. They are what is compared."
        )
    try:
        found = outputs_of(other, inputs)
    except Exception:  # a size in the forward pass that does not fit any more
        return torch.inf
    if [each.shape for each in found] != [each.shape for each in expected]:
        return torch.inf
    return max(_difference(a, b) for a, b in zip(expected, found, strict=True))


def _difference(expected: Tensor, found: Tensor) -> float:
    if not expected.is_floating_point() or expected.numel() == 0:
        return 0.0 if torch.equal(expected, found) else torch.inf
    if torch.equal(expected.isfinite(), found.isfinite()):
        expected, found = expected[expected.isfinite()], found[found.isfinite()]
        scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny) if len(expected) else 1.0
        return float(((expected - found).abs() / scale).max()) if len(expected) else 0.0
    return torch.inf


def refuse_input(inputs: Inputs, error: Exception, argument: str) -> SparsityError:
    """Return the error for an input that a net does not take."""
    shapes = [" x ".join(map(str, t.shape)) for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    return SparsityError(
        f"`{argument}` must be what the net takes, got {', '.join(shapes) or type(inputs).__name__}, which "
        f"ends in {type(error).__name__}: {first_line(error)}."
    )
