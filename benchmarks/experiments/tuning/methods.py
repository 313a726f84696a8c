"""The ways of fine-tuning that are compared. Ours come as callbacks, those of peft change the net."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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


def whole(net: nn.Module, *_: object) -> nn.Module:
    """Leave the net as it is."""
    return net


def frozen(net: nn.Module, *_: object) -> nn.Module:
    """Train nothing of it."""
    return net.requires_grad_(False)


def lora(net: nn.Module, budget: Budget, *_: object) -> nn.Module:
    """Add products of two thin matrices, as peft does; they start at zero and are not scaled."""
    from peft import LoraConfig, get_peft_model

    rank, targets = budget.rank, list(budget.targets)
    return get_peft_model(net, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))


def shira(net: nn.Module, budget: Budget, seed: int) -> nn.Module:
    """Add a sparse matrix with a random support, as peft does."""
    from peft import ShiraConfig, get_peft_model

    targets = list(budget.targets)
    return get_peft_model(net, ShiraConfig(r=budget.rank, random_seed=seed, target_modules=targets))


def sparse(task: Task, budget: Budget, seed: int, support: str, allocation: str = "erk") -> list[pl.Callback]:
    """Train a sparse change, shared out over layers as LoRA of one rank is."""
    from lightning_sparse import SparseFineTuning

    return [
        SparseFineTuning(
            budget.count / task.weights,
            support,
            allocation,
            include=list(task.include),
            train=[] if task.features is None else ["head"],
            seed=seed,
        )
    ]


def moving(task: Task, budget: Budget, seed: int, support: str = "random") -> list[pl.Callback]:
    """Let the support move, at first 30% of it at a time, to where the gradient is largest."""
    from lightning_sparse import RigLCallback

    when = {"every_n_steps": task.move_every, "stop_at": task.move_until}
    moves = RigLCallback(drop_fraction=0.3, skip_step_on_update=False, **when)
    return [*sparse(task, budget, seed, support), moves]


METHODS = {
    method.name: method
    for method in (
        Method("head", -4, frozen, budgeted=False),
        Method("full", -8, whole, budgeted=False),
        Method("LoRA", -5, lora),
        Method("SHiRA", -4, shira),
        Method("random", -4, whole, partial(sparse, support="random")),
        Method("magnitude", -4, whole, partial(sparse, support="magnitude")),
        Method("gradient", -5, whole, partial(sparse, support="gradient")),
        Method("moving", -4, whole, moving),
        Method("gradient, global", -5, whole, partial(sparse, support="gradient", allocation="global")),
        Method("gradient, moving", -5, whole, partial(moving, support="gradient")),
    )
}


def all_but(*names: str) -> tuple[str, ...]:
    """Return the names of the methods, in the order of the tables, without some."""
    return tuple(name for name in METHODS if name not in names)
