"""Fits in two processes with callbacks that differ; prints what ended each, and after how many seconds."""

import os
import sys
import time
from pathlib import Path

import pytorch_lightning as pl

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy import Toy, loader

from lightning_sparse import (
    DCTpSConversion,
    ExactResume,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparsityMonitor,
    SparsityReport,
)

CALLBACKS = {
    "nothing": list,
    "rigl": lambda: [RigLCallback(0.2, every_n_steps=3)],
    "rigl later": lambda: [RigLCallback(0.2, every_n_steps=4)],
    "verified": lambda: [RigLCallback(0.2, every_n_steps=3, verify=True)],
    "set": lambda: [SETCallback(0.2)],
    "erk": lambda: [PruneAtInit("erk", 0.2)],
    "erk and set": lambda: [PruneAtInit("erk", 0.2), SETCallback()],
    "dctps": lambda: [DCTpSConversion(0.2)],
    "dctps sparser": lambda: [DCTpSConversion(0.1)],
    "monitor": lambda: [SparsityMonitor()],
    "report": lambda: [SparsityReport(latency=False)],
    "resume": lambda: [ExactResume()],
    "resume and dctps": lambda: [ExactResume(), DCTpSConversion(0.2)],
    "dctps and resume": lambda: [DCTpSConversion(0.2), ExactResume()],
}


def main() -> None:
    rank = int(os.environ["LOCAL_RANK"])
    pl.seed_everything(rank, verbose=False)
    started = time.monotonic()
    trainer = pl.Trainer(
        callbacks=CALLBACKS[sys.argv[1 + rank]](),
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(Toy(), loader())
    except Exception as error:
        print(f"\nrank {rank} | {time.monotonic() - started:.1f} | {error}", flush=True)
        os._exit(1)  # the other rank, or what it has started, may wait for ever
    print(f"\nrank {rank} | {time.monotonic() - started:.1f} | fitted", flush=True)


if __name__ == "__main__":
    main()
