"""The ways of fine-tuning that are compared. Ours come as callbacks, those of peft change the net."""

from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as pl
from torch import nn

from benchmarks.experiments.tuning.task import Budget, Task


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Args:
        name: How tables call it.
        middle: Of the grid of rates that it starts with; see `benchmarks.experiments.tuning.rates`.
        adapt: Changes the pretrained net, in place or not, or freezes it; takes it, the budget and the seed.
        callbacks: Makes the callbacks to train with; takes task, budget and seed.
        budgeted: Whether it trains so many weights as the budget says.
    """

    name: str
    middle: int
    adapt: Callable[[nn.Module, Budget, int], nn.Module]
    callbacks: Callable[[Task, Budget, int], list[pl.Callback]] = lambda *_: []
    budgeted: bool = True


def whole(net: nn.Module, budget: Budget, seed: int) -> nn.Module:
    """Leave the net as it is."""
    return net


def frozen(net: nn.Module, budget: Budget, seed: int) -> nn.Module:
    """Train nothing of it."""
    return net.requires_grad_(False)


def lora(net: nn.Module, budget: Budget, seed: int) -> nn.Module:
    """Add products of two thin matrices, as peft does; they start at zero and are not scaled."""
    from peft import LoraConfig, get_peft_model

    rank, targets = budget.rank, list(budget.targets)
    return get_peft_model(net, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))


def shira(net: nn.Module, budget: Budget, seed: int) -> nn.Module:
    """Add a sparse matrix with a random support, as peft does."""
    from peft import ShiraConfig, get_peft_model

    targets = list(budget.targets)
    return get_peft_model(net, ShiraConfig(r=budget.rank, random_seed=seed, target_modules=targets))


METHODS = {
    method.name: method
    for method in (
        Method("head", -4, frozen, budgeted=False),
        Method("full", -8, whole, budgeted=False),
        Method("LoRA", -5, lora),
        Method("SHiRA", -4, shira),
    )
}
