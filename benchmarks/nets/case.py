"""A net of another package, as the table takes it: a LightningModule and the data to train it with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader

BATCH_SIZE = 4
MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]


@dataclass
class Case:
    """What one cell trains.

    Attributes:
        module: Freshly made, its weights drawn from PyTorch's own generator.
        data: A dataloader or a data module; always the same data.
        fit: Further arguments of ``Trainer.fit``.
        problems: Looks at the trained module; returns what is wrong with it beyond what all nets are asked.
        rounding: Share by which an optimizer that keeps few bits may be off, on average.
    """

    module: Any
    data: Any
    fit: dict[str, Any] = field(default_factory=dict)
    problems: Callable[[Any], list[str]] = lambda _: []
    rounding: float = 0.0


Build = Callable[[], Case]


def adamw(parameters: Iterable[Tensor]) -> Optimizer:
    return AdamW(parameters, lr=1e-3)


class Task(pl.LightningModule):
    """The usual thin module around a net: a loss of its own, one optimizer."""

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor],
        optimizer: MakeOptimizer = adamw,
    ) -> None:
        super().__init__()
        self.net, self.loss, self.make_optimizer = net, loss, optimizer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss = self.loss(self.net, batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])


def classified(net: nn.Module, batch: Any) -> Tensor:
    """Return the cross entropy of a net that returns logits."""
    images, labels = batch
    return nn.functional.cross_entropy(net(images), labels)


def by_its_own_loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss that a net of Hugging Face gives when it is called with labels."""
    loss: Tensor = net(**batch).loss
    return loss


def draws() -> torch.Generator:
    """Return a generator for data: the same whatever the process's seed is."""
    return torch.Generator().manual_seed(0)


def images(size: int, channels: int = 3, dims: int = 2, count: int = 12) -> list[tuple[Tensor, int]]:
    """Return random images with labels out of four."""
    generator = draws()
    return [(torch.randn(channels, *[size] * dims, generator=generator), i % 4) for i in range(count)]


def tokens(length: int = 8, words: int = 50, count: int = 12) -> list[Tensor]:
    """Return random sentences."""
    generator = draws()
    return [torch.randint(2, words, (length,), generator=generator) for _ in range(count)]


def loader(samples: Sequence[Any], **options: Any) -> DataLoader[Any]:
    """Return shuffled batches of so many samples."""
    return DataLoader(samples, batch_size=BATCH_SIZE, shuffle=True, **options)  # type: ignore[arg-type]
