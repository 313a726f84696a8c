"""Trains the toy net in a process of its own; the tests of resuming and of several processes run it.

Every rank leaves its weights, masks and optimizer state in ``<out>/rank<r>.pt``.
"""

import argparse
import math
import os
import signal
import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy import HoldsMasks, Rotate, Toy, loader, masks_of

from lightning_sparse import (
    FORCE,
    SNIP,
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    GradualMagnitudePruning,
    GraSP,
    HyperplaneProjection,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparseFineTuning,
    SynFlow,
)
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.state import state_of

ROWS = {
    "fixed": lambda: [PruneAtInit("magnitude", 0.2, verify=True)],
    "random": lambda: [PruneAtInit("random", 0.2, verify=True)],
    "snip": lambda: [PruneAtInit(SNIP(2), 0.2, verify=True)],
    "grasp": lambda: [PruneAtInit(GraSP(2), 0.2, verify=True)],
    "force": lambda: [PruneAtInit(FORCE(4, 3), 0.2, verify=True)],
    "synflow": lambda: [PruneAtInit(SynFlow(5), 0.2, verify=True)],
    "moving": lambda: [PruneAtInit("magnitude", 0.2), Rotate(0.2, verify=True)],
    "rigl": lambda: [RigLCallback(0.2, every_n_steps=3, stop_at=100, grad_average=2, verify=True)],
    "set": lambda: [SETCallback(0.2, every_n_steps=3, stop_at=100, verify=True)],
    "1:4": lambda: [
        PruneAtInit("magnitude", pattern="1:4"),
        RigLCallback(pattern="1:4", every_n_steps=3, stop_at=100, grad_average=2, verify=True),
    ],
    "asni": lambda: [ASNISigmoidPruner(density=0.2, search_epochs=2, verify=True)],
    "imp": lambda: [
        IterativeMagnitudePruning(0.2, rounds=1, epochs_per_round=2, rewind_to_step=3, verify=True)
    ],
    "gradual": lambda: [GradualMagnitudePruning(0.2, start=1, stop=21, every_n_steps=3, verify=True)],
    "dctps-rigl": lambda: [DCTpSConversion(0.2), RigLCallback(every_n_steps=3, stop_at=100, grad_average=2)],
    "compact": lambda: [PruneAtInit("magnitude", 0.2, storage="compact")],
    "compact-random": lambda: [PruneAtInit("random", 0.2, storage="compact")],
    "compact-force": lambda: [PruneAtInit(FORCE(4, 3), 0.2, storage="compact")],
    "compact-rigl": lambda: [
        RigLCallback(0.2, every_n_steps=3, stop_at=100, grad_average=2, storage="compact")
    ],
    "compact-set": lambda: [SETCallback(0.2, every_n_steps=3, stop_at=100, storage="compact")],
    "compact-force-rigl": lambda: [
        PruneAtInit(FORCE(4, 3), 0.2, storage="compact"),
        RigLCallback(every_n_steps=3, stop_at=100, grad_average=2),
    ],
    "hyperplane": lambda: [HyperplaneProjection(30)],
    "kept": lambda: [PruneAtInit("magnitude", 0.2, communication="kept", verify=True)],
    "rigl-kept": lambda: [
        RigLCallback(0.2, every_n_steps=3, stop_at=100, grad_average=2, communication="kept", verify=True)
    ],
    "unverified": lambda: [PruneAtInit("magnitude", 0.2)],
    "dctps": lambda: [DCTpSConversion(0.2)],
    "dctps-twice": lambda: [DCTpSConversion(0.4)],
    "tuned": lambda: [SparseFineTuning(0.2, train=["*.bias"])],
    "tuned-gradient": lambda: [SparseFineTuning(0.2, "gradient", train=["net.4"])],
    "tuned-rigl": lambda: [
        SparseFineTuning(0.2, "magnitude"),
        RigLCallback(every_n_steps=3, stop_at=100, grad_average=2),
    ],
}
MASKED = [row for row in ROWS if not row.startswith(("unverified", "dctps", "tuned", "hyperplane"))]


class Net(Toy):
    """No batch norm: a batch on two processes is the joint batch."""

    def __init__(self, dropout):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Dropout(dropout), nn.Linear(40, 4)
        )


class AtStep(pl.Callback):
    """Does one thing on one rank before a step."""

    def __init__(self, step, rank, action):
        self.step, self.rank, self.action = step, rank, action

    def on_train_batch_start(self, trainer, pl_module, *_):
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            self.action(pl_module)


def wait(_):
    """Say so, and give somebody the time to do something to the network."""
    print("waiting")
    time.sleep(0.5)


