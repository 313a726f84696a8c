"""Trains a small net whose weights are split over processes; the tests of sharded weights run it.

Rank 0 leaves weights, masks and what was logged in ``<out>/result.pt``, all of them whole.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

import lightning_sparse as ls
from lightning_sparse.files.masks import save_masks
from lightning_sparse.weights.shards import here, whole

MOVES = {"every_n_steps": 10, "stop_at": 1000}
ROWS = {
    "dense": lambda _: [],
    "random": lambda _: [ls.PruneAtInit("random", 0.2, seed=3)],
    "erk": lambda _: [ls.PruneAtInit("erk", 0.2, density_overrides={"net.4": 0.5}, verify=True)],
    "magnitude": lambda _: [ls.PruneAtInit("magnitude", 0.2)],
    "by layer": lambda _: [ls.PruneAtInit(ls.Magnitude("uniform"), 0.2)],
    "snip": lambda _: [ls.PruneAtInit(ls.SNIP(2), 0.2)],
    "gradient": lambda _: [ls.PruneAtInit("gradient", 0.2)],
    "file": lambda out: [ls.PruneAtInit(ls.FromFile(out / "masks.pt"))],
    "rigl": lambda _: [ls.RigLCallback(0.2, verify=True, **MOVES)],
    "snip and rigl": lambda _: [
        ls.PruneAtInit("snip", 0.2),
        ls.RigLCallback(skip_step_on_update=False, **MOVES),
        ls.SparsityMonitor(),
    ],
}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)


class Net(pl.LightningModule):
    """Rows that two processes do not share alike: 33, and a single one; some of the weights tie at zero."""

    def __init__(self, sharded, how="rows", optimizer=sgd, dropout=0.0, width=33):
        super().__init__()
        self.sharded, self.how, self.make_optimizer = sharded, how, optimizer
        self.dropout, self.width = dropout, width
        self.net = None

    def configure_model(self):
        if self.net is not None:
            return
        with torch.device("meta" if self.how == "meta" else "cpu"):
            self.net = nn.Sequential(
                nn.Linear(12, self.width),
                nn.ReLU(),
                nn.Linear(self.width, 16),
                nn.Dropout(self.dropout),
                nn.Linear(16, 1, bias=self.how != "no bias"),
            )
        if self.how != "meta":
            with torch.no_grad():
                self.net[2].weight[3:9] = 0
                self.net[0].weight[:, 5] = 0.25
        if self.sharded:
            self.shard(self.device_mesh["data_parallel"])

    def shard(self, mesh):
        if self.how != "root alone":
            for layer in (self.net[0], self.net[2], self.net[4]):
                fully_shard(layer, mesh=mesh)
        fully_shard(self.net, mesh=mesh)

    def training_step(self, batch, _):
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]), sync_dist=True)

    test_step = validation_step

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


class KillAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class StaysSparse(pl.Callback):
    """Looks at all weights, whole ones of a forward too, whenever the module looks at them."""

    def __init__(self, counts=None):
        self.counts = []

    def on_train_batch_end(self, trainer, module, *_):
        masks = ls.masks_of(module)
        for name, parameter in module.named_parameters():
            if name in masks:
                pruned = whole(parameter.detach())[~masks[name]]
                assert not pruned.any(), f"{name} is not sparse after step {trainer.global_step}"
                state = trainer.optimizers[0].state.get(parameter, {})
                for value in (value for value in state.values() if here(value).ndim):
                    assert not whole(value)[~masks[name]].any(), name


def data(options):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(160, 12, generator=draws)
    y = (x[:, :3].sum(1, keepdim=True) + x[:, 3:6].prod(1, keepdim=True)).tanh()
    dataset, rank = TensorDataset(x, y), int(os.environ.get("LOCAL_RANK", 0))
    size = 16 // options.processes
    if options.shuffle:
        return DataLoader(dataset, size, shuffle=True)
    order = {"sampler": DistributedSampler(dataset, options.processes, rank, shuffle=False)}
    return DataLoader(dataset, size, **(order if options.processes > 1 else {}))


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--row", default="erk", choices=ROWS)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--how", default="rows")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--adamw", action="store_true")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--clip", type=float)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--one-file", action="store_true")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--save-every", type=int)
    return parser.parse_args()


def main():
    options = parse()
    pl.seed_everything(7, workers=True)
    module = Net(options.sharded, options.how, adamw if options.adamw else sgd, options.dropout)
    strategy = ModelParallelStrategy(
        data_parallel_size=options.processes,
        tensor_parallel_size=1,
        save_distributed_checkpoint=not options.one_file,
    )
    saves = ModelCheckpoint(options.out, save_last=True, every_n_train_steps=options.save_every)
    trainer = pl.Trainer(
        callbacks=[
            *ROWS[options.row](options.out),
            StaysSparse(),
            *([ls.ExactResume(), saves] if options.save_every else []),
            *([KillAt(options.kill_at)] if options.kill_at else []),
        ],
        accelerator="cpu",
        devices=options.processes,
        strategy=strategy if options.sharded else "auto",
        max_steps=options.steps,
        max_epochs=-1,
        use_distributed_sampler=options.shuffle,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.clip,
        precision=options.precision,
        logger=False,
        enable_checkpointing=bool(options.save_every),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=options.out,
    )
    validation = DataLoader(data(options).dataset, 32)
    trainer.fit(module, data(options), validation, ckpt_path=options.resume)
    result = {
        "weights": {name: whole(value.detach()).clone() for name, value in module.named_parameters()},
        "masks": ls.masks_of(module),
        "metrics": {name: value.item() for name, value in trainer.callback_metrics.items()},
    }
    save_masks(module, options.out / "saved.pt") if options.row != "dense" else None
    if trainer.is_global_zero:
        torch.save(result, options.out / "result.pt")


if __name__ == "__main__":
    main()
