"""What one optimizer holds of the masked weights, and when its steps leave pruned ones at zero."""

from dataclasses import dataclass, field

from torch import Tensor, optim

__all__ = ["APART", "Plan"]

APART = (optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad)
"""Optimizers that treat every coordinate by itself and leave zero weights with zero gradients at zero."""


@dataclass
class Plan:
    """What one optimizer holds of the masked weights."""

    parameters: list[int]
    """Which parameters the optimizer held when the plan was made: it may be given others later."""
    weights: list[Tensor]
    keep: list[Tensor]
    announced: bool = False
    """Whether the gradients of the coming step were masked."""
    stays_zero: bool = False
    """Whether such a step leaves pruned weights at zero by itself, the optimizer's state being clean."""
    seen: list[int] = field(default_factory=list)
    """The weights as they were after the last step; see ``versions_of``."""
    masked: list[int] = field(default_factory=list)
    """The gradients as they were when they were masked."""
    divides_by_zero: bool = False
    """Whether a zero gradient may be divided by a zero: a product would keep the NaN."""
