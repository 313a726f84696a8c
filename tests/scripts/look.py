"""Fits in two processes a net of which a layer multiplies with more than its weight; counts warnings."""

import os
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy import Toy, loader, trainer

from lightning_sparse import PruneAtInit


class Shifted(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.weight + 1, self.bias)


def main() -> None:
    rank = int(os.environ["LOCAL_RANK"])
    pl.seed_everything(rank, verbose=False)
    toy = Toy()
    toy.net[0] = Shifted(3, 8, 3)
    arguments = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(".", PruneAtInit("erk", 0.2, verify=True), **arguments).fit(toy, loader())
    told = [warning for warning in caught if "dense in the product" in str(warning.message)]
    print(f"\nrank {rank} fitted and warned {len(told)} times", flush=True)


if __name__ == "__main__":
    main()
