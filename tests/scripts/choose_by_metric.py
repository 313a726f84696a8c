"""Runs our children of Lightning's callbacks from the command line of either package, which checks types.

The package is imported before ours; nothing of ours is written out but the short names.
"""

import importlib
import json
import sys
from pathlib import Path

package = sys.argv[1] if __name__ == "__main__" else "pytorch_lightning"  # pytest imports all files
pl, cli = importlib.import_module(package), importlib.import_module(f"{package}.cli")
importlib.import_module("lightning_sparse.callbacks")

import torch  # noqa: E402 - after the package
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402


class Net(pl.LightningModule):
    """Is best before it is sparse."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(8, 20)

    def training_step(self, batch, _):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, _):
        self.log("val_loss", float(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(8, 8)), 4)

    val_dataloader = train_dataloader


def main():
    callbacks = {
        "SparseCheckpoint": {"dirpath": "best", "monitor": "val_loss", "filename": "{epoch}"},
        "SparseEarlyStopping": {"monitor": "val_loss", "patience": 9},
        "ASNISigmoidPruner": {"density": 0.1, "search_epochs": 3, "reinit": None},
    }
    settings = {
        "callbacks": [{"class_path": name, "init_args": given} for name, given in callbacks.items()],
        "max_epochs": 4,
        "accelerator": "cpu",
        "logger": False,
    }
    Path("recipe.yaml").write_text(json.dumps({"trainer": settings}))  # JSON is YAML
    cli.LightningCLI(Net, Data, args=["fit", "--config=recipe.yaml"])


if __name__ == "__main__":
    main()
