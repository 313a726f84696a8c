"""Small nets searched by ASNI, for benchmarks that need zeros where training puts them.

Searches only, and short ones: 8 epochs of MNIST for the LeNet, 40 of the digits of scikit-learn for the
Conv nets, and 24 of the same digits at 32 x 32 pixels for VGG-11 (six minutes of one thread for each of its
densities); kept in a folder, so that a second run of the benchmark trains nothing.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_sparse import ASNISigmoidPruner
from lightning_sparse.data import DigitsDataModule, MNISTDataModule
from lightning_sparse.models import VGG11, Conv2, Conv4, Conv6, ImageClassifier, LeNet300100


class Search(NamedTuple):
    """A net, its data, and for how long it is searched."""

    net: Callable[[], nn.Module]
    data: str
    shape: tuple[int, ...]
    epochs: int


def large_vgg11() -> nn.Module:
    """Return VGG-11 behind what makes 32 x 32 pixels of 8 x 8."""
    return nn.Sequential(nn.Upsample(scale_factor=4), VGG11(in_channels=1))


SEARCHES = {
    "LeNet-300-100, MNIST": Search(LeNet300100, "mnist", (1, 28, 28), 8),
    "Conv-2, digits": Search(partial(Conv2, 1, 8), "digits", (1, 8, 8), 40),
    "Conv-4, digits": Search(partial(Conv4, 1, 8), "digits", (1, 8, 8), 40),
    "Conv-6, digits": Search(partial(Conv6, 1, 8), "digits", (1, 8, 8), 40),
    "VGG-11, digits": Search(large_vgg11, "digits", (1, 8, 8), 24),
}


def trained(name: str, density: float, folder: Path, data_dir: Path) -> tuple[nn.Module, float]:
    """Return a net that was searched and its accuracy on test images; search it if it is not there.

    Args:
        name: Of the search.
        density: Share of weights that it ends with.
        folder: Where nets are kept.
        data_dir: Where MNIST lies.
    """
    search, path = SEARCHES[name], folder / f"{name.replace(', ', '-')}-{density}.pt"
    torch.manual_seed(0)
    net = search.net()
    if not path.is_file():
        accuracy = _search(net, search, density, data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"net": net.state_dict(), "accuracy": accuracy}, path)
    content = torch.load(path)
    net.load_state_dict(content["net"])
    return net.eval(), content["accuracy"]


def _search(net: nn.Module, search: Search, density: float, data_dir: Path) -> float:
    start = time.process_time()
    data = (
        MNISTDataModule(str(data_dir), batch_size=60)
        if search.data == "mnist"
        else DigitsDataModule(batch_size=64)
    )
    module = ImageClassifier(
        net, optimizer=partial(torch.optim.Adam, lr=0.0012), weight_init="kaiming_normal"
    )
    pruner = ASNISigmoidPruner(density=density, search_epochs=search.epochs, reinit=None)
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=search.epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[pruner],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(module, data)
    accuracy = trainer.test(module, data, verbose=False)[0]["test/acc"]
    seconds = time.process_time() - start
    print(f"density {density}: accuracy {accuracy:.4f}, {seconds:.0f} s of CPU time", flush=True)
    return float(accuracy)