def kill(_):
    os.kill(os.getpid(), signal.SIGKILL)


def flip(module):
    keep = state_of(module)._keep["net.4.weight"].view(-1)
    keep[7] = 1 - keep[7]


def write(module):
    """Change a trained number by a little."""
    with torch.no_grad():
        next(p for name, p in module.named_parameters() if name.endswith("4.bias"))[0] += 1e-3


class SameOnAllRanks(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        for name, weight in sparse_weights(pl_module).items():
            every = trainer.strategy.all_gather(weight.mask.to(torch.uint8)).view(trainer.world_size, -1)
            assert (every == every[0]).all(), name


class CountsBytes(pl.Callback):
    """Counts what a step sends to other processes, the collectives that PyTorch starts itself included."""

    def on_train_batch_start(self, trainer, pl_module, *_):
        if trainer.global_step == 2:  # DDP rearranges its buckets after the first
            self.profiler = torch.profiler.profile(record_shapes=True)
            self.profiler.start()

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 3:
            self.profiler.stop()
            sent = [event for event in self.profiler.events() if event.name.startswith("gloo:")]
            self.sent = [[event.name, math.prod(shape)] for event in sent for shape in event.input_shapes]


def rank_of_process():
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--row", default="fixed", choices=ROWS)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=1, help="among which these are")
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--stateful", action="store_true")
    parser.add_argument("--own-sampler", action="store_true", help="without shuffling: samples r, r + R, ...")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rank-seeds", action="store_true")
    parser.add_argument("--save-every", type=int)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--test-only", action="store_true")
    parser.add_argument("--kill-at", type=int, nargs=2, metavar=("STEP", "RANK"))
    parser.add_argument("--wait-at", type=int, nargs=2, metavar=("STEP", "RANK"))
    parser.add_argument("--flip-at", type=int, nargs=2, metavar=("STEP", "RANK"))
    parser.add_argument("--write-at", type=int, nargs=2, metavar=("STEP", "RANK"))
    parser.add_argument("--resume-rank-1", type=Path, help="another checkpoint than that of rank 0")
    parser.add_argument("--count-bytes", action="store_true")
    return parser.parse_args()


def data(options):
    kind = DataLoader
    if options.stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader as kind
    dataset = loader(64 // options.batch_size, options.batch_size).dataset
    order = {"shuffle": options.shuffle}
    if options.own_sampler and options.processes > 1:
        rank = rank_of_process()
        order = {"sampler": DistributedSampler(dataset, options.processes, rank, options.shuffle)}
    return kind(dataset, options.batch_size, num_workers=options.workers, **order)


def main():
    options = parse()
    rank = rank_of_process()
    pl.seed_everything(options.seed + (rank if options.rank_seeds else 0), workers=True)
    module = Net(options.dropout)
    checkpoint = ModelCheckpoint(options.out, save_last=True, every_n_train_steps=options.save_every)
    checks = [HoldsMasks(), SameOnAllRanks()] if options.row in MASKED else []
    extra = [AtStep(*options.kill_at, kill)] if options.kill_at else []
    extra += [AtStep(*options.wait_at, wait)] if options.wait_at else []
    extra += [AtStep(*options.flip_at, flip)] if options.flip_at else []
    extra += [AtStep(*options.write_at, write)] if options.write_at else []
    counts = CountsBytes()
    extra += [counts] if options.count_bytes else []
    trainer = pl.Trainer(
        callbacks=[*ROWS[options.row](), ExactResume(), checkpoint, *checks, *extra],
        accelerator="cpu",
        devices=options.processes // options.hosts,
        num_nodes=options.hosts,
        strategy=options.strategy if options.processes > 1 else "auto",
        max_epochs=options.epochs,
        use_distributed_sampler=not options.own_sampler,
        logger=False,
        enable_progress_bar=False,
        default_root_dir=options.out,
    )
    if options.test_only:
        metrics = trainer.test(module, loader(2), ckpt_path=options.resume)
        torch.save(metrics, options.out / "metrics.pt")
        return
    other = options.resume_rank_1 if rank == 1 else None
    trainer.fit(module, data(options), loader(2), ckpt_path=other or options.resume)
    result = {
        "metrics": trainer.test(module, loader(2)) if options.processes == 1 else [],
        "weights": module.state_dict(),
        "masks": masks_of(module),
        "optimizer": trainer.optimizers[0].state_dict() if trainer.optimizers else {},
        "generator": torch.get_rng_state(),
        "sent": getattr(counts, "sent", []),
    }
    torch.save(result, options.out / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
