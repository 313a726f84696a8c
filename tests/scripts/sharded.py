"""Trains a small net whose weights are split over processes; the tests of sharded weights run it.

Several fits, one after the other. Rank 0 leaves weights, masks and what was logged in
``<out>/<case>/result.pt``, all of them whole.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

import lightning_sparse as ls
from lightning_sparse.weights.shards import whole

MOVES = {"every_n_steps": 8, "stop_at": 1000}


class Case(NamedTuple):
    """A fit: which callbacks, and what is unusual about it."""

    make: Callable[[Path], list[Any]]
    how: str = "rows"
    optimizer: str = "sgd"
    accumulate: int = 1
    clip: float | None = None
    by: str = "norm"
    precision: str = "32-true"
    dropout: float = 0.0
    shuffle: bool = False
    one_file: bool = False
    steps: int = 12


def snip_then_rigl(_):
    moves = ls.RigLCallback(skip_step_on_update=False, verify=True, **MOVES)
    return [ls.PruneAtInit(ls.SNIP(2), 0.2), moves, ls.SparsityMonitor()]


def rigl(_):
    return [ls.RigLCallback(0.2, verify=True, **MOVES)]


def erk(_):
    return [ls.PruneAtInit("erk", 0.2, density_overrides={"net.4": 0.5}, verify=True)]


CASES = {
    "monitored": Case(lambda _: [ls.SparsityMonitor()], steps=4),
    "random": Case(lambda _: [ls.PruneAtInit("random", 0.2, seed=3)], steps=4),
    "erk": Case(erk, steps=4),
    "magnitude": Case(lambda _: [ls.PruneAtInit("magnitude", 0.2)], clip=0.01, by="value"),
    "file": Case(lambda out: [ls.PruneAtInit(ls.FromFile(out.parent / "masks.pt"))], steps=4),
    "snip and rigl": Case(snip_then_rigl, how="root alone", steps=100),
    "adamw": Case(rigl, optimizer="adamw", accumulate=2, clip=0.05),
    "replicated": Case(rigl, how="replicated"),
    "meta in bf16": Case(erk, how="meta", precision="bf16-mixed", steps=4),
    "by one process": Case(rigl, one_file=True, steps=24),
    "exactly": Case(snip_then_rigl, optimizer="adamw", dropout=0.5, shuffle=True, steps=24),
}


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, eps=1e-3, weight_decay=0.1),
}


class Net(pl.LightningModule):
    """Rows that two processes do not share alike: 33, and a single one; some of the weights tie at zero."""

    def __init__(self, sharded, case, width=33):
        super().__init__()
        self.sharded, self.case, self.how, self.width = sharded, case, case.how, width
        self.net = None

    def configure_model(self):
        if self.net is not None:
            return
        with torch.device("meta" if self.how == "meta" else "cpu"):
            self.net = nn.Sequential(
                nn.Linear(12, self.width),
                nn.ReLU(),
                nn.Linear(self.width, 16),
                nn.Dropout(self.case.dropout),
                nn.Linear(16, 1),
            )
        if self.how != "meta":
            with torch.no_grad():
                self.net[2].weight[3:9] = 0
                self.net[0].weight[:, 5] = 0.25
        if self.sharded:
            mesh = self.device_mesh["data_parallel"]
            if self.how == "replicated":
                names = ("replicated", "split")
                mesh = init_device_mesh("cpu", (2, 1) if mesh.size() == 2 else (1, 1), mesh_dim_names=names)
            self.shard(mesh)

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
        return OPTIMIZERS[self.case.optimizer](self.parameters())


class KillAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class StaysSparse(pl.Callback):
    """Looks at all of the weights, and at what the optimizer keeps, every ten steps and after the fourth."""

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step % 10 and trainer.global_step != 4:
            return
        masks = ls.masks_of(module)
        for name, parameter in module.named_parameters():
            if name in masks:
                pruned = ~masks[name]
                assert not whole(parameter.detach())[pruned].any(), (name, trainer.global_step)
                state = trainer.optimizers[0].state.get(parameter, {})
                for value in (value for value in state.values() if value.ndim):
                    assert not whole(value)[pruned].any(), (name, trainer.global_step)


class Forwards(pl.Callback):
    """Counts what the first layer multiplies with in the first training step: that must be sparse, too."""

    first = None

    def on_train_batch_start(self, trainer, module, *_):
        if trainer.global_step == 0:
            self.handle = module.net[0].register_forward_hook(self.note)

    def note(self, layer, *_):
        self.first = int(layer.weight.detach().count_nonzero())
        self.handle.remove()


def trained_on():
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(160, 12, generator=draws)
    y = (x[:, :3].sum(1, keepdim=True) + x[:, 3:6].prod(1, keepdim=True)).tanh()
    return TensorDataset(x, y)


def data(options, case):
    dataset, rank = trained_on(), int(os.environ.get("LOCAL_RANK", 0))
    size = 16 // options.processes
    if case.shuffle:
        return DataLoader(dataset, size, shuffle=True)
    order = {"sampler": DistributedSampler(dataset, options.processes, rank, shuffle=False)}
    return DataLoader(dataset, size, **(order if options.processes > 1 else {}))


def fit(options, name):
    case, out = CASES[name], options.out / name.replace(" ", "-")
    out.mkdir(exist_ok=True)
    pl.seed_everything(7, workers=True)
    module = Net(options.sharded, case)
    strategy = ModelParallelStrategy(
        data_parallel_size=options.processes,
        tensor_parallel_size=1,
        save_distributed_checkpoint=not case.one_file,
    )
    saves = ModelCheckpoint(out, save_last=True, every_n_train_steps=options.save_every)
    forwards = Forwards()
    trainer = pl.Trainer(
        callbacks=[
            *case.make(out),
            StaysSparse(),
            forwards,
            *([ls.ExactResume()] if case.shuffle else []),
            *([saves] if options.save_every else []),
            *([KillAt(options.kill_at)] if options.kill_at and name == options.cases[-1] else []),
        ],
        accelerator="cpu",
        devices=options.processes,
        strategy=strategy if options.sharded else "auto",
        max_steps=min(case.steps, options.kill_at or case.steps) if name != options.cases[-1] else case.steps,
        max_epochs=-1,
        use_distributed_sampler=case.shuffle,
        accumulate_grad_batches=case.accumulate,
        gradient_clip_val=case.clip,
        gradient_clip_algorithm=case.by if case.clip else None,
        precision=case.precision,
        logger=False,
        enable_checkpointing=bool(options.save_every),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
    )
    loader, whole_data = data(options, case), DataLoader(trained_on(), 160)
    last = options.resume / out.name / "last.ckpt" if options.resume else None
    trainer.fit(module, loader, whole_data, ckpt_path=last)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    result = {
        "weights": {name: whole(value.detach()).clone() for name, value in module.named_parameters()},
        "masks": ls.masks_of(module),
        "metrics": metrics,
        "tested": trainer.test(module, whole_data, verbose=False),
        "first forward": forwards.first,
    }
    if result["masks"]:
        ls.save_masks(module, out / "saved.pt")
    if trainer.is_global_zero:
        torch.save(result, out / "result.pt")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--kill-at", type=int, help="the last of the cases; others stop there")
    parser.add_argument("--resume", type=Path, help="a folder with checkpoints of these cases")
    parser.add_argument("--save-every", type=int)
    options = parser.parse_args()
    for name in options.cases:
        fit(options, name)


if __name__ == "__main__":
    main()
