"""The learning rate of the ASNI paper."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_sparse.checks import check_count, check_kind, check_number

__all__ = ["TruncatedCosineLR"]


class TruncatedCosineLR(LRScheduler):
    """Lets the rate fall along a cosine that is cut off before it reaches zero.

    ``eta(e) = eta_0 / 2 (1 + cos(pi e / ((1 + delta) E)))`` from epoch e alone: positive at every epoch, and
    from epoch E on constant. So a scheduler that is given the state it began with begins again.

    Args:
        optimizer: Its rates now are eta_0.
        epochs: Number of epochs E, that of one training: a run that trains twice starts the scheduler twice.
        delta: How far behind E the cosine would reach zero, as a share of E; above 0.
        last_epoch: Epoch before the first one, as for every scheduler.

    Raises:
        SparsityError: If ``epochs`` is no positive integer, ``delta`` is not above 0, or ``last_epoch`` is
            no epoch.

    Source:
        Damadi et al., "Amenable Sparse Network Investigator", 2021, section 4.1; the formula printed there,
        ``eta_0 cos(pi e / (1 + delta) E)``, is negative in the second half.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4)
        >>> scheduler = TruncatedCosineLR(optimizer, epochs=2, delta=0.5)
        >>> scheduler.get_last_lr()
        [0.4]
        >>> scheduler.last_epoch = 1
        >>> round(scheduler.get_lr()[0], 3)  # 0.2 (1 + cos(pi / 3))
        0.3
    """

    def __init__(self, optimizer: Optimizer, epochs: int, delta: float = 0.06, last_epoch: int = -1) -> None:
        check_kind("optimizer", optimizer, Optimizer)
        check_count("epochs", epochs)
        check_number("delta", delta, "(0, inf)", "It keeps the rate positive; 0.06 is the paper's.")
        check_count("last_epoch", last_epoch, -1)
        self.epochs = epochs
        self.delta = delta
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:  # numbers, or tensors where the optimizer was given one
        """Return the rates of the epoch that is to come, one per parameter group."""
        progress = min(self.last_epoch, self.epochs) / ((1 + self.delta) * self.epochs)
        return [eta_0 / 2 * (1 + math.cos(math.pi * progress)) for eta_0 in self.base_lrs]
