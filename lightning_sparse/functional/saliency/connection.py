"""Whether a signal still passes a pruned net."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.isolation import differentiable, left_as_found
from lightning_sparse.functional.saliency.base import PruningProblem
from lightning_sparse.functional.saliency.iterative_snip import iterative_snip
from lightning_sparse.types import Scores

__all__ = ["check_connected", "items_differ"]

_ROUNDING = 4  # units in the last place of the largest output; equal rows were measured up to 1.5 apart


def check_connected(problem: PruningProblem, num_batches: int, nonzero: Iterable[str], strict: bool) -> None:
    """Look for layers that pruning has silenced: what is kept of them has no gradient.

    In a net with branches others may go on without them. But if what the last layer puts out is the same for
    all items of a batch, and was not before pruning, the net is cut through: it depends on biases alone.

    Args:
        problem: The net and its finished masks.
        num_batches: How many batches to look at.
        nonzero: Layers that had a gradient before.
        strict: Whether a net that is cut through is an error.

    Raises:
        SparsityError: If the net is cut through, and that is ``strict``.

    Warns:
        UserWarning: If layers are silent, or the net is cut through.
    """
    scores, differ = _signals(problem, num_batches)
    silent = [name for name in nonzero if not scores[name].any()]
    if not silent:
        return
    cut = _all_equal(differ) and not _all_equal(_signals(replace(problem, masks=None), num_batches)[1])
    message = (
        f"{'The net is cut through: no' if cut else 'No'} signal passes what is kept of "
        f"{', '.join(silent[:3])} ({len(silent)} layers). Raise `density`, or choose a method that keeps "
        "nets whole (`synflow`)."
    )
    if cut and strict:
        raise SparsityError(message)
    warnings.warn(message, stacklevel=3)


def _signals(problem: PruningProblem, num_batches: int) -> tuple[Scores, list[bool]]:
    """Return scores of what is left, and for each batch whether the last layer's outputs differ."""
    try:
        return _signals_of_pass(problem, num_batches, still=True)
    except Exception:  # some layer without children needs train mode, which scores were taken in
        return _signals_of_pass(problem, num_batches, still=False)


def _signals_of_pass(problem: PruningProblem, num_batches: int, still: bool) -> tuple[Scores, list[bool]]:
    last: list[bool] = []
    differ: list[bool] = []

    def losses() -> Iterator[Any]:
        for loss in problem.losses(num_batches):
            last.clear()
            yield loss
            differ.extend(last[-1:])

    with (
        left_as_found(problem.module, training=True),
        differentiable(problem.weights.values()),
        _outputs_noted(problem, last),
    ):
        if still:
            _still_leaves_(problem.module)
        scores = iterative_snip(problem.weights, losses(), problem.masks, problem.average)
    return scores, differ


def _all_equal(differ: list[bool]) -> bool:
    return bool(differ) and not any(differ)


def _still_leaves_(module: nn.Module) -> None:
    """Set what makes items differ, dropout and batch norm, to eval mode; what holds them goes on as it is.

    A step may ask the net for what it gives in training only: auxiliary outputs, or a detector's losses.
    """
    for layer in module.modules():
        if not any(True for _ in layer.children()):
            layer.training = False


def items_differ(output: Tensor) -> bool:
    """Tell whether items differ by more than rounding.

    Kernels may sum equal rows of a batch in different orders, so that their last bits differ.
    """
    output = output.detach()
    spread, largest = (output - output[:1]).abs().max(), output.abs().max()
    return bool(spread > _ROUNDING * torch.finfo(output.dtype).eps * largest)


@contextmanager
def _outputs_noted(problem: PruningProblem, noted: list[bool]) -> Iterator[None]:
    """Note, whenever a layer of the problem's weights is called, whether its output differs between items."""

    def note(_: Any, __: Any, output: Any) -> None:
        is_batch = isinstance(output, Tensor) and output.ndim > 1 and len(output) > 1 and output.numel()
        if is_batch and output.is_floating_point():
            noted.append(items_differ(output))

    wanted = {id(weight) for weight in problem.weights.values()}
    with ExitStack() as stack:
        for layer in problem.module.modules():
            if any(id(parameter) in wanted for parameter in layer._parameters.values()):
                stack.callback(layer.register_forward_hook(note).remove)
        yield
