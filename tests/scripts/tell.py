"""Fits in two processes with lottery-ticket rounds, and with series of layers switched off on one rank."""

import os
import sys
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy import Toy, loader, trainer

from lightning_sparse import IterativeMagnitudePruning, SparsityMonitor
from lightning_sparse.checks import SparsityError


def fit(*callbacks: pl.Callback) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    pruning = IterativeMagnitudePruning(0.2, rounds=1, epochs_per_round=1)
    parts = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_model_summary": True}
    runner = trainer(sys.argv[1], pruning, *callbacks, enable_checkpointing=True, **parts)
    runner.fit(Toy(), loader(8))
    return runner


def main() -> None:
    rank = int(os.environ["LOCAL_RANK"])
    metrics = fit(ModelCheckpoint(sys.argv[1])).callback_metrics
    print(f"\nrank {rank} logged {float(metrics['sparsity_layers/net.6']):.6f}", flush=True)
    try:
        fit(SparsityMonitor(per_layer=rank == 0))
    except SparsityError as error:
        print(f"\nrank {rank} says: {error}", flush=True)


if __name__ == "__main__":
    main()
