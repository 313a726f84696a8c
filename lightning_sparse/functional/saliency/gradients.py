"""Scores from gradients of the loss: SNIP, GraSP, and FORCE's.

A loss is a function without arguments that runs one batch through the module as it is now and returns the
mean loss of the batch. Gradients are taken by ``autograd.grad``: no ``.grad`` is touched.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_sparse.functional.isolation import sparsified
from lightning_sparse.types import Masks, Scores

__all__ = ["Loss", "cooled", "force", "grasp", "iterative_snip", "mean_gradients", "snip"]

Loss: TypeAlias = Callable[[], Tensor]
"""Runs one batch and returns its mean loss."""


def mean_gradients(weights: Mapping[str, Tensor], losses: Iterable[Loss]) -> dict[str, Tensor]:
    """Return the gradient of the mean loss over batches, zero for weights that a loss does not reach.

    Raises:
        ValueError: If there is no batch.
    """
    total, count = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    for loss in losses:
        count += 1
        for name, gradient in zip(weights, _gradients(loss(), list(weights.values())), strict=True):
            total[name] += gradient
    if count == 0:
        raise ValueError("`losses` must hold at least one batch, got none. Check the training data.")
    return {name: gradient.div_(count) for name, gradient in total.items()}


def snip(weights: Mapping[str, Tensor], losses: Iterable[Loss]) -> Scores:
    """Return ``|g * w|``, the change of the loss to first order when a weight is removed.

    Source:
        Lee et al., "SNIP", ICLR 2019 (arXiv:1810.02340), equation 5; its normalisation changes no rank.
    """
    gradients = mean_gradients(weights, losses)
    return {name: (gradients[name] * weight.detach()).abs() for name, weight in weights.items()}


def grasp(weights: Mapping[str, Tensor], losses: Sequence[Loss]) -> Scores:
    """Return ``w * Hg``, signed: what is highest is kept, since removing it would hurt the gradient flow.

    Args:
        weights: The weights scored.
        losses: Every batch is used twice, for the gradient g and for the product of the Hessian H with it.

    Raises:
        RuntimeError: If an operation of the net has no second derivative.

    Source:
        Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020
        (arXiv:2002.07376), equation 8; the sign is that of the weight's benefit.
    """
    gradients = mean_gradients(weights, losses)
    parameters = list(weights.values())

    def gradient_flow(loss: Loss) -> Loss:
        """Return <g, dL/dw> with g held fixed; its gradient is H g."""

        def product() -> Tensor:
            inner = _gradients(loss(), parameters, create_graph=True)
            return torch.stack([(g * d).sum() for g, d in zip(gradients.values(), inner, strict=True)]).sum()

        return product

    hessian_gradient = mean_gradients(weights, [gradient_flow(loss) for loss in losses])
    return {name: weight.detach() * hessian_gradient[name] for name, weight in weights.items()}


def iterative_snip(weights: Mapping[str, Tensor], losses: Iterable[Loss], masks: Masks | None) -> Scores:
    """Return SNIP's scores of the net that ``masks`` leave; what is pruned never returns.

    Source:
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081), section 4.
    """
    with sparsified(weights, masks):
        scores = snip(weights, losses)
    return {
        name: score if masks is None else never_again(score, masks[name]) for name, score in scores.items()
    }


def force(weights: Mapping[str, Tensor], losses: Iterable[Loss], masks: Masks | None) -> Scores:
    """Return ``|g * w|`` of original weights, with gradients of the net that ``masks`` leave: any may return.

    Source:
        de Jorge et al., "Progressive Skeletonization", ICLR 2021 (arXiv:2006.09081), equation 7.
    """
    with sparsified(weights, masks):
        gradients = mean_gradients(weights, losses)
    return {name: (gradients[name] * weight.detach()).abs() for name, weight in weights.items()}


def never_again(scores: Tensor, mask: Tensor) -> Tensor:
    """Give what is pruned the lowest rank there is."""
    return scores.masked_fill(~mask, -torch.inf)


@contextmanager
def cooled(layer: nn.Module, temperature: float) -> Iterator[None]:
    """Divide the output of a layer, the net's last, by ``temperature`` for a while."""

    def divide(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output / temperature

    handle = layer.register_forward_hook(divide)
    try:
        yield
    finally:
        handle.remove()


def _gradients(loss: Tensor, weights: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(weights), create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
