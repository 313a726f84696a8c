import json
import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse.experiments.metrics import CellMetrics, read_metrics


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/epoch", float(self.current_epoch))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, **options):
    """Fit for two epochs, and return Trainer and module."""
    data = DataLoader(TensorDataset(torch.arange(32.0).reshape(8, 4) / 32), batch_size=4)
    pl.seed_everything(0)
    quiet = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }
    callbacks = [CellMetrics(str(folder / "metrics.json"))]
    trainer = pl.Trainer(max_epochs=2, default_root_dir=folder, callbacks=callbacks, **quiet)
    module = Net()
    trainer.fit(module, data, data, **options)
    return trainer, module, data


def test_the_last_of_everything_is_written_and_a_fit_that_has_ended_keeps_it(tmp_path):
    """A run killed between its last epoch and its test goes on with a fit that makes no step."""
    trainer, module, data = fit(tmp_path)
    after_fit = read_metrics(tmp_path / "metrics.json")
    assert after_fit["val/epoch"] == 1
    trainer.test(module, data, verbose=False)
    whole = read_metrics(tmp_path / "metrics.json")
    assert whole == after_fit | {"test/loss": trainer.callback_metrics["test/loss"].item()}

    (tmp_path / "metrics.json").unlink()
    (last,) = tmp_path.rglob("*.ckpt")
    trainer, module, data = fit(tmp_path, ckpt_path=last)
    assert trainer.global_step == 4
    trainer.test(module, data, verbose=False)
    assert read_metrics(tmp_path / "metrics.json") == whole


def test_a_file_that_is_not_there_has_no_values(tmp_path):
    assert read_metrics(tmp_path / "metrics.json") == {}


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, math.inf])
def test_no_digit_is_lost(tmp_path, value):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"a": value}))
    assert read_metrics(path)["a"] == value
