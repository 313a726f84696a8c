"""Tunes a net and writes an adapter, or reads one into the same net; says what the net's output is."""

import hashlib
import sys

import torch
from torch import nn

from lightning_sparse import convert_, load_adapter, save_adapter


def base() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 64),
        nn.Linear(64, 4),
    )
    return nn.Sequential(*layers).requires_grad_(False)


def tuned() -> nn.Sequential:
    """Train sparse changes of two layers and all of a new head; statistics of the batch norm go along."""
    module = base()
    module[5] = nn.Linear(64, 4)
    convert_(module, 0.1, offset="pretrained", include=["0.weight", "4.weight"], generator=7)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        module(torch.randn(16, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    module[4].move_(torch.arange(100, 100 + module[4].nnz))
    return module


def main(task: str, path: str) -> None:
    if task == "write":
        module = tuned()
        save_adapter(module, path)
    else:
        module = base()
        print("layers", *load_adapter(module, path))
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    output = module.eval()(images).detach()
    print("output", hashlib.sha256(output.numpy().tobytes()).hexdigest(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
