"""A small net and data that all tests of callbacks train on."""

import csv
import os
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import SparsityCallback
from lightning_sparse.functional.allocation import uniform
from lightning_sparse.functional.masks import layerwise_masks
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.state import state_of

ACCELERATOR = os.environ.get("LIGHTNING_SPARSE_TEST_ACCELERATOR", "cpu")
"""What all tests of callbacks train on: "gpu" runs them there, where there is one."""

if ACCELERATOR == "gpu":  # many tests compare runs bit by bit
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def sgd(params: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2)


def adamw(params: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1)


class Toy(pl.LightningModule):
    """Convolution, batch norm, dropout, linear: 216 + 800 selected weights, and a trap among the buffers."""

    def __init__(
        self,
        optimizer: MakeOptimizer = sgd,
        dropout: float = 0.2,
        scheduler: Callable[[Optimizer], Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AvgPool2d(2, stride=1),  # an adaptive pool is not reproducible on a GPU
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(200, 4),
        )
        self.register_buffer("causal_mask", torch.tril(torch.ones(4, 4, dtype=torch.bool)))
        self.make_optimizer, self.make_scheduler = optimizer, scheduler

    def training_step(self, batch: Any, *_: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, *_: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}


def make_toy(**arguments: Any) -> Toy:
    torch.manual_seed(0)
    return Toy(**arguments)


def loader(batches: int = 4, batch_size: int = 8, **arguments: Any) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batches * batch_size, 3, 8, 8, generator=generator)
    y = torch.randint(0, 4, (len(x),), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size, **arguments)


def trainer(tmp_path: Any, *callbacks: Any, **arguments: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": ACCELERATOR,
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(tmp_path),
    }
    return pl.Trainer(callbacks=list(callbacks), **{**defaults, **arguments})


def logged(logger: Any, column: str) -> list[dict[str, str]]:
    """Return the rows that a CSVLogger wrote in which a column has a value."""
    logger.save()
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return [row for row in csv.DictReader(file) if row[column]]


class HoldsMasks(pl.Callback):
    """After every step: pruned weights exactly zero, or not there at all; every layer's count its budget."""

    def __init__(self, budgets: dict[str, int] | None = None) -> None:
        self.budgets = budgets
        self.steps = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.steps += 1
        weights = sparse_weights(pl_module)
        assert weights
        for name, weight in weights.items():
            mask = weight.mask
            assert int(mask.sum()) == weight.nnz == len(weight.active), name
            assert not weight.takes_masks or weight.parameter[~mask].eq(0).all(), name
            if self.budgets is not None:
                assert weight.nnz == self.budgets[name], name


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in module.state_dict().items()}


def masks_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.mask.cpu() for name, weight in sparse_weights(module).items()}


def weight_of(module: nn.Module, name: str) -> Tensor:
    """Return a weight by the name of its parameter, however it is stored."""
    found: Tensor = attrgetter(name)(module)
    return found.detach()


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name].cpu(), b[name].cpu()), name


class Rotate(SparsityCallback):
    """Moves masks at every second step: stands for all callbacks that do, with no idea behind it."""

    moves = True

    def __init__(self, density: float = 0.1, **arguments: Any) -> None:
        super().__init__(density, **arguments)
        self.calls = 0

    def config(self) -> dict[str, Any]:
        return {"density": self.density}

    def planned_budgets(self, shapes: Any) -> Any:
        return uniform(shapes, self.density)

    def make_masks(self, module: Any, generator: torch.Generator) -> Any:
        weights = self.select(module)
        scores = {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
        return layerwise_masks(scores, self.planned_budgets({n: w.shape for n, w in weights.items()}))

    def new_masks(self, module: Any, optimizer: Any) -> Any:
        self.calls += 1
        masks = state_of(module).masks
        if self.calls % 2:
            return {}
        return {name: mask.flatten().roll(1).view_as(mask) for name, mask in masks.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "calls": self.calls} if super().state_dict() else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.calls = state_dict.get("calls", 0)


def flat(tree, prefix=""):
    """Return all tensors and numbers of nested dicts and lists, by path."""
    if isinstance(tree, dict):
        pairs = tree.items()
    elif isinstance(tree, list | tuple):
        pairs = enumerate(tree)
    else:
        return {prefix: torch.as_tensor(tree)} if isinstance(tree, torch.Tensor | int | float) else {}
    return {key: value for name, part in pairs for key, value in flat(part, f"{prefix}.{name}").items()}
