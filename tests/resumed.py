"""A run, and one resumed from a checkpoint that it wrote on the way: what each of them trained on."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from toy import assert_equal, trainer, weights_of

from lightning_sparse import ExactResume


def rows(count: int = 24) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(count, 6, generator=generator), torch.randint(0, 3, (count,), generator=generator)
    )


class Noisy(Dataset):
    """Adds noise to each row: by the global generator, or what ``draw`` draws from."""

    def __init__(self, draw: Callable[[], Tensor] = lambda: torch.randn(6), count: int = 24) -> None:
        self.rows, self.draw = rows(count), draw

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.rows[index]
        return x + self.draw(), y


class Small(pl.LightningModule):
    """Two layers and dropout; takes down what it trains on, and the learning rate."""

    def __init__(self, scheduler: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.scheduler, self.seen, self.rates = scheduler, [], []

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(float(batch[0].sum()))
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        return optimizer if self.scheduler is None else self.scheduler(optimizer)


class Save(pl.Callback):
    """Writes one checkpoint in a hook: the first time, or that of a batch or epoch with this number."""

    def __init__(self, path: Any, hook: str, number: int) -> None:
        self.path, self.number, self.calls = path, number, 0
        setattr(self, hook, self._act)

    def _act(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.calls += 1
            if self.calls == self.number:
                trainer.save_checkpoint(self.path)


def whole_and_resumed(
    tmp_path: Any,
    make_loader: Callable[[], Any],
    hook: str = "on_train_epoch_end",
    number: int = 2,
    make_module: Callable[[], pl.LightningModule] = Small,
    val: Any = None,
    more: Callable[[], list[pl.Callback]] = list,
    **arguments: Any,
) -> tuple[Any, Any]:
    """Return the module of a run that wrote a checkpoint at a call of a hook, and of the one resumed."""
    path = tmp_path / "on the way.ckpt"

    def fit(seed: int, *callbacks: pl.Callback, ckpt_path: Any = None) -> pl.LightningModule:
        pl.seed_everything(5, verbose=False)
        module, loader = make_module(), make_loader()
        pl.seed_everything(seed, verbose=False)
        options = {"max_epochs": 3, "num_sanity_val_steps": 0, **arguments}
        runner = trainer(tmp_path, ExactResume(), *more(), *callbacks, **options)
        runner.fit(module, loader, val, ckpt_path=ckpt_path)
        return module

    return fit(5, Save(path, hook, number)), fit(77, ckpt_path=path)


def assert_goes_on(whole: Any, resumed: Any) -> None:
    """What was trained on, the learning rates and the weights are those of the undisturbed run."""
    count = len(resumed.seen)
    assert 0 < count < len(whole.seen)
    assert resumed.seen == whole.seen[-count:]
    assert resumed.rates == whole.rates[-count:]
    assert_equal(weights_of(whole), weights_of(resumed))


def plain(data: Any, **arguments: Any) -> DataLoader:
    return DataLoader(data, 4, **arguments)
