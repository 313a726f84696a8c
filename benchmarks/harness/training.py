"""What the benchmarks of training share: a task, data in memory, and the callbacks to compare."""

import logging
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelPruning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness.report import Bar
from lightning_sparse import PruneAtInit

DENSITY = 0.1
OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], Optimizer]] = {
    "SGD+momentum": partial(SGD, lr=1e-3, momentum=0.9),
    "fused Adam": partial(Adam, lr=1e-4, fused=True),
}


class Task(pl.LightningModule):
    """Classification without a metric or a log: only what training cannot do without."""

    def __init__(self, net: nn.Module, make_optimizer: Callable[[Iterable[Tensor]], Optimizer]) -> None:
        super().__init__()
        self.net, self.make_optimizer = net, make_optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> Optimizer:
        """Return the one optimizer."""
        return self.make_optimizer(self.parameters())


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Eight random batches over and over, made beforehand: loading costs next to nothing."""

    def __init__(self, shape: tuple[int, ...], steps: int, device: torch.device | str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(8, *shape, generator=generator).to(device)
        self.labels = torch.randint(10, (8, shape[0]), generator=generator).to(device)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index % 8], self.labels[index % 8]


class Empty(pl.Callback):
    """Hooks that do nothing: what any callback costs."""

    def on_train_batch_start(self, *_: Any) -> None:
        """Do nothing."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Do nothing."""

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Do nothing."""


class PruneAtStart(ModelPruning):
    """Lightning's own pruning, applied once and before the first step instead of after each epoch."""

    def on_train_start(self, *_: Any) -> None:
        """Prune."""
        self.apply_pruning(self.amount)

    def on_train_epoch_end(self, *_: Any) -> None:
        """Prune no more."""


def contenders(net: nn.Module) -> dict[str, pl.Callback]:
    """Return what is compared, by name; both prunings keep the largest of the same weights.

    The dense net is there twice: the ratio of the two shows what the figures of a run can resolve.
    """
    weights = [(layer, "weight") for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return {
        "dense": Empty(),
        "dense again": Empty(),
        "PruneAtInit": PruneAtInit("magnitude", density=DENSITY),
        "ModelPruning": PruneAtStart(
            "l1_unstructured", weights, amount=1 - DENSITY, use_lottery_ticket_hypothesis=False
        ),
    }


def bars(at_most: float) -> list[Bar]:
    """Return the bar against the dense net, and that of being faster than Lightning's pruning."""
    return [
        Bar("PruneAtInit", "dense", at_most),
        Bar("PruneAtInit", "ModelPruning", 1.0),
        Bar("ModelPruning", "dense"),
        Bar("dense again", "dense"),
    ]


def loader(
    shape: tuple[int, ...], steps: int, device: torch.device | str = "cpu"
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return batches of this shape that lie on a device."""
    return DataLoader(Batches(shape, steps, device), batch_size=None)


def silence_lightning() -> None:
    """Let Lightning say nothing in this process."""
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    for package in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(package).setLevel(logging.ERROR)


def bare_trainer(
    callbacks: list[pl.Callback],
    accelerator: str = "cpu",
    precision: Any = "32-true",
    strategy: Any = "auto",
    hosts: int = 1,
) -> pl.Trainer:
    """Return a Trainer for one epoch that logs, shows and saves nothing."""
    silence_lightning()
    return pl.Trainer(
        accelerator=accelerator,
        devices=1,
        num_nodes=hosts,
        strategy=strategy,
        precision=precision,
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
