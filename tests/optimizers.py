"""Optimizers of every kind, to train sparse nets with."""

from typing import Any

import torch
from toy import MakeOptimizer


class Mixing(torch.optim.Optimizer):
    """Adds the mean gradient of a layer to every one of its weights."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                p.add_(p.grad + p.grad.mean(), alpha=-group["lr"])
        return loss


class ExtraState(torch.optim.Optimizer):
    """Momentum under a name of its own, a row-wise scale and a plain counter; weight decay."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state.update(velocity=torch.zeros_like(p), scale=torch.ones(p.shape[0]), count=0)
                state["count"] += 1
                state["velocity"].mul_(0.9).add_(p.grad).add_(p, alpha=0.1)
                p.sub_(group["lr"] * state["velocity"])
        return loss


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd-nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd-fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01),
    "adam-fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
    "adamw-amsgrad": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True, weight_decay=0.1),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1, initial_accumulator_value=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.01),
    "mixes-coordinates": Mixing,
    "extra-state": ExtraState,
}
