"""Checks of what a mask owes its success to: its places, its weights, or only its budgets per layer.

Source:
    Frankle et al., "Pruning Neural Networks at Initialization: Why Are We Missing the Mark?", ICLR 2021
    (arXiv:2009.08576), section 5.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.types import Masks

__all__ = ["redraw_", "shuffled"]


def shuffled(masks: Masks, generator: torch.Generator, pattern: Pattern = UNSTRUCTURED) -> Masks:
    """Return masks with the same count in each layer, at places drawn at random that the pattern allows."""
    if pattern != UNSTRUCTURED:
        nothing = torch.empty(0, dtype=torch.int64)
        return {
            name: pattern.filled_at_random(nothing.to(m.device), m.shape, int(m.sum()), generator)
            for name, m in masks.items()
        }
    return {name: _permuted(mask, generator) for name, mask in masks.items()}


@torch.no_grad()
def redraw_(weights: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """Draw each layer's weights anew from the distribution that they have, by permuting them.

    So it is right for whatever initialisation the net has, and whoever made it.
    """
    for weight in weights.values():
        weight.copy_(_permuted(weight, generator))


def _permuted(tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator, device=generator.device)
    return tensor.detach().reshape(-1)[order.to(tensor.device)].view(tensor.shape)
