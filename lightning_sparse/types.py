"""The plain data that everything here speaks: dicts keyed by parameter name.

*Density* is the share of weights kept, a fraction in (0, 1]; *sparsity* is one minus density.
"""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Average", "Budgets", "Communication", "Densities", "Loss", "Masks", "Scores", "Shapes", "Storage"]

Scores: TypeAlias = dict[str, Tensor]
"""A score per weight, shaped like the weight; the highest are kept."""

Masks: TypeAlias = dict[str, Tensor]
"""Boolean tensors shaped like the weights; True is kept."""

Densities: TypeAlias = dict[str, float]
"""Share of weights kept, by layer or by pattern."""

Budgets: TypeAlias = dict[str, int]
"""Number of weights kept per layer."""

Shapes: TypeAlias = Mapping[str, torch.Size]
"""Weight shape per layer: ``(out, in)`` or ``(out, in / groups, *kernel)``."""

Loss: TypeAlias = Callable[[], Tensor]
"""Runs one batch through a module as it is now and returns the batch's mean loss."""

Storage: TypeAlias = Literal["masked", "compact"]
"""How a callback stores the weights that it keeps: under masks, or alone in layers of their own."""

Communication: TypeAlias = Literal["all", "kept"]
"""What the processes of DDP exchange of gradients: all of them, or those of weights that masks keep."""

Average: TypeAlias = Callable[[Tensor], Tensor]
"""Takes the mean of a tensor over all processes."""
